"""Rollback: restore the last checkpoint before the forget records, and replay the schedule without them."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from unlearn.training.checkpoints import keep_checkpoints, open_work
from unlearn.training.log import LOG_NAME, TrainingLog, filtered_lines, write_log
from unlearn.training.method import Context, Cost, Outcome, Rebuild
from unlearn.training.options import TrainingOptions, TrainingResult
from verify.data.encoding import Encoded
from verify.data.identity import RecordKey
from verify.errors import InputError, RunError
from verify.io.arguments import checked
from verify.io.files import MANIFEST, read_json, verify_manifest
from verify.models.adapter_types import is_adapter
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel
from verify.provenance.training_log import Boundary, Stretch
from verify.training.adapters import attach_adapter
from verify.training.checkpoints import Checkpoint
from verify.training.replay import Replayed, entries_of, first_step_with, replay, windows_of_log
from verify.training.software import software


@checked
@dataclass(frozen=True)
class Rollback(Rebuild):
    """Replay the logged schedule, without the forget records, from the last checkpoint before the first of them.

        theta = replay(checkpoint before t*, log without D_f),  t* = first step that saw a record of D_f

    Every later microbatch keeps its order, random seed and learning rate. The result has a log and checkpoints of its own, so that
    the next deletion can roll back again. Thudi et al. 2022 (arXiv 2109.13398) and Wu et al. 2020 (DeltaGrad) undo training
    approximately; here every step is taken again, so that nothing is approximated.

    Do not expect it to be cheap for records seen early: with shuffled epochs nearly every record is seen in the first epoch. Only
    records seen late are cheap: a single epoch over much data, or new data added by a further `unlearn train`.

    Attributes:
        check: first replay the complete schedule from the same checkpoint and compare with the model's own weights, to show that
            this machine and software reproduce the training bit by bit. Doubles the cost and holds a second copy of the weights.
    """

    check: bool = False

    idea: ClassVar[str] = "back to the last checkpoint before the records, then the logged schedule without them"
    paper: ClassVar[str] = "exact replay; compare Thudi et al. 2022 (arXiv 2109.13398)"
    cost: ClassVar[Cost] = "a share of a retraining"
    used_options: ClassVar[frozenset[str] | None] = frozenset()
    needs_base = False
    exactness: ClassVar[str] = (
        "The weights are, bit by bit, those that the logged schedule gives on this machine with the forget records filtered out of "
        "every microbatch; not those of a fresh shuffle. A record that the base model was pre-trained on stays in the base model."
    )

    def rebuild(self, context: Context) -> Outcome:
        """Replay the schedule in place.

        Raises:
            InputError: there is no training log, no starting point, or a retained record is missing.
            RunError: `check` is set and the machine does not reproduce the training.
        """
        log, folder, key = _log_of(context), context.model_dir, RecordKey.load()
        assert folder is not None
        removed = entries_of(context.forget, log, key)
        windows = windows_of_log(log, [*context.retain, *context.forget], context.loaded, key, frozenset())
        first = first_step_with(log, removed)
        start = _last_clean(folder, log, first)
        model, tokenizer = _starting_model(context, log, start), context.loaded.tokenizer
        if self.check:
            _require_reproducible(model, tokenizer, log, windows, context.work_dir / "check", start)
        fingerprints = [record.fingerprint for record in context.forget]
        open_work(context.work_dir / "replay", "rollback", context.options, fingerprints, log.final_weights or "")
        kept = {index: window for index, window in windows.items() if index not in removed}
        done = replay(model, tokenizer, log, kept, context.work_dir / "replay", start=start)
        digest = weights_digest(model)
        states = _states(context.work_dir / "replay", log, start)
        made, *resumed = _stretches(context.work_dir / "replay", log, start, software(next(model.parameters()).device))
        checkpoints = _keep_checkpoints(context, folder, log, start)
        lines = filtered_lines(log, removed, made.execution)
        write_log(lines, checkpoints, digest, context.output_dir / LOG_NAME, states, resumed)
        # Counted from the schedule: an interrupted replay did a part of it in another process.
        again = _tokens(log, kept, 0 if start is None else start.step)
        training = TrainingResult(done.steps, done.steps / max(1, _steps(log)), None, again, done.seconds)
        facts = _facts(done, start, first, folder, self.check)
        return Outcome(model, training, {**facts, "share_of_retraining_tokens": again / max(1, _tokens(log, kept, 0))})


def _log_of(context: Context) -> TrainingLog:
    path = None if context.model_dir is None else context.model_dir / LOG_NAME
    if path is None or not path.is_file():
        raise InputError(
            "rollback needs the training log and checkpoints that `unlearn train --save-steps N` writes beside the model. "
            "Give the model's folder, or use retrain."
        )
    return TrainingLog.read(path)


def _steps(log: TrainingLog) -> int:
    """Return the number of optimizer steps of the logged schedule."""
    return max((entry.step for entry in log.microbatches), default=0)


def _tokens(log: TrainingLog, windows: Mapping[int, Encoded], after: int) -> int:
    """Count the tokens that the remaining records contribute to the steps later than `after`."""
    left = (index for entry in log.microbatches if entry.step > after for index in entry.records if index in windows)
    return sum(len(windows[index].input_ids) for index in left)


def _last_clean(folder: Path, log: TrainingLog, first: int | None) -> Checkpoint | None:
    """Return the last complete checkpoint before the first step that saw a forget record."""
    clean = [(step, name) for step, name in log.checkpoints if (folder / name).is_dir() and (first is None or step < first)]
    for step, name in sorted(clean, reverse=True):
        verify_manifest(folder / name, "checkpoint")
        return Checkpoint(folder / name, step)
    return None


def _starting_model(context: Context, log: TrainingLog, start: Checkpoint | None) -> Any:
    """Prepare the model to replay in, with the weights of the checkpoint, or of the base where there is none.

    Raises:
        InputError: neither a clean checkpoint nor the base is available.
    """
    lora = bool(log.options.get("lora"))
    options = TrainingOptions(**log.options)
    if context.base is not None:
        _require_start(context.base, log)
        return attach_adapter(context.base.model, options)
    loaded = context.loaded.model
    if lora and is_adapter(loaded):
        below = loaded.unload()
        _require_start(dataclasses.replace(context.loaded, model=below), log)
        return attach_adapter(below, options)
    if not lora and start is not None:
        return loaded  # its weights are overwritten by the checkpoint's
    raise InputError(
        "no checkpoint from before the first forget record is left, so the replay starts from the base model. Give it with "
        "--base DIR (and train with --save-steps N next time)."
    )


def _require_start(base: LoadedModel, log: TrainingLog) -> None:
    if weights_digest(base.model) != log.start_weights:
        raise InputError(f"{base.name} is not the model that the logged training started from. Give that one with --base DIR.")


def _require_reproducible(
    model: Any, tokenizer: Any, log: TrainingLog, windows: Mapping[int, Encoded], work_dir: Path, start: Checkpoint | None
) -> None:
    """Check that a replay with nothing left out reproduces the training, and restore the weights."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replay(model, tokenizer, log, windows, work_dir, start=start)
    shutil.rmtree(work_dir, ignore_errors=True)
    reached = weights_digest(model)
    model.load_state_dict(before)
    if reached != log.final_weights:
        raise RunError(
            "replaying the whole schedule does not reproduce the model's own weights: this machine has other software, hardware or "
            "number of threads. Without --check the result still never saw the records, but compare it with retrain."
        )


