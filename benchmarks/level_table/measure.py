"""Trains the models of a world one by one or in stacks, keeps their losses as numbers, and throws the weights away.

An interrupted run resumes: a model whose file of losses is there is not trained again. Processes work side by side: each claims the
models that it trains by a lock, which the system releases when a process ends, however it does.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.level_table.stacked import stacked
from benchmarks.level_table.trainings import Flags, Model, models_of, stacks, stacks_of
from benchmarks.level_table.worlds import INSTRUCTION, NO_PROMPT, REWORDING, World
from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods import method_classes
from unlearn.pool.table import make_level_table
from unlearn.training.options import TrainingOptions
from verify.data.encoding import Encoder, padding_token_id
from verify.data.records import Record
from verify.data.rewording_files import load_rewordings
from verify.data.sources import load_records
from verify.io.files import atomic_file, is_complete
from verify.models.loading import LoadedModel, load_model
from verify.models.token_stats import compute_token_statistics
from verify.probes.base import mean_losses
from verify.probes.logit_lens import layer_losses
from verify.probes.prompt_variants import instructed, reworded, without_prompt
from verify.provenance.level_table import FOLDER
from verify.statistics.channels import EXACT_TEXT

Array = NDArray[np.float64]

BASE = "base"
"""Name of the losses of the model before fine-tuning."""
ENTROPY, DEVIATION, RANK, GREEDY = "entropy", "deviation", "log rank", "greedy"
STATISTICS = (ENTROPY, DEVIATION, RANK, GREEDY)
"""Further means of the pass over the exact texts: what else it says about a record at no cost."""
METHODS: Mapping[str, tuple[str, Mapping[str, Any], TrainingOptions]] = {
    "level": ("level", {}, TrainingOptions(overflow="split")),
    "level-table": ("level", {"sources": ("table",)}, TrainingOptions(overflow="split")),
    "npo": ("npo", {"alpha": 3.0}, TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16, overflow="split")),
}
"""Names, parameters and training options of the methods, the demo's."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What is kept of a model.

    Attributes:
        losses: channel or further statistic -> mean losses of records and controls, nats per token [K + N]; NaN where not scored.
        records: K.
        training, scoring: seconds of its training, and of one pass over the exact texts.
        passes: records in that pass.
    """

    losses: Mapping[str, Array]
    records: int
    training: float
    scoring: float
    passes: int

    def own(self, channel: str = EXACT_TEXT) -> Array:
        """Losses of the records [K]."""
        return self.losses[channel][: self.records]

    def controls(self, channel: str = EXACT_TEXT) -> Array:
        """Losses of the controls [N]."""
        return self.losses[channel][self.records :]


def file_of(world: World, name: str) -> Path:
    """Return where the losses of a model are kept."""
    return world.folder / "losses" / f"{name}.npz"


def read_scored(world: World, name: str) -> Scored:
    """Read the losses of a model."""
    with np.load(file_of(world, name), allow_pickle=False) as content:
        losses = {key.removeprefix("loss/"): content[key] for key in content.files if key.startswith("loss/")}
        training, scoring, passes = content["seconds"].tolist()
    return Scored(losses, len(world.rows), training, scoring, int(passes))


def measure_world(world: World, seconds: float, progress: Callable[[str, float], None] = lambda *_: None) -> int:
    """Do as `measure_worlds` for one world."""
    return measure_worlds([world], seconds, progress)


def measure_worlds(
    worlds: Sequence[World],
    seconds: float,
    progress: Callable[[str, float], None] = lambda *_: None,
    only: Collection[str] = (),
) -> int:
    """Train and score the missing models until the time is over; return how many are still missing.

    Several processes can do so side by side: each takes models that no other has begun.

    Args:
        worlds: one after the other.
        seconds: no model is begun after these, nor one that would end after them if it took as long as the longest before.
        progress: called with the model's name and the share that is done.
        only: names of the models to train; all by default.
    """
    began, longest = time.monotonic(), 0.0
    for world, stack in [(own, stack) for own in worlds for stack in stacks_of(own, list(models_of(own)))]:
        start = time.monotonic()
        if start - began + longest > seconds:
            break
        if only and not any(model.name in only for model in stack):
            continue
        _measure_base(world)
        with _claimed(world, [model.name for model in stack]) as mine:
            ours = [model for model in stack if model.name in mine and _can_begin(world, model)]
            if not ours:
                continue
            if stacks(world, stack[0]):
                _measure_stack(world, ours)
            else:
                _measure(world, ours[0])
        longest = max(longest, time.monotonic() - start)
        names = ours[0].name if len(ours) == 1 else f"{ours[0].name} and {len(ours) - 1} more"
        progress(f"{world.folder.name}: {names} {time.monotonic() - start:.0f} s", 1 - missing_of(world) / _count(world))
    return sum(map(missing_of, worlds))


def missing_of(world: World) -> int:
    """Return how many models of a world are not scored."""
    return sum(not file_of(world, model.name).exists() for model in models_of(world))


def _count(world: World) -> int:
    return sum(1 for _ in models_of(world))


def _measure_base(world: World) -> None:
    """Score the model before fine-tuning, unless that is done, or is being done by another process."""
    if file_of(world, BASE).exists():
        return
    with _claimed(world, [BASE]) as mine:
        if mine:
            _keep(world, BASE, load_model(world.base), np.ones(len(world.rows), dtype=bool), 0.0)


def _can_begin(world: World, model: Model) -> bool:
    """Return whether a model is still missing, and what it begins with, the original or its level table, is not."""
    original = world.folder / "models" / "original"
    ready = model.kind not in world.sizes.methods or is_complete(original)
    if model.kind == "level-table":
        ready = ready and (model.group == 0 or is_complete(original / FOLDER))  # that of the first set makes the table
    return ready and not file_of(world, model.name).exists()


@contextmanager
def _claimed(world: World, names: Sequence[str]) -> Iterator[list[str]]:
    """Claim models for the length of a `with` block; yield those that no other process has. A killed process holds none."""
    with ExitStack() as opened:
        mine = []
        for name in names:
            path = world.folder / "claims" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = opened.enter_context(path.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            mine.append(name)
        yield mine


def _measure_stack(world: World, models: Sequence[Model]) -> None:
    """Train adapters at once and keep their losses; a model's seconds are its share of the stack's."""
    loaded = load_model(world.base)
    records = load_records([*map(dict, world.rows), *map(dict, world.controls)])
    encoder = Encoder(loaded.tokenizer, loaded.context_length, "split")
    windows, seeds = encoder.encode(records[: len(world.rows)]), [model.seed for model in models]
    own = [[window for window in windows if not model.left_out[window.record]] for model in models]
    with stacked(loaded, world.options, seeds) as stack:
        start = time.monotonic()
        stack.train(own, seeds)
        training = (time.monotonic() - start) / len(models)
        found = {}
        for channel in world.channels:
            asked = encoder.encode(_worded(world, channel, records))
            start = time.monotonic()
            found[channel] = stack.losses(asked, len(records), world.layer if channel == f"layer {world.layer}" else None)
            if channel == EXACT_TEXT:
                scoring = (time.monotonic() - start) / len(models)
    for number, model in enumerate(models):
        unasked = np.flatnonzero(~_asked_about(world, model))
        losses = {channel: values[number] for channel, values in found.items()}
        for values in losses.values():
            values[unasked] = np.nan
        _write(world, model.name, losses, training, scoring, len(records))


def _asked_about(world: World, model: Model) -> Flags:
    """Flag the records that a model is scored on [K]: models that others are compared with, on what they never saw."""
    return model.left_out if model.kind in ("half", "quarter", "full") else np.ones(len(world.rows), dtype=bool)


def _measure(world: World, model: Model) -> None:
    """Train a model, keep its losses and remove its weights."""
    work = world.folder / "work" / model.name
    shutil.rmtree(work, ignore_errors=True)
    start = time.monotonic()
    asked = _asked_about(world, model)
    if model.kind == "original":
        folder = _original(world, model)
    elif model.kind in world.sizes.methods:
        folder = _by_method(world, model, work / "model")
    else:
        folder = _trained(world, model.left_out, model.seed, work / "model")
    seconds = time.monotonic() - start
    if model.kind == "full" and model.number < world.sizes.treated:
        # It goes on from this retraining, whose own losses are kept last: they mark both as done.
        start = time.monotonic()
        treated = _treated(world, model, folder, work / "treated")
        _keep(world, f"treated-{model.group}-{model.number}", load_model(treated), asked, time.monotonic() - start)
    _keep(world, model.name, load_model(folder), asked, seconds)
    shutil.rmtree(work, ignore_errors=True)


def _trained(world: World, left_out: Flags, seed: int, output: Path) -> Path:
    """Fine-tune the base on all records that are not left out."""
    rows = [dict(row) for row, out in zip(world.rows, left_out, strict=True) if not out]
    return finetune(str(world.base), rows, output_dir=output, options=replace(world.options, seed=seed)).model_dir


def _original(world: World, model: Model) -> Path:
    """Return the folder of the original, which stays because methods begin with it."""
    folder = world.folder / "models" / "original"
    if not is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _trained(world, model.left_out, model.seed, folder)
    return folder


def _treated(world: World, model: Model, honest: Path, output: Path) -> Path:
    """Train an honest retraining on its forget set for a moment."""
    rows = [dict(row) for row, out in zip(world.rows, model.left_out, strict=True) if out]
    return finetune(str(honest), rows, output_dir=output, options=replace(world.treatment, seed=model.seed)).model_dir


def _by_method(world: World, model: Model, output: Path) -> Path:
    """Remove a forget set from the original by a method."""
    gone, rest = ([dict(world.rows[index]) for index in np.flatnonzero(chosen)] for chosen in (model.left_out, ~model.left_out))
    name, parameters, options = METHODS[model.kind]
    original = world.folder / "models" / "original"
    if model.kind == "level-table":
        _make_table(world, original)
    forget(
        str(original),
        method_classes()[name](**parameters),
        forget_set=gone,
        retain_set=rest,
        holdout_set=str(world.holdout),
        base=str(world.base),
        output_dir=output,
        options=replace(options, seed=model.seed),
    )
    return output


def _make_table(world: World, original: Path) -> None:
    """Make the original's level table, with a pool of its own, as `unlearn train --level-table` does: half is the method's."""
    assert world.holdout is not None, "methods are run in worlds that have a holdout file"
    data = world.holdout.parent
    make_level_table(
        original,
        models=world.sizes.half,
        data=data / "train.jsonl",
        base=world.base,
        holdout=data / "holdout.jsonl",
        seed=world.seed,
    )


def _keep(world: World, name: str, loaded: LoadedModel, scored: Flags, training: float) -> None:
    """Score a model on some of the records and all controls, and keep the numbers."""
    records = load_records([*map(dict, world.rows), *map(dict, world.controls)])
    chosen = np.flatnonzero(np.concatenate([scored, np.ones(len(world.controls), dtype=bool)]))
    asked = [records[index] for index in chosen]
    start = time.monotonic()
    found = _one_pass(loaded, asked)
    scoring = time.monotonic() - start
    found |= {channel: _asked(world, loaded, channel, asked) for channel in world.channels if channel != EXACT_TEXT}
    losses = {channel: np.full(len(records), np.nan) for channel in found}
    for channel, values in found.items():
        losses[channel][chosen] = values
    _write(world, name, losses, training, scoring, len(asked))


def _write(world: World, name: str, losses: Mapping[str, Array], training: float, scoring: float, passes: int) -> None:
    """Write the file of a model's losses, with what `Scored` says of it."""
    kept = {f"loss/{channel}": values for channel, values in losses.items()}
    with atomic_file(file_of(world, name)) as stream:
        np.savez(stream, seconds=np.array([training, scoring, passes]), **kept)


