"""Replay of all deletions on a restored backup: what it brought back is recognized by keyed hashes, and removed again.

A backup may be older than deletions, and the suppression list that it restores may be, too: the list is first completed from the
ledger. Rows of data files are recognized by hash; with their texts, logs, databases and caches are then searched as by a purge.
Models are recognized by the hashes in their training logs.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unlearn.purge.file_types import ROWS_OF
from unlearn.purge.find import places
from unlearn.purge.suppression import Hit, SuppressionList
from unlearn.requests.ledger.ledger import Ledger
from unlearn.scan.lineage import AffectedModel, affected_models
from unlearn.scan.rows import fits, readable_rows
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.io.strict_json import parse_json

SAVED = "state.json"
"""File by which a folder that `Dataset.save_to_disk` wrote is recognized; it is read as one table."""
_OF_SAVED = (SAVED, "dataset_info.json")
_OWN = b'{"schema": "unlearn-verify/'
"""Start of this project's own logs and lists, which hold keyed hashes and no rows of data."""
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Returned:
    """What a restored folder holds of data that were deleted.

    Attributes:
        hits: the rows on the suppression list, by file; also those that only resemble a suppressed person.
        records: the records of the rows that are certain, whose texts are needed to search other files; not those of rows in
            columns that no record has, since any of their values may stand in the rows of others as well.
        models: models that were trained on deleted records, or descend from such models.
        unread: files that are not tables of records; they can be searched for texts only.
        failed: the tables that could not be read to their end, each with the reason; hits are of the rows before.
    """

    hits: dict[Path, list[Hit]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    models: list[AffectedModel] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)

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
        InputError: a folder cannot be searched, the list was made with another key, or a training log is damaged.
    """
    listed.require(key)
    found = Returned(models=affected_models(folders, listed.records.keys() | listed.bare))
    for path, is_table in _sources(folders, fields):
        if not is_table:
            found.unread.append(path)
            continue
        failed: dict[str, str] = {}
        hits = list(listed.check(path, key, fields, failed))
        if rows := {hit.row for hit in hits if hit.certain}:
            again = readable_rows([path], fields, "reading what came back", failed)
            found.records.extend(row.record for row in again if row.number in rows and row.fitting)
        if hits:
            found.hits[path] = hits
        if failed:
            found.failed[path] = failed[str(path)]
    return found


def _sources(folders: Sequence[Path], fields: Fields | None) -> Iterator[tuple[Path, bool]]:
    """Yield all files, those of a saved data set as its folder, each with whether it is a table of records."""
    saved = set()
    for path in places(folders):
        if path.is_dir():
            if os.access(path / SAVED, os.R_OK):  # a folder that cannot be entered is listed by the search for texts
                saved.add(path)
                yield path, True
        elif path.is_file() and not (path.parent in saved and (path.name in _OF_SAVED or path.suffix.lower() == ".arrow")):
            yield path, _is_table(path, fields)


def _is_table(path: Path, fields: Fields | None) -> bool:
    """Return whether a file is a table by its suffix; JSON that is no list only where its first line is a row, or cut off.

    A file that cannot be opened is one, so that it is named with the reason.
    """
    kind = path.suffix.lower()
    if kind not in ROWS_OF:
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith(_OWN):
            return False
        return kind != ".json" or not start.startswith(b"{") or _is_rows(path, fields)
    except OSError:
        return True


def _is_rows(path: Path, fields: Fields | None) -> bool:
    """Return whether a JSON file that begins with an object has one on each line; else it is a description or a setting."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        first = next(filter(str.strip, stream), "")
        if first.strip() == "{":
            return False
        try:
            row = parse_json(first, constants=True)
        except (ValueError, RecursionError):
            row = None
        if row is not None:
            return any(map(str.strip, stream)) or fits(row, fields)
    try:
        parse_json(path.read_text(encoding="utf-8-sig"), constants=True)
    except (ValueError, RecursionError):
        return True
    return False
