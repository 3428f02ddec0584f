"""Model lineage: which models saw a record, from training logs and manifests alone.

A model is affected if its training log, or what stands for it, contains the record, or if it was made from an affected model, by
further fine-tuning or by unlearning. Models are identified by the digest of their weights, so that a copy under another name is
found as well. The stages of a training in shards belong to its model; one without a model around it is found by its own log.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.data.sources import stream_records
from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, read_json
from verify.provenance.descent import trained_records
from verify.provenance.training_log import LOG_NAME, TrainingLog


@dataclass(frozen=True)
class AffectedModel:
    """A model that saw a record, or descends from one that did.

    Attributes:
        folder: its folder.
        weights: digest of its weights; for a stage that stands alone, of what determined it.
        how: "trained on" the record, or "made from" an affected model.
        records: number of the records in its log; 0 for descendants.
        parent: digest of the weights it was made from, or None.
        method: the unlearning method that made it, or None.
        first_step: the optimizer step that first saw one of the records, or None.
        last_clean_checkpoint: the latest checkpoint before that step, or None.
        names: keyed hashes of the records that it or a model that it was made from was trained on.
        alone: whether it is a stage of a training in shards without its model, which never answered anybody.
    """

    folder: Path
    weights: str
    how: str
    records: int
    parent: str | None
    method: str | None
    first_step: int | None = None
    last_clean_checkpoint: str | None = None
    names: frozenset[str] = frozenset()
    alone: bool = False

    @property
    def seen(self) -> str:
        """What the model saw of the records, in words; without steps where it has no log of its own, as a model in shards."""
        if not self.records:
            return "made from one that saw them"
        first = "" if self.first_step is None else f", first at step {self.first_step}"
        clean = f"; last clean checkpoint {self.last_clean_checkpoint}" if self.last_clean_checkpoint else ""
        return f"{self.records} {'record' if self.records == 1 else 'records'}{first}{clean}"


def affected_models(roots: Sequence[str | Path], records: Collection[str]) -> list[AffectedModel]:
    """Return all affected models below some folders, ancestors before descendants.

    Args:
        roots: folders to search.
        records: keyed hashes of the records.

    Raises:
        InputError: a training log is damaged, so what the model saw is not known.
    """
    models = [_read(folder, set(records)) for root in roots for folder in _folders_with_weights(Path(root))]
    seen: dict[str, frozenset[str]] = {}
    for model in models:
        seen[model.weights] = seen.get(model.weights, frozenset()) | model.names
    growing = True
    while growing:
        # Transitive closure: what affected models saw, their children saw, and theirs, and so on.
        growing = False
        for model in models:
            inherited = seen.get(model.parent or "", frozenset())
            growing = growing or not inherited <= seen[model.weights]
            seen[model.weights] |= inherited
    chosen = [replace(model, names=seen[model.weights]) for model in models if seen[model.weights]]
    named = [model if model.records else replace(model, how="made from") for model in chosen]
    return sorted(named, key=lambda model: (not model.records, str(model.folder)))


def records_of_models(roots: Sequence[str | Path]) -> Iterator[tuple[Path, str, frozenset[str]]]:
    """Yield folder, digest of the weights and keyed hashes of the training records of every model below some folders.

    Raises:
        InputError: a root is not a folder, or a training log is damaged.
    """
    for folder, weights in _models_below(roots):
        yield folder, weights, trained_records(folder)


def logged_people(roots: Sequence[str | Path]) -> Iterator[tuple[Path, str, Mapping[str, frozenset[str]]]]:
    """Yield folder and digest of the weights of every model below some folders, and whom its logs say that each record is about.

    Raises:
        InputError: a root is not a folder, or a training log is damaged.
    """
    for folder, weights in _models_below(roots):
        found: dict[str, frozenset[str]] = {}
        for place in (folder, *stages_of(folder)):
            log = TrainingLog.read(place / LOG_NAME) if (place / LOG_NAME).is_file() else None
            for name, people in () if log is None else zip(log.records, log.subjects, strict=True):
                found[name] = found.get(name, frozenset()) | frozenset((people or "").split(",")) - {""}
        yield folder, weights, found


def _models_below(roots: Sequence[str | Path]) -> Iterator[tuple[Path, str]]:
    """Yield folder and digest of the weights of every model below some folders."""
    for root in roots:
        for folder in _model_folders(Path(root)):
            about = read_json(folder / MANIFEST).get("about")
            yield folder, str((about if isinstance(about, dict) else {}).get("weights"))


def hashes_of_records(files: Sequence[str], key: RecordKey, fields: Fields | None) -> frozenset[str]:
    """Return keyed hashes of all records in some files, also in the form that the logs of older versions have."""
    return frozenset(name for file in files for record in stream_records(file, fields) for name in hashes_of_record(record, key))


def hashes_of_record(record: Record, key: RecordKey) -> frozenset[str]:
    """Return the keyed hashes that a log may list a record under: its own, and that of older versions."""
    return frozenset(key.of(mark) for mark in {record.fingerprint, record.text_fingerprint})


def stages_of(folder: Path) -> list[Path]:
    """Return the folders of the stages that a model in shards was trained in; empty for any other."""
    return sorted(place for place in folder.glob("shard-*/slice-*") if place.is_dir() and not place.is_symlink())


def _model_folders(root: Path) -> Iterator[Path]:
    yield from (folder for folder in _folders_with_weights(root) if _kind(folder) == "model")


def _folders_with_weights(root: Path) -> Iterator[Path]:
    """Yield the folders of models, and those of stages of a training in shards that have no model around them."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Name folders that exist (--models DIR ..., --search DIR ...).")
    for manifest in sorted(root.rglob(MANIFEST)):
        folder = manifest.parent
        kind = _kind(folder)
        if kind == "model" or (kind == "shard" and not _is_part(folder)):
            yield folder


