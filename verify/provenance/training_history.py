"""Training history of a model, read from the logs and manifests beside it without opening any weights.

A model folder's manifest names the weights it started from and their path; that folder may have a log and a manifest too. Followed
back, this gives the trainings in order. All of it is self-declared: a log is only its writer's word.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.files import MANIFEST, file_digest, read_json
from verify.models.configuration import ENSEMBLE
from verify.provenance.descent import MADE_FROM
from verify.provenance.training_log import LOG_NAME, TrainingLog, resolved

HOLDOUT_USED = "holdout_used"
"""Manifest field of an unlearned model that lists the never-trained records the unlearning read."""
UNLEARNED_FROM = "unlearned_from"
"""Manifest field of a model that was unlearned again and again: digests of what the unlearnings before the last started from, the
latest first. Their folders may be gone."""
EXACTNESS, NOT_EXACT = "exactness", "not_exact"
"""Entries of a rebuild's facts: what its exactness covers, or why it is not called exact."""
LONGEST = 64
"""Largest number of trainings that are followed back; manifests that name each other in a cycle must not hang an audit."""


@dataclass(frozen=True)
class Stage:
    """One training on the way to a model.

    Attributes:
        folder: folder of its result.
        start, final: digests of the weights it started from and ended with; None where unknown.
        log: its training log; None where there is none.
        method: the approximate unlearning method that made the weights; None for a training.
        about: the description in its folder's manifest.
    """

    folder: Path
    start: str | None
    final: str | None
    log: TrainingLog | None
    method: str | None
    about: Mapping[str, Any]

    @property
    def defense(self) -> Mapping[str, Any] | None:
        """The defence it was trained under, by its manifest."""
        found = self.about.get("defense") or _mapping(self.about.get("facts")).get("defense")
        return found if isinstance(found, Mapping) else None

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs it was made from, by its manifest."""
        return _mapping(self.about.get("inputs"))


@dataclass(frozen=True)
class History:
    """What is known about how a model was made.

    Attributes:
        stages: the trainings, first to last; the last one made the model.
        weights: digest of the model's weights by its manifest; None without a manifest.
        unfinished: why the model is not a finished training, in words; None where it is, or nothing says otherwise.
    """

    stages: tuple[Stage, ...]
    weights: str | None
    unfinished: str | None

    @property
    def last(self) -> Stage:
        """The training that made the model."""
        return self.stages[-1]

    @property
    def logged(self) -> tuple[Stage, ...]:
        """The trainings that have a log."""
        return tuple(stage for stage in self.stages if stage.log is not None)

    @property
    def log_digest(self) -> str | None:
        """SHA-256 of the last training's log, so that its owner can show which one was read."""
        return None if self.last.log is None else file_digest(_log_path(self.last.folder))


def history_of(source: Any) -> History | None:
    """Read the training history of a model.

    Args:
        source: a model, as passed to an audit.

    Returns:
        None for a model in memory or on the Hub, which has no files beside it.

    Raises:
        InputError: a log or manifest is damaged.
    """
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return None
    folder: Path | None = Path(source)
    stages: list[Stage] = []
    while folder is not None and len(stages) < LONGEST:
        stages.append(_stage(folder))
        folder = _parent(stages[-1])
        if folder is not None and any(folder.resolve() == stage.folder.resolve() for stage in stages):
            break
    about = stages[0].about
    weights = about.get("weights")
    return History(tuple(reversed(stages)), weights if isinstance(weights, str) else None, _unfinished(stages[0]))


def learning_rate_of(source: Any) -> float | None:
    """Return the peak learning rate of the last logged training of a model; None where no log names it."""
    history = history_of(source)
    if history is None or not history.logged:
        return None
    log = history.logged[-1].log
    rate = None if log is None else resolved(log.options)["learning_rate"]
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


@dataclass(frozen=True)
class HoldoutUse:
    """Never-trained records that an unlearning read.

    Attributes:
        method: the method that read them.
        key_check: check value of the record key of the hashes.
        records: keyed hashes.
    """

    method: str
    key_check: str
    records: frozenset[str]


