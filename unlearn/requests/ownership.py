"""Owners of the data in copies that a cleanup finds, so that each letter speaks of its own person's copies alone.

A batch of several requests is cleaned as one. Which of its records a copy holds is read again from the copy, or from the log of the
model that it is or was made from. For other copies it is not known: what was not searched, and caches made from others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.purge import sqlite
from unlearn.purge.content_search import ContentSearch, NotingSearch
from unlearn.purge.formats import UnreadableError
from unlearn.purge.residue import BY_CONTENT, Residue
from unlearn.purge.unpack import holds
from unlearn.purge.vectors import stores
from unlearn.requests.ledger.request import Request
from unlearn.scan.lineage import AffectedModel
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.provenance.level_table import LevelTable
from verify.provenance.training_log import LOG_NAME, TrainingLog

LEVEL_TABLE, CHECKPOINT = "level table", "checkpoint"

Owners = tuple[str, ...] | None
"""Ids of the requests whose data something holds, in the batch's order; None where that is not known, or one request is alone."""


class Ownership:
    """Tells whose data a residue holds; what was found out once is kept, as the residue may be gone afterwards."""

    def __init__(
        self,
        requests: Sequence[Request],
        records: Sequence[Record],
        search: ContentSearch,
        affected: Sequence[AffectedModel],
        key: RecordKey,
    ) -> None:
        """Prepare it for a batch.

        Args:
            requests: the requests of the batch.
            records: the deleted records whose texts are known.
            search: a search for exactly these records.
            affected: the models that saw them.
            key: the ledger's record key.
        """
        self._requests = [request.id for request in requests]
        self._of_record: dict[str, set[str]] = {}
        for request in requests:
            for entry in (request.latest("matched") or {"records": []})["records"]:
                self._of_record.setdefault(str(entry["record"]), set()).add(request.id)
        self._names = [key.of(record.fingerprint) for record in records]
        self._affected = affected
        self._noting = NotingSearch(search) if self.several else None
        self._known: dict[Path, Owners] = {}

    @property
    def several(self) -> bool:
        """Whether several requests are answered together."""
        return len(self._requests) > 1

    def of_records(self, names: Iterable[str]) -> Owners:
        """Return whose records these are, by their keyed hashes."""
        if not self.several:
            return None
        found = {request for name in names for request in self._of_record.get(name, ())}
        return tuple(request for request in self._requests if request in found) or None

    def of(self, residue: Residue) -> Owners:
        """Return whose data a residue holds."""
        if not self.several:
            return None
        if residue.place not in self._known:
            self._known[residue.place] = self._found(residue)
        return self._known[residue.place]

    def _found(self, residue: Residue) -> Owners:
        if residue.how == BY_CONTENT:
            return self._by_text(residue.place)
        try:
            if residue.kind == CHECKPOINT:
                return self.of_records(_seen_until(residue.place))
            if residue.kind == LEVEL_TABLE:
                return self.of_records(LevelTable.open(residue.place).rows.records)
        except (InputError, ValueError):  # damaged, or named in another way
            return None
        models = [model for model in self._affected if residue.weights == model.weights or _inside(residue.place, model.folder)]
        return self.of_records(name for model in models for name in model.names)

    def _by_text(self, place: Path) -> Owners:
        """Read a file or a vector index to its end; nothing is known of one that cannot be."""
        assert self._noting is not None, "a request alone owns everything"
        self._noting.found.clear()
        sides = (place.with_name(place.name + side) for side in sqlite.SIDES)
        own = _regular(place.rglob("*") if place.is_dir() else [place, *sides])
        rows = _regular([place.with_suffix(".jsonl")])  # of a FAISS index
        store = next((one for one in stores([place], {*own, *rows}) if one.place == place), None)
        try:
            if store is not None:
                store.holds(self._noting)
            else:
                for path in own:
                    holds(path, self._noting)
        except (UnreadableError, OSError):
            return None
        return self.of_records(self._names[number] for number in self._noting.found)


def _seen_until(checkpoint: Path) -> Iterator[str]:
    """Yield the records that a training had read when it wrote a checkpoint, which is named by its step."""
    log, step = TrainingLog.read(checkpoint.parent / LOG_NAME), int(checkpoint.name.rpartition("-")[2])
    for batch in log.microbatches:
        if batch.step <= step:
            yield from (log.records[row] for row in batch.records)


def _regular(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _inside(place: Path, folder: Path) -> bool:
    return place.is_relative_to(folder.resolve())


def counted_by_request(kinds: Mapping[str, str], owners: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return the number of removed copies of each kind that held data of each request, by its id.

    Args:
        kinds: kind of each removed copy, by the keyed hash of its place.
        owners: ids of the requests whose data it held, by the same; nothing where that is not known.
    """
    found: dict[str, Counter[str]] = {}
    for place, kind in kinds.items():
        for request in owners.get(place, ()):
            found.setdefault(request, Counter())[kind] += 1
    return {request: dict(counts) for request, counts in found.items()}


def noted_owners(owners: Owners) -> dict[str, Any]:
    """Return the entry that names the requests whose data a copy holds; nothing where that is not known."""
    return {} if owners is None else {"requests": list(owners)}
