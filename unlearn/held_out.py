"""Never-trained records that remember which of them were read, so that a result can say what it was fitted to.

Whether a method reads the holdout set depends on its parameters, its stop rule, the selection and the ladder. Instead of every
place declaring it, the records are handed over in a sequence that notes what is taken out of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

from verify.holdout import used_holdout
from verify.identity import RecordKey
from verify.records import Record


class HeldOut(Sequence[Record]):
    """A sequence of records that notes which of them were read. Asking for its length reads none."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = list(records)
        self._read: set[int] = set()

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...

    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        places = range(len(self._records))[place]
        self._read.update([places] if isinstance(places, int) else places)
        return self._records[place]

    def __iter__(self) -> Iterator[Record]:
        self._read.update(range(len(self._records)))
        return iter(self._records)

    @property
    def used(self) -> list[Record]:
        """The records that were read, in their order."""
        return [self._records[place] for place in sorted(self._read)]

    def described(self, method: str, key: RecordKey) -> list[dict[str, Any]]:
        """For a manifest: what was read, by keyed hashes; nothing where nothing was."""
        return [used_holdout(self.used, key, method)] if self._read else []
