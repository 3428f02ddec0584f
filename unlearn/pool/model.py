"""One model of a pool: trained, scored, and destroyed. A job of its own, which another machine can run."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn.finetuning import load_start, name_by_whole_path
from unlearn.pool.members import Material, read_material
from unlearn.pool.repetition import Repetition
from unlearn.training.checkpoints import WORK
from unlearn.training.options import TrainingOptions
from unlearn.training.run import Run, train_records
from unlearn.training.saving import save_model
from verify.auditing.commitments import find_rewordings
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.rewording_files import content_digest, read_source
from verify.errors import InputError, IntegrityError, RunError
from verify.io.files import read_json, write_json
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model
from verify.provenance.level_table import DESIGN
from verify.provenance.pool_design import require_design, training_seed
from verify.schema.level_table import PoolDesign
from verify.schema.parts import SetRole
from verify.schema.settings import ChannelGroup, Settings
from verify.scores.cache import SealedNumbers
from verify.scores.channels import Channels
from verify.scores.observe import measure
from verify.scores.table import EXACT_TEXT

Array = NDArray[np.float64]

ASKED: tuple[ChannelGroup, ...] = ("rewordings", "instruction", "no-prompt", "layers", "int8", "int4")
"""Ways of asking besides the exact text. Solved examples and relearning depend on the forget set, which is not known yet."""


@dataclass(frozen=True)
class PoolFolder:
    """Files of an unfinished table: `work/model-K/` while a model exists, then its scores."""

    folder: Path

    def weights(self, number: int) -> Path:
        """Return the folder of a model while it exists."""
        return self.folder / WORK / f"model-{number}"

    def scores(self, number: int) -> Path:
        """Return the file of a model's scores: sealed, float64 by channel."""
        return self.folder / WORK / f"model-{number}.scores"

    def facts(self, number: int) -> Path:
        """Return the file of a model's facts, which is written after its scores."""
        return self.folder / WORK / f"model-{number}.json"

    def finished(self, number: int, key: RecordKey) -> dict[str, Array] | None:
        """Return the scores of a finished model by channel, or None."""
        if not self.facts(number).is_file():
            return None
        known = SealedNumbers(self.scores(number), key).known
        wanted = read_json(self.facts(number))["channels"]
        return {name: known[name] for name in wanted} if set(wanted) <= known.keys() else None


def run_model(folder: str, original: str, number: int, how: Repetition, rewordings: str | None) -> None:
    """Train a model of the pool, score every record, write the scores and delete the weights; a finished one is left as it is.

    Args:
        folder: folder of the table, with its design.
        original: folder of the model that the table is for.
        number: number of the model, from 0.
        how: how the original was trained.
        rewordings: file of rewordings or templates, or None.

    Raises:
        InputError: the data is not that of the design, or the base is another one.
        RunError: training became non-finite, the disk is full, or the weights could not be removed.
    """
    pool, key = PoolFolder(Path(folder)), RecordKey.load()
    if pool.finished(number, key) is None:
        design = PoolDesign.load(pool.folder / DESIGN)
        material = read_material(Path(original), how, key)
        trained = require_design(design, material.members)
        chosen = {member.record for member in material.members if member.half is None and trained[member.subject][number]}
        _destroy(pool.weights(number))
        weights, tokens = _train(pool.weights(number), material, chosen, how, training_seed(design, number), key)
        scores, asked = _score(pool.weights(number), material, how, key, rewordings)
        SealedNumbers(pool.scores(number), key).keep(scores)
        facts = {"weights": weights, "seed": training_seed(design, number), "records": len(chosen), "tokens": tokens}
        write_json(pool.facts(number), {**facts, **asked, "channels": list(scores)}, mode=0o600)
    _destroy(pool.weights(number))


def require_start(how: Repetition) -> None:
    """Check that the base is a configuration only where the original's own training started from the same one.

    Its weights are drawn by the seed, so the original's seed must give the weights that the original's log names.

    Raises:
        IntegrityError: it gives other weights.
    """
    if how.from_scratch:
        seed = TrainingOptions(**how.stages[0].options).seed
        if load_start(how.base, how.base_tokenizer, how.dtype, seed, how.quantize).digest != how.start:
            raise IntegrityError(
                f"{how.base} is not what the original's training started from, or this version of torch draws other weights from "
                "its seed. Give the model or configuration that it was trained from, in the environment in which it was trained."
            )