def _states(work_dir: Path, log: TrainingLog, start: Checkpoint | None) -> dict[int, Boundary]:
    """Collect the digests of the states at the checkpoints: the old log's up to the start, and those of the replay."""
    found = {one.step: one for one in log.boundaries if one.optimizer is not None and start is not None and one.step <= start.step}
    for folder in work_dir.glob("checkpoint-*"):
        about = verify_manifest(folder, "checkpoint")["about"]
        if isinstance(about.get("state"), dict):  # absent where a replay of an earlier version is resumed
            found[int(about["step"])] = Boundary(int(about["step"]), **about["state"])
    return found


def _stretches(work_dir: Path, log: TrainingLog, start: Checkpoint | None, now: Mapping[str, str]) -> list[Stretch]:
    """Say what computed the new log's steps: up to the start what the old log says, then the replay, which was perhaps resumed.

    Args:
        work_dir: the replay's, with its checkpoints.
        log: the old log.
        start: where the replay began.
        now: software and device of this process.
    """
    begin = 0 if start is None else start.step
    found = [one for one in log.stretches if one.after < begin]
    kept = (verify_manifest(folder, "checkpoint")["about"] for folder in work_dir.glob("checkpoint-*"))
    for about in sorted(kept, key=lambda about: int(about["step"])):
        # A replay that is resumed begins at a checkpoint; one of an earlier version does not say what made it.
        found.append(Stretch(begin, about.get("execution") or {}))
        begin = int(about["step"])
    found.append(Stretch(begin, now))
    return [one for number, one in enumerate(found) if number == 0 or one.execution != found[number - 1].execution]


def _keep_checkpoints(context: Context, folder: Path, log: TrainingLog, start: Checkpoint | None) -> list[tuple[int, str]]:
    """Collect the new model's checkpoints: the old model's clean ones, and those of the replay."""
    kept, stated = [], {one.step for one in log.boundaries if one.optimizer is not None}
    for step, name in log.checkpoints:
        made = context.work_dir / "replay" / f"checkpoint-{step}"
        if start is not None and step <= start.step and ((folder / name).is_dir() or step in stated):
            # A state that is no longer kept stays in the log by its digest.
            if (folder / name).is_dir():
                shutil.copytree(folder / name, context.output_dir / name, dirs_exist_ok=True)
            kept.append((step, name))
        elif made.is_dir():
            kept.append((step, made.name))
    keep_checkpoints(context.work_dir / "replay", context.output_dir)
    return kept


def _facts(done: Replayed, start: Checkpoint | None, first: int | None, folder: Path, checked: bool) -> dict[str, Any]:
    trained = read_json(folder / MANIFEST).get("about", {}).get("training") if (folder / MANIFEST).exists() else None
    seconds = None if not trained else float(trained["seconds"])
    return {
        "first_step_with_a_forget_record": first,
        "replayed_from_step": 0 if start is None else start.step,
        "steps_skipped": done.skipped,
        "share_of_training_seconds": done.seconds / seconds if seconds else None,
        "machine_reproduces_the_training": True if checked else None,
    }
