"""Suppression list: keyed hashes of deleted records and subjects, to keep them out of later training data.

One JSON object per line: keyed hashes of deleted records and subjects, tokens of similar spellings of the subjects, and keyed
MinHash signatures of the texts for near-duplicates. All equivalent spellings of a subject have the same hash. Without the key the
list reveals nothing; with it, a new data set is checked before training. The first line has a check value of the key: with another
key a check would find nothing, and deleted data would pass.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unlearn.scan.placeholders import is_placeholder
from unlearn.scan.rows import Row, all_rows, readable_rows
from unlearn.scan.search import note_linked
from unlearn.scan.spellings import Likeness, Lookup, Person, is_of_texts, likenesses
from verify.data.identity import RecordKey
from verify.data.near_duplicates import (
    PERMUTATION_SCHEME,
    PERMUTATIONS,
    NearDuplicates,
    Signature,
    shingles,
    shingles_by_spaces,
    signature,
)
from verify.data.records import Fields, Record
from verify.errors import InputError
from verify.io.files import alone_in, write_text
from verify.io.strict_json import parse_json

SCHEMA = "unlearn-verify/suppression/2"
BEFORE = "unlearn-verify/suppression/1"
"""Format of release 0.1.0, which hashes identifiers as they were spelled. It is read, and saved as `SCHEMA`."""
HEADER = {"schema": SCHEMA, "permutations": PERMUTATIONS, "scheme": PERMUTATION_SCHEME}


@dataclass(frozen=True)
class Hit:
    """A row of a data set that must not be trained on.

    Attributes:
        row: row number, from 1.
        how: the record itself, its subject, a near-duplicate, or a subject with a similar identifier, on which a human decides.
        similarity: estimated Jaccard similarity of a near-duplicate; 1 for all others.
        reason: for a similar identifier, a key of `verify.data.likeness.REASONS`; else None.
        file: the data set that it is in.
    """

    row: int
    how: Literal["record", "subject", "near duplicate", "similar identifier"]
    similarity: float = 1.0
    reason: str | None = None
    file: str = ""

    @property
    def certain(self) -> bool:
        """Whether the row must not be trained on; otherwise a human decides."""
        return self.how != "similar identifier"


class SuppressionList:
    """Deleted records and people that must not be trained on again."""

    def __init__(self) -> None:
        self.records: dict[str, Signature] = {}
        self.subjects: set[str] = set()
        self.likenesses: set[str] = set()
        self.bare: set[str] = set()
        """Records of which only the keyed hash is known, as the ledger keeps it: near-duplicates of them are not recognized."""
        self.key_check: str | None = None  # None in lists of versions without one

    def add(
        self, records: Iterable[Record], key: RecordKey, whole_subjects: bool = True, only: Collection[str] | None = None
    ) -> None:
        """Suppress records, and with `whole_subjects` all data of the people they are about.

        Args:
            records: the deleted records.
            key: the list's key.
            whole_subjects: whether to suppress the people as well.
            only: keyed hashes of the people to suppress; None suppresses everybody in the records. A record about two people is
                deleted at the request of one, and the other's data stay.

        Raises:
            InputError: the list was made with another key.
        """
        self.require(key)
        self.key_check = key.check
        for record in records:
            name = key.of(record.fingerprint)
            self.records[name] = signature(shingles(record.whole_text, key.secret))
            self.bare.discard(name)
            for identifier in record.subjects if whole_subjects else ():
                if only is None or not set(only).isdisjoint(key.names_of_person(identifier)):
                    self.add_people([key.of_person(identifier)], likenesses([identifier], key, in_texts=False))

    def add_people(self, names: Iterable[str], tokens: Iterable[str]) -> None:
        """Suppress all data of people.

        Args:
            names: keyed hashes of their identifiers.
            tokens: tokens of similar spellings; those of mentions in texts are ignored, since mentions are not suppressed.
        """
        self.subjects.update(names)
        self.likenesses.update(token for token in tokens if not is_of_texts(token))

    def add_bare(self, names: Iterable[str]) -> None:
        """Suppress records of which only the keyed hash is known; one that is listed with its signature stays as it is."""
        self.bare.update(name for name in names if name not in self.records)

    def check(
        self,
        sources: str | Path | Sequence[str],
        key: RecordKey,
        fields: Fields | None = None,
        failed: dict[str, str] | None = None,
    ) -> Iterator[Hit]:
        """Yield the rows of data sets that are on the list, in order, with one record in memory at a time.

        What stands beside a suppressed identifier in a row of any of them is looked for in all of them, as a search does.

        Args:
            sources: the data sets.
            key: the list's key.
            fields: columns of the records' fields.
            failed: where given, a data set is checked as far as it can be read, in whatever columns, and this takes those that
                cannot be read to their end, each with the reason (`unlearn.scan.rows.readable_rows`).

        Raises:
            InputError: the data cannot be read, or the list was made with another key.
        """
        self.require(key)
        files = [str(sources)] if isinstance(sources, str | Path) else list(sources)
        index, lookup = NearDuplicates(self.records), Lookup(self.likenesses, key)
        linked = Lookup(
            likenesses(self._linked(_rows(files, fields, "reading who is called how", failed), key), key, in_texts=False), key
        )
        known = self.records.keys() | self.bare
        for file, row, record, columns, values, *_ in _rows(files, fields, "checking", failed):
            people = lookup.people(record)
            # Lists of older versions identify a chat with further fields by its texts alone.
            if not known.isdisjoint({key.of(record.fingerprint), key.of(record.text_fingerprint)}):
                yield Hit(row, "record", file=file)
            elif any(name in self.subjects for person in people for name in person.names):
                yield Hit(row, "subject", file=file)
            elif (likeness := _nearest(index, record.whole_text, key)) is not None:
                yield Hit(row, "near duplicate", likeness, file=file)
            elif (other := _alike(people) or _beside(lookup, columns, values())) is not None:
                yield Hit(row, "similar identifier", reason=other.reason, file=file)
            elif linked.seeks and (_alike(linked.people(record)) or _beside(linked, columns, values())) is not None:
                yield Hit(row, "similar identifier", reason="linked", file=file)

    def _linked(self, rows: Iterable[Row], key: RecordKey) -> list[str]:
        """Return the identifiers that stand beside a suppressed one in a row (`unlearn.scan.linking`)."""
        found: dict[str, set[str]] = {}
        lookup = Lookup((), key)
        for row in rows if self.subjects else ():
            for group in row.people():
                note_linked(group, self.subjects, lookup, found)
        return sorted(one for one in frozenset[str]().union(*found.values()) if not is_placeholder(one))

    def require(self, key: RecordKey) -> None:
        """Check that the list was made with this key.

        Raises:
            InputError: it was made with another, so a check would find nothing.
        """
        if self.key_check not in (None, key.check):
            raise InputError(
                f"the suppression list was made with another record key than {RecordKey.default_path()}, so a check would find "
                "nothing. Name the file of its key in $UNLEARN_VERIFY_KEY_FILE."
            )

    def save(self, path: str | Path) -> None:
        """Write the list, atomically, readable by its owner only."""
        lines = [json.dumps(HEADER if self.key_check is None else HEADER | {"key": self.key_check})]
        lines += [json.dumps({"subject": name}) for name in sorted(self.subjects)]
        lines += [json.dumps({"likeness": token}) for token in sorted(self.likenesses)]
        lines += [json.dumps({"record": name}) for name in sorted(self.bare - self.records.keys())]
        lines += [
            json.dumps({"record": name, "signature": values.astype("<u4").tobytes().hex()})
            for name, values in sorted(self.records.items(), key=lambda entry: entry[0])
        ]
        # The count detects a list that was truncated at the end of a line, which would let deleted data pass.
        lines.append(json.dumps({"entries": len(lines) - 1}))
        write_text(path, "\n".join(lines) + "\n", mode=0o600)

    @classmethod
    def load(cls, path: str | Path) -> "SuppressionList":
        """Read a list.

        Raises:
            InputError: it is missing, damaged, truncated or of another version; an incomplete list would let deleted data pass.
        """
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file. Name the suppression list, which `unlearn suppress` and `request run` write.")
        found = cls()
        try:
            text = Path(path).read_text(encoding="utf-8")
            header, *entries, last = [parse_json(line) for line in text.splitlines()]
            found.key_check = header.pop("key", None)
            if header not in (HEADER, HEADER | {"schema": BEFORE}) or last != {"entries": len(entries)}:
                raise ValueError
            for entry in entries:
                if "subject" in entry:
                    found.subjects.add(str(entry["subject"]))
                elif "likeness" in entry:
                    found.likenesses.add(str(entry["likeness"]))
                elif "signature" not in entry:
                    found.bare.add(str(entry["record"]))
                else:
                    values = np.frombuffer(bytes.fromhex(entry["signature"]), dtype="<u4").astype(np.uint32)
                    if len(values) != PERMUTATIONS:
                        raise ValueError
                    found.records[str(entry["record"])] = values
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path} is not a whole suppression list ({SCHEMA}). Restore it from its backup.") from None
        return found


def _rows(files: Sequence[str], fields: Fields | None, doing: str, failed: dict[str, str] | None) -> Iterable[Row]:
    return all_rows(files, fields, doing) if failed is None else readable_rows(files, fields, doing, failed)


def _alike(people: Sequence[Person]) -> Likeness | None:
    """Return the likeness of the first person that has one."""
    return next((person.likeness for person in people if person.likeness is not None), None)


def _nearest(index: NearDuplicates, text: str, key: RecordKey) -> float | None:
    """Return the similarity of a text with the nearest record of a list, whose signatures may be of an earlier version."""
    found = index.find(shingles(text, key.secret))
    if found is None and not text.isascii():
        found = index.find(shingles_by_spaces(text, key.secret))
    return None if found is None else found[1]


def _beside(lookup: Lookup, columns: Iterable[str], values: Iterable[str]) -> Likeness | None:
    """Return the first likeness of a value that is not a text, or of the name of a column."""
    return next(filter(None, (*map(lookup.beside, values), *map(lookup.column, columns))), None)


@contextmanager
def extended(path: Path) -> Iterator[SuppressionList]:
    """Open the list at a path, or a new one, to add to it; it is locked against other processes and saved at the end.

    Raises:
        InputError: the list is damaged, or another process changes it.
    """
    with alone_in(path.parent / f".{path.name}.lock"):
        found = SuppressionList.load(path) if path.exists() else SuppressionList()
        yield found
        found.save(path)