def digest_of_words(rewordings: str, key: RecordKey) -> str:
    """Return the keyed hash of a file of rewordings, as the table's header names it."""
    return key.of(content_digest(read_source(rewordings)), "rewordings")


def require_same_words(pool: PoolFolder, models: int, rewordings: str | None, key: RecordKey) -> None:
    """Check that the models that are finished were asked in the words that the others will be asked in.

    Raises:
        InputError: they were asked in others, or in none.
    """
    words = None if rewordings is None else digest_of_words(rewordings, key)
    finished = [number for number in range(models) if pool.finished(number, key) is not None]
    if any(read_json(pool.facts(number))["wordings"] != words for number in finished):
        raise InputError(
            f"{len(finished)} models of the unfinished table {pool.folder} were asked in other words. Give the same --rewordings "
            "as before, or remove the folder to begin again."
        )


def _train(folder: Path, material: Material, chosen: set[str], how: Repetition, seed: int, key: RecordKey) -> tuple[str, int]:
    """Train on the chosen records, stage by stage, and save the model; return the digest of its weights, and the tokens."""
    loaded, tokens = load_start(how.base, how.base_tokenizer, how.dtype, seed, how.quantize), 0
    if not how.from_scratch and loaded.digest != how.start:
        raise IntegrityError(f"{how.base} is not the model that the original's training started from. Give that one as the model.")
    name_by_whole_path(loaded.model)
    for place, (stage, records) in enumerate(zip(how.stages, material.stages, strict=True)):
        own = [record for record in records if key.of(record.fingerprint) in chosen]
        if not own:
            raise InputError(
                f"a model of the pool is left without any record of stage {place + 1}: too few subjects are in it. Give data of "
                "more people."
            )
        options = stage.options_for(seed, len(own) / len(records))
        run = Run(own, options, folder / f"stage-{place}")
        folder.mkdir(parents=True, exist_ok=True)
        done = train_records(loaded, run)
        tokens += done.result.tokens
        loaded = replace(loaded, model=done.model, digest=weights_digest(done.model))
        shutil.rmtree(folder / f"stage-{place}", ignore_errors=True)
    return save_model(loaded.model, loaded.tokenizer, folder, {"start_weights": how.start}), tokens


def _score(
    folder: Path, material: Material, how: Repetition, key: RecordKey, rewordings: str | None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Load a model as an audit does and ask it in every way; return mean losses by channel [N], and how it was asked."""
    loaded = load_model(folder)
    if loaded.tokenizer_digest != how.tokenizer:
        raise IntegrityError("a model of the pool has another tokenizer than the original. Give the base that it was trained from.")
    settings = Settings(channels=ASKED if rewordings is not None else ASKED[1:], overflow=overflow_of(how))
    sets: dict[SetRole, Sequence[Record]] = {
        "forget": material.records[: material.trained],
        "holdout": material.records[material.trained :],
    }
    words = find_rewordings(rewordings, None, sets, settings)
    exact = {EXACT_TEXT: _exact(loaded, material.records, settings, key)}
    channels = Channels(sets, settings, key, None, references=1, rewordings=words)
    found = channels.measure(loaded, "a model of the pool")
    others = {name: np.concatenate([found[role][name] for role in sets]) for name in found["forget"]}
    asked = {
        "not_run": channels.not_run,
        "wordings": None if words is None else key.of(words.digest, "rewordings"),
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
    }
    return exact | others, asked


def _exact(loaded: LoadedModel, records: Sequence[Record], settings: Settings, key: RecordKey) -> Array:
    return np.asarray(-measure(loaded, records, cache_dir=None, key=key, overflow=settings.overflow).table.means, dtype=np.float64)


def overflow_of(how: Repetition) -> Any:
    """Return how records longer than the context were treated in the last stage."""
    return how.stages[-1].options.get("overflow") or "refuse"


def _destroy(folder: Path) -> None:
    """Remove a model's files, and check that they are gone.

    Raises:
        RunError: a file could not be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise RunError(
            f"{folder} could not be removed, and a model of the pool must not stay. Remove it, then run the same command."
        )
