"""Replay of all deletions on a restored backup: what it brought back is recognized by keyed hashes, and removed again.

A backup may be older than deletions, and the suppression list that it restores may be, too: the list is first completed from the
ledger. Rows of data files are recognized by hash; with their texts, logs, databases and caches are then searched as by a purge.
Models are recognized by the hashes in their training logs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unlearn.purge.file_types import ROWS_OF
from unlearn.purge.find import places
from unlearn.purge.suppression import Hit, SuppressionList
from unlearn.requests.ledger.ledger import Ledger
from unlearn.scan.lineage import AffectedModel, affected_models
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.data.sources import stream_records
from verify.errors import InputError


@dataclass(frozen=True)
class Returned:
    """What a restored folder holds of data that were deleted.

    Attributes:
        hits: the rows on the suppression list, by file; also those that only resemble a suppressed person.
        records: the records of the rows that are certain, whose texts are needed to search other files.
        models: models that were trained on deleted records, or descend from such models.
        unread: files that are not tables of records, or could not be read as such; they can be searched for texts only.
    """

    hits: dict[Path, list[Hit]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    models: list[AffectedModel] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)

    @property
    def certain(self) -> int:
        """Number of rows that must not be there."""
        return sum(hit.certain for hits in self.hits.values() for hit in hits)


def complete(listed: SuppressionList, ledger: Ledger, key: RecordKey) -> int:
    """Add everything that the ledger says was deleted to a suppression list; return the number of requests.

    Args:
        listed: the list, changed in place.
        ledger: the request ledger.
        key: its record key.
    """
    listed.key_check = listed.key_check or key.check
    deleted = [request for request in ledger.requests() if request.latest("deployed") is not None]
    for request in deleted:
        matched = (request.latest("matched") or {"records": []})["records"]
        also = {str(entry["subject"]) for entry in matched if entry["how"] == "similar identifier" and entry["subject"]}
        listed.add_people({*request.subjects, *also}, request.likenesses)
        listed.add_bare(str(entry["record"]) for entry in matched)
    return len(deleted)


def find_returned(folders: Sequence[Path], listed: SuppressionList, key: RecordKey, fields: Fields | None) -> Returned:
    """Search restored folders for suppressed rows and for models that were trained on suppressed records.

    Raises:
        InputError: a folder cannot be read, the list was made with another key, or a training log is damaged.
    """
    found = Returned(models=affected_models(folders, listed.records.keys() | listed.bare))
    for path in _files(folders):
        if path.suffix not in ROWS_OF:
            found.unread.append(path)
            continue
        listed.require(key)
        try:
            hits = list(listed.check(path, key, fields))
            rows = {hit.row for hit in hits if hit.certain}
            records = [record for row, record in enumerate(stream_records(path, fields), 1) if row in rows] if rows else []
        except InputError:
            found.unread.append(path)
            continue
        found.records.extend(records)
        if hits:
            found.hits[path] = hits
    return found


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    yield from (path for path in places(folders) if path.is_file())
