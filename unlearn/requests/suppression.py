"""Deleted data must not come back: a list of what was deleted, in a form that names nobody.

One JSON object a line: keyed hashes of deleted records and subjects, and keyed MinHash signatures of the texts for near-duplicates.
Without the key the list says nothing; with it, a new data set is checked before it is trained on. The first line holds a check
value of the key: under another one a check would find nothing, and let deleted data in.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unlearn.requests.finding import subjects_of
from unlearn.requests.near_duplicates import PERMUTATIONS, SCHEME, NearDuplicates, Signature, shingles, signature
from unlearn.requests.workplace import alone_in
from verify.errors import InputError
from verify.files import write_text
from verify.identity import RecordKey
from verify.records import Fields, Record
from verify.sources import stream_records
from verify.strict_json import parse_json

SCHEMA = "unlearn-verify/suppression/1"
HEADER = {"schema": SCHEMA, "permutations": PERMUTATIONS, "scheme": SCHEME}


@dataclass(frozen=True)
class Hit:
    """A row of a data set that must not be trained on.

    Attributes:
        row: from 1.
        how: the record itself, its subject, or a near-duplicate.
        similarity: 1 for all but near-duplicates.
    """

    row: int
    how: Literal["record", "subject", "near duplicate"]
    similarity: float = 1.0


class SuppressionList:
    """What must not come back."""

    def __init__(self) -> None:
        self.records: dict[str, Signature] = {}
        self.subjects: set[str] = set()
        self.key_check: str | None = None  # None in lists from before there was one

    def add(
        self, records: Iterable[Record], key: RecordKey, whole_subjects: bool = True, only: Collection[str] | None = None
    ) -> None:
        """Suppress records, and with `whole_subjects` everything of the people they are about.

        Args:
            records: what must not come back.
            key: hashes records and people.
            whole_subjects: whether to suppress the people too.
            only: keyed hashes of the people who are suppressed as a whole; None for all whom the records are about.

        Raises:
            InputError: the list was made with another key.
        """
        self._require(key)
        self.key_check = key.check
        for record in records:
            self.records[key.of(record.fingerprint)] = signature(shingles(record.whole_text, key.secret))
            if whole_subjects:
                self.subjects.update(subject for subject in subjects_of(record, key) if only is None or subject in only)

    def check(self, source: str | Path, key: RecordKey, fields: Fields | None = None) -> Iterator[Hit]:
        """Rows of a data set that are on the list, in order; one record in memory at a time.

        Raises:
            InputError: the data cannot be read, or the list was made with another key.
        """
        self._require(key)
        index = NearDuplicates(self.records)
        for row, record in enumerate(stream_records(source, fields), 1):
            # Lists from before turns' further fields counted name such a record by its texts alone.
            if not self.records.keys().isdisjoint({key.of(record.fingerprint), key.of(record.text_fingerprint)}):
                yield Hit(row, "record")
            elif not self.subjects.isdisjoint(subjects_of(record, key)):
                yield Hit(row, "subject")
            elif (likeness := index.find(shingles(record.whole_text, key.secret))) is not None:
                yield Hit(row, "near duplicate", likeness[1])

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
            if header != HEADER or last != {"entries": len(entries)}:
                raise ValueError
            for entry in entries:
                if "subject" in entry:
                    found.subjects.add(str(entry["subject"]))
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