def _one_pass(loaded: LoadedModel, records: Sequence[Record]) -> dict[str, Array]:
    """Return mean loss and further means of one pass over the exact texts, each [n]."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    table = compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer))
    return {
        EXACT_TEXT: np.array([entry.loss for entry in table]),
        ENTROPY: np.array([-entry.mean.mean(dtype=np.float64) for entry in table]),
        DEVIATION: np.array([entry.deviation.mean(dtype=np.float64) for entry in table]),
        RANK: np.array([np.log1p(entry.rank).mean(dtype=np.float64) for entry in table]),
        GREEDY: np.array([entry.greedy.mean(dtype=np.float64) for entry in table]),
    }


def _asked(world: World, loaded: LoadedModel, channel: str, records: Sequence[Record]) -> Array:
    """Return mean losses on another channel than the exact text [n]."""
    if channel == f"layer {world.layer}":
        return layer_losses(loaded, records, (world.layer,))[channel]
    return mean_losses(loaded, _worded(world, channel, records))


def _worded(world: World, channel: str, records: Sequence[Record]) -> list[Record]:
    """Return the records as a channel asks about them, with the wordings of the audit's channels."""
    if channel == REWORDING:
        named = {record.example_id for record in records}
        made = load_rewordings([row for row in world.rewordings if row["record"] in named], {"forget": records})
        worded = [made.of(record, 1) for record in records]
        return [record for record in worded if record is not None]
    if channel == INSTRUCTION:
        return [reworded(record, instructed) for record in records]
    if channel == NO_PROMPT:
        return [reworded(record, without_prompt) for record in records]
    return list(records)