def _is_part(stage: Path) -> bool:
    """Return whether a stage of a training in shards lies where its model has it."""
    placed = stage.name.startswith("slice-") and stage.parent.name.startswith("shard-")
    return placed and _kind(stage.parent.parent) == "model"


def _kind(folder: Path) -> str | None:
    """Return the kind of a folder by its manifest; None without one."""
    return read_json(folder / MANIFEST).get("kind") if (folder / MANIFEST).is_file() else None


def _read(folder: Path, records: set[str]) -> AffectedModel:
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    alone = manifest.get("kind") == "shard"
    try:
        about = manifest["about"]
        weights = str(about["prefix" if alone else "weights"])
    except (KeyError, TypeError):
        raise IntegrityError(f"{folder / MANIFEST} is damaged, so its weights are not identified. Restore it.") from None
    parent = about.get("weights_before") or about.get("start_weights")
    model = AffectedModel(folder, weights, "trained on", 0, parent, about.get("method"), alone=alone)
    if (folder / LOG_NAME).is_file():
        return _with_log(model, records)
    # A model in shards has no single log, and the result of an approximate method none at all: they list their records.
    listed = frozenset(trained_records(folder) & records)
    return replace(model, records=len(listed), names=listed)


def _with_log(model: AffectedModel, records: set[str]) -> AffectedModel:
    """Add what the model's training log says: records, first step, last clean checkpoint."""
    log = TrainingLog.read(model.folder / LOG_NAME)
    rows = {row for row, name in enumerate(log.records) if name in records}
    if not rows:
        return model
    steps = [batch.step for batch in log.microbatches if rows & set(batch.records)]
    first = min(steps, default=None)
    # A checkpoint of step s includes step s, so it is clean only if the record was first seen later.
    clean = [(step, name) for step, name in log.checkpoints if first is None or step < first]
    last = max(clean, default=None)
    kept = last is not None and (model.folder / last[1]).is_dir()
    names = frozenset(log.records[row] for row in rows)
    return replace(
        model,
        records=len(names),
        names=names,
        first_step=first,
        last_clean_checkpoint=last[1] if last is not None and kept else None,
    )
