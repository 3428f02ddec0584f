"""Deadline of a run that must end by itself: nothing begins that would end later, by what its kind has taken so far."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from verify.io.files import write_text


@dataclass(frozen=True)
class Deadline:
    """A time after which nothing may still run, and a folder that remembers how long each kind of work takes.

    Attributes:
        at: seconds since the epoch; None for no end.
        folder: of a file for each kind, shared by all processes.
    """

    at: float | None
    folder: Path

    def allows(self, kind: str) -> bool:
        """Return whether work of a kind would end in time if it took as long as the longest before it; the first is allowed."""
        return self.at is None or time.time() + self._longest(kind) < self.at

    @contextmanager
    def measured(self, kind: str) -> Iterator[None]:
        """Remember how long the `with` block took, unless it is cut off."""
        start = time.time()
        yield
        # Two processes that write at once lose one of two numbers, which are alike.
        write_text(self.folder / kind, repr(max(time.time() - start, self._longest(kind))))

    def _longest(self, kind: str) -> float:
        path = self.folder / kind
        return float(path.read_text()) if path.is_file() else 0.0
