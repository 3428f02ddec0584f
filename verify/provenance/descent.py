"""What a model descends from, by files of its own: its base model, and the training records that its weights rest on.

The next deletion needs both when the model before the last one is gone. A trained model has them in its training log. The result of
an approximate method has no log, so it names its base in the manifest and lists, in `remaining_records.json`, the keyed hashes of
what the model before was trained on, without what was forgotten since. Importing this module imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from verify.io.documents import Document
from verify.io.files import MANIFEST, read_json
from verify.provenance.shard_plan import SHARDS, ShardsDescription
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.schema.parts import RecordHash

MADE_FROM = "made_from"
"""Manifest field with the folders of the models that the weights were made from."""
BASE = "base"
"""Manifest field of a result: place and digest of its base."""
REMAINING = "remaining_records.json"


@dataclass(frozen=True)
class NamedBase:
    """The model before fine-tuning, as a model's folder names it.

    Attributes:
        place: folder or Hub name; None where it was a model in memory.
        weights: digest of its weights; None where unknown.
    """

    place: str | None
    weights: str | None

    def described(self) -> dict[str, str | None]:
        """Return the manifest's entry."""
        return {"place": self.place, "weights": self.weights}


def named_base_of(folder: Path) -> NamedBase | None:
    """Return the base that a model's folder names: by its shards, its manifest or its training log; None where nothing does.

    Raises:
        InputError: the description of shards, the manifest or the log is damaged.
    """
    if (folder / SHARDS).is_file():
        shards = ShardsDescription.read(folder)
        return NamedBase(shards.base, shards.base_weights)
    about = read_json(folder / MANIFEST).get("about", {}) if (folder / MANIFEST).is_file() else {}
    if isinstance(stated := about.get(BASE), Mapping):
        return NamedBase(_text(stated.get("place")), _text(stated.get("weights")))
    role = "base" if "method" in about else "model"
    places = (about.get(MADE_FROM), (about.get("inputs") or {}).get("models"))
    place = next((str(found[role]) for found in places if isinstance(found, Mapping) and role in found), None)
    log = TrainingLog.read(folder / LOG_NAME) if (folder / LOG_NAME).is_file() else None
    weights = about.get("start_weights") if log is None else log.start_weights
    return None if place is None and weights is None else NamedBase(place, _text(weights))


class RemainingRecords(Document):
    """Training records that the weights of an approximate method's result rest on.

    Attributes:
        key: check value of the record key of the hashes.
        records: keyed hashes.
    """

    called: ClassVar[str] = "list of remaining records of this version (unlearn-verify/remaining-records/1)"
    remedy: ClassVar[str] = "Restore the model's folder."

    schema_: Literal["unlearn-verify/remaining-records/1"] = Field(default="unlearn-verify/remaining-records/1", alias="schema")
    key: str
    records: tuple[RecordHash, ...]


def write_remaining(folder: Path, key: str, records: Iterable[str]) -> None:
    """Write the list of a result's folder."""
    RemainingRecords(key=key, records=tuple(sorted(records))).save(folder / REMAINING)


def trained_records(folder: Path) -> frozenset[str]:
    """Return keyed hashes of the records that a model's weights rest on, from its log, shards or list; empty without any.

    Raises:
        InputError: the file is damaged.
    """
    if (folder / LOG_NAME).is_file():
        return frozenset(TrainingLog.read(folder / LOG_NAME).records)
    if (folder / SHARDS).is_file():
        return frozenset(ShardsDescription.read(folder).records)
    return frozenset(RemainingRecords.load(folder / REMAINING).records) if (folder / REMAINING).is_file() else frozenset()


def key_check_of(folder: Path) -> str | None:
    """Return the check value of the record key that a model's training records are listed under; None where nothing states it.

    Raises:
        InputError: the file is damaged.
    """
    if (folder / LOG_NAME).is_file():
        return TrainingLog.read(folder / LOG_NAME).key_check
    if (folder / SHARDS).is_file() or not (folder / REMAINING).is_file():
        return None
    return RemainingRecords.load(folder / REMAINING).key


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
