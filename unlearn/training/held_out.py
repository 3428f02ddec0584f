"""A holdout set that records which of its records were read, so that a manifest can name what the result was fitted to.

Whether a method reads the holdout set depends on its parameters, its stop rule, the selection and the fallback order. Rather than
have each of them declare it, the records are passed in a sequence that notes every access.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.provenance.holdout import used_holdout


class HeldOut(Sequence[Record]):
    """A sequence of records that notes which of them were read. Taking its length reads none."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = list(records)
        self._read: set[int] = set()

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        taken = range(len(self._records))[index]
        self._read.update([taken] if isinstance(taken, int) else taken)
        return self._records[index]

    def __iter__(self) -> Iterator[Record]:
        self._read.update(range(len(self._records)))
        return iter(self._records)

    @property
    def used(self) -> list[Record]:
        """The records that were read, in their original order."""
        return [self._records[index] for index in sorted(self._read)]

    def described(self, method: str, key: RecordKey) -> list[dict[str, Any]]:
        """Describe what was read, by keyed hashes, for a manifest; empty if nothing was."""
        return [used_holdout(self.used, key, method)] if self._read else []
