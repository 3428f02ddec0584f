"""Trains the models of a world one by one, keeps their losses as numbers, and throws the weights away.

An interrupted run resumes: a model whose file of losses is there is not trained again.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.level_table.trainings import Flags, Model, models_of
from benchmarks.level_table.worlds import INSTRUCTION, NO_PROMPT, REWORDING, World
from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods import method_classes
from unlearn.training.options import TrainingOptions
from verify.data.encoding import Encoder, padding_token_id
from verify.data.records import Record
from verify.data.rewordings import load_rewordings
from verify.data.sources import load_records
from verify.io.files import atomic_file, is_complete
from verify.models.loading import LoadedModel, load_model
from verify.models.token_stats import compute_token_statistics
from verify.probes.base import mean_losses
from verify.probes.logit_lens import layer_losses
from verify.probes.prompt_variants import instructed, reworded, without_prompt
from verify.statistics.channels import EXACT_TEXT

Array = NDArray[np.float64]

BASE = "base"
"""Name of the losses of the model before fine-tuning."""
ENTROPY, DEVIATION, RANK, GREEDY = "entropy", "deviation", "log rank", "greedy"
STATISTICS = (ENTROPY, DEVIATION, RANK, GREEDY)
"""Further means of the pass over the exact texts: what else it says about a record at no cost."""
METHODS: Mapping[str, tuple[Mapping[str, Any], TrainingOptions]] = {
    "level": ({}, TrainingOptions(overflow="split")),
    "npo": ({"alpha": 3.0}, TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16, overflow="split")),
}
"""Parameters and training options of the methods, the demo's."""


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
    """Train and score the missing models until the time is over; return how many are still missing.

    Several processes can do so side by side: each takes models that no other has begun.

    Args:
        world: the world.
        seconds: no model is begun after these, nor one that would end after them if it took as long as the longest before.
        progress: called with the model's name and the share that is done.
    """
    began, longest = time.monotonic(), 0.0
    models = list(models_of(world))

    def missing() -> list[Model]:
        return [model for model in models if not file_of(world, model.name).exists()]

    if not file_of(world, BASE).exists():
        _keep(world, BASE, load_model(world.base), np.ones(len(world.rows), dtype=bool), 0.0)
    for model in missing():
        start = time.monotonic()
        if start - began + longest > seconds:
            break
        with _claimed(world, model.name) as mine:
            if not mine or file_of(world, model.name).exists():
                continue
            _measure(world, model)
        longest = max(longest, time.monotonic() - start)
        progress(f"{model.name} {time.monotonic() - start:.0f} s", 1 - len(missing()) / len(models))
    return len(missing())


@contextmanager
def _claimed(world: World, name: str) -> Iterator[bool]:
    """Claim a model for the length of a `with` block; yield False where another process has it. A killed process holds none."""
    path = world.folder / "claims" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _measure(world: World, model: Model) -> None:
    """Train a model, keep its losses and remove its weights."""
    work = world.folder / "work" / model.name
    shutil.rmtree(work, ignore_errors=True)
    start = time.monotonic()
    asked = model.left_out if model.kind in ("half", "quarter", "full") else np.ones(len(world.rows), dtype=bool)
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
    parameters, options = METHODS[model.kind]
    forget(
        str(world.folder / "models" / "original"),
        method_classes()[model.kind](**parameters),
        forget_set=gone,
        retain_set=rest,
        holdout_set=str(world.holdout),
        base=str(world.base),
        output_dir=output,
        options=replace(options, seed=model.seed),
    )
    return output


def _keep(world: World, name: str, loaded: LoadedModel, scored: Flags, training: float) -> None:
    """Score a model on some of the records and all controls, and keep the numbers."""
    records = load_records([*map(dict, world.rows), *map(dict, world.controls)])
    chosen = np.flatnonzero(np.concatenate([scored, np.ones(len(world.controls), dtype=bool)]))
    asked = [records[index] for index in chosen]
    start = time.monotonic()
    found = _one_pass(loaded, asked)
    scoring = time.monotonic() - start
    found |= {channel: _asked(world, loaded, channel, asked) for channel in world.channels if channel != EXACT_TEXT}
    kept = {}
    for channel, values in found.items():
        kept[f"loss/{channel}"] = np.full(len(records), np.nan)
        kept[f"loss/{channel}"][chosen] = values
    with atomic_file(file_of(world, name)) as stream:
        np.savez(stream, seconds=np.array([training, scoring, len(asked)]), **kept)


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
    """Return mean losses on another channel [n], with the wordings of the audit's channels."""
    if channel == REWORDING:
        named = {record.example_id for record in records}
        made = load_rewordings([row for row in world.rewordings if row["record"] in named], {"forget": records})
        worded = [made.of(record, 1) for record in records]
        return mean_losses(loaded, [record for record in worded if record is not None])
    if channel == INSTRUCTION:
        return mean_losses(loaded, [reworded(record, instructed) for record in records])
    if channel == NO_PROMPT:
        return mean_losses(loaded, [reworded(record, without_prompt) for record in records])
    return layer_losses(loaded, records, (world.layer,))[channel]