def holdout_used(history: History) -> tuple[HoldoutUse, ...] | None:
    """Return the never-trained records that unlearnings in a model's history read; None where a manifest does not say."""
    if history.weights is None:
        return None
    found = []
    for stage in history.stages:
        entries = stage.about.get(HOLDOUT_USED)
        if "method" in stage.about and not isinstance(entries, list):
            return None
        for entry in map(_mapping, entries if isinstance(entries, list) else ()):
            names = entry.get("records")
            if not isinstance(names, list):
                return None
            found.append(HoldoutUse(str(entry.get("method")), str(entry.get("key")), frozenset(map(str, names))))
    return tuple(found)


def level_table_used(history: History) -> frozenset[str]:
    """Return digests of the level tables that unlearnings in a model's history read, by their manifests."""
    facts = [_mapping(stage.about.get("facts")) for stage in history.stages]
    return frozenset(str(entry["level_table"]) for entry in facts if entry.get("level_table") is not None)


def _stage(folder: Path) -> Stage:
    about = _about(folder)
    path = _log_path(folder)
    log = TrainingLog.read(path) if path.is_file() else None
    method = about.get("method") if {EXACTNESS, NOT_EXACT}.isdisjoint(_mapping(about.get("facts"))) else None
    start = (None if log is None else log.start_weights) or about.get("weights_before") or about.get("start_weights")
    final = about.get("weights") or (None if log is None else log.final_weights)
    return Stage(folder, _text(start), _text(final), log, _text(method), about)


def _log_path(folder: Path) -> Path:
    """Return the path of a model's training log; a checkpoint's log lies in the run's output folder."""
    if (folder / LOG_NAME).is_file() or not is_checkpoint(folder):
        return folder / LOG_NAME
    above = [parent / LOG_NAME for parent in (folder.resolve().parent, folder.resolve().parent.parent)]
    return next((path for path in above if path.is_file()), folder / LOG_NAME)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of a run, by its manifest."""
    return (folder / MANIFEST).is_file() and _mapping(read_json(folder / MANIFEST)).get("kind") == "checkpoint"


def _unfinished(stage: Stage) -> str | None:
    if is_checkpoint(stage.folder):
        return "it is a checkpoint of a run, not its final model"
    if stage.log is not None and not stage.log.finished:
        return "its training log has no end: the run was interrupted"
    state = _trainer_state(stage.folder)
    done, planned = state.get("global_step"), state.get("max_steps")
    if isinstance(done, int) and isinstance(planned, int) and done < planned:
        return f"it is the checkpoint of step {done} of a run of {planned} steps"
    return None


def _trainer_state(folder: Path) -> Mapping[str, Any]:
    """Read the `transformers` trainer's state from a checkpoint."""
    path = folder / "trainer_state.json"
    return _mapping(read_json(path)) if path.is_file() else {}


def _parent(stage: Stage) -> Path | None:
    """Return the folder of the model that a stage started from, if it still holds those weights."""
    for place in _named_parents(stage):
        folder = Path(place)
        if not folder.is_dir() or folder.resolve() == stage.folder.resolve():
            continue
        found = _about(folder).get("weights")
        # An adapter of another tool has no digest of its base; its configuration binds it to that base.
        if found is not None and stage.start in (found, None):
            return folder
    return None


def _named_parents(stage: Stage) -> Iterator[str]:
    """Yield paths that may hold the model that a stage started from."""
    for named in (stage.about.get(MADE_FROM), stage.inputs.get("models")):
        yield from (place for place in _mapping(named).values() if isinstance(place, str))
    for name, entry in (("adapter_config.json", "base_model_name_or_path"), (ENSEMBLE, "base")):
        if (stage.folder / name).is_file():
            place = _mapping(read_json(stage.folder / name)).get(entry)
            if isinstance(place, str):
                yield place


def _about(folder: Path) -> Mapping[str, Any]:
    """Return the description in a folder's manifest; empty where there is none."""
    if not (folder / MANIFEST).is_file():
        return {}
    content = read_json(folder / MANIFEST)
    if not isinstance(content, Mapping) or not isinstance(content.get("about", {}), Mapping):
        raise InputError(f"{folder / MANIFEST} is damaged. Restore the folder, or make it again.")
    return _mapping(content.get("about"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
