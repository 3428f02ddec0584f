"""Suppression list: keyed hashes of what was deleted, to keep it out of later training data.

One JSON object a line: keyed hashes of deleted records and subjects, tokens of similar spellings of the subjects, and keyed MinHash
signatures of the texts for near-duplicates. A subject is the same in every spelling that is one by standard. Without the key the
list says nothing; with it, a new data set is checked before it is trained on. The first line holds a check value of the key: under
another one a check would find nothing, and let deleted data in.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unlearn.requests.near_duplicates import PERMUTATIONS, SCHEME, NearDuplicates, Signature, shingles, signature
from unlearn.requests.spellings import Lookup, is_of_texts, likenesses
from unlearn.requests.workplace import alone_in
from verify.errors import InputError
from verify.files import write_text
from verify.identity import RecordKey
from verify.records import Fields, Record
from verify.sources import stream_records
from verify.strict_json import parse_json

SCHEMA = "unlearn-verify/suppression/2"
BEFORE = "unlearn-verify/suppression/1"
"""Format of release 0.1.0, whose subjects are hashes of identifiers as they were spelled. It is read, and saved as `SCHEMA`."""
HEADER = {"schema": SCHEMA, "permutations": PERMUTATIONS, "scheme": SCHEME}


@dataclass(frozen=True)
class Hit:
    """A row of a data set that must not be trained on.

    Attributes:
        row: from 1.
        how: the record itself, its subject, a near-duplicate, or a subject whose identifier is similar, which a human decides.
        similarity: 1 for all but near-duplicates.
        reason: of a similar identifier, a key of `verify.likeness.REASONS`; None else.
    """

    row: int
    how: Literal["record", "subject", "near duplicate", "similar identifier"]
    similarity: float = 1.0
    reason: str | None = None

    @property
    def certain(self) -> bool:
        """Whether the row must not be trained on; otherwise a human decides."""
        return self.how != "similar identifier"


class SuppressionList:
    """What must not come back."""

    def __init__(self) -> None:
        self.records: dict[str, Signature] = {}
        self.subjects: set[str] = set()
        self.likenesses: set[str] = set()
        self.key_check: str | None = None  # None in lists from before there was one

    def add(
        self, records: Iterable[Record], key: RecordKey, whole_subjects: bool = True, only: Collection[str] | None = None
    ) -> None:
        """Suppress records, and with `whole_subjects` everything of the people they are about.

        Args:
            records: what was deleted.
            key: the list's key.
            whole_subjects: whether to suppress the people as well.
            only: keyed hashes of the people who are suppressed as a whole; None for everybody in the records. A record of two
                people was deleted for one of them, and the other has not asked.

        Raises:
            InputError: the list was made with another key.
        """
        self._require(key)
        self.key_check = key.check
        for record in records:
            self.records[key.of(record.fingerprint)] = signature(shingles(record.whole_text, key.secret))
            for identifier in record.subjects if whole_subjects else ():
                if only is None or not set(only).isdisjoint(key.names_of_person(identifier)):
                    self.add_people([key.of_person(identifier)], likenesses([identifier], key, in_texts=False))

    def add_people(self, names: Iterable[str], tokens: Iterable[str]) -> None:
        """Suppress everything of people.

        Args:
            names: keyed hashes of their identifiers.
            tokens: of similar spellings; those of texts are left out, as mentions are not suppressed.
        """
        self.subjects.update(names)
        self.likenesses.update(token for token in tokens if not is_of_texts(token))

    def check(self, source: str | Path, key: RecordKey, fields: Fields | None = None) -> Iterator[Hit]:
        """Rows of a data set that are on the list, in order; one record in memory at a time.

        Raises:
            InputError: the data cannot be read, or the list was made with another key.
        """
        self._require(key)
        index, lookup = NearDuplicates(self.records), Lookup(self.likenesses, key)
        for row, record in enumerate(stream_records(source, fields), 1):
            people = lookup.people(record)
            alike = next((person.likeness for person in people if person.likeness is not None), None)
            # Lists from before turns' further fields counted name such a record by its texts alone.
            if not self.records.keys().isdisjoint({key.of(record.fingerprint), key.of(record.text_fingerprint)}):
                yield Hit(row, "record")
            elif any(name in self.subjects for person in people for name in person.names):
                yield Hit(row, "subject")
            elif (likeness := index.find(shingles(record.whole_text, key.secret))) is not None:
                yield Hit(row, "near duplicate", likeness[1])
            elif alike is not None:
                yield Hit(row, "similar identifier", reason=alike.reason)

    def _require(self, key: RecordKey) -> None:
        if self.key_check not in (None, key.check):
            raise InputError(
                f"the suppression list was made with another record key than {RecordKey.default_path()}, under which it says "
                "nothing. Name the file of its key in $UNLEARN_VERIFY_KEY_FILE."
            )

    def save(self, path: str | Path) -> None:
        """Write the list, atomically, readable by its owner only."""
        lines = [json.dumps(HEADER if self.key_check is None else HEADER | {"key": self.key_check})]
        lines += [json.dumps({"subject": name}) for name in sorted(self.subjects)]
        lines += [json.dumps({"likeness": token}) for token in sorted(self.likenesses)]
        lines += [
            json.dumps({"record": name, "signature": values.astype("<u4").tobytes().hex()})
            for name, values in sorted(self.records.items(), key=lambda entry: entry[0])
        ]
        # A list that was cut off at the end of a line would let deleted data in unseen.
        lines.append(json.dumps({"entries": len(lines) - 1}))
        write_text(path, "\n".join(lines) + "\n", mode=0o600)

    @classmethod
    def load(cls, path: str | Path) -> "SuppressionList":
        """Read a list.

        Raises:
            InputError: it is missing, damaged, cut off or of another version: a list that is not whole would let deleted data in.
        """
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
                else:
                    values = np.frombuffer(bytes.fromhex(entry["signature"]), dtype="<u4").astype(np.uint32)
                    if len(values) != PERMUTATIONS:
                        raise ValueError
                    found.records[str(entry["record"])] = values
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path} is not a whole suppression list ({SCHEMA}). Restore it from its backup.") from None
        return found


@contextmanager
def extended(path: Path) -> Iterator[SuppressionList]:
    """The list at a place, to be added to, or a new one; it is saved at the end, and no other process changes it meanwhile.

    Raises:
        InputError: the list is damaged, or another process changes it.
    """
    with alone_in(path.parent / f".{path.name}.lock"):
        found = SuppressionList.load(path) if path.exists() else SuppressionList()
        yield found
        found.save(path)
