"""Folder of one seed of a contest: its files, and locks by which processes side by side do nothing twice."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest.data import World, base_of


@dataclass(frozen=True)
class Place:
    """Folder and settings of a contest.

    Attributes:
        folder: of one world and seed.
        world, seed: which.
        references: number of retrained references.
    """

    folder: Path
    world: World
    seed: int
    references: int

    @property
    def base(self) -> str:
        """Folder of the model before fine-tuning."""
        return str(base_of(self.world, self.folder))

    def data(self, name: str) -> str:
        """Return a file of records."""
        return str(self.folder / "data" / f"{name}.jsonl")

    def model(self, name: str) -> Path:
        """Return the folder of a model that stays."""
        return self.folder / "models" / name

    def reference_names(self) -> list[str]:
        """Return the names of the references' folders."""
        return [f"reference{number}" for number in range(1, self.references + 1)]

    def tried(self, entry: str, number: int) -> Path:
        """Return the folder of the model that a setting gave, which goes once its entry is judged; `.json` beside it stays."""
        return self.folder / "tried" / f"{entry}-{number}"

    def tried_result(self, entry: str, number: int) -> Path:
        """Return the file that says what a setting gave."""
        return self.folder / "tried" / f"{entry}-{number}.json"

    def result(self, entry: str) -> Path:
        """Return the file with the judgement of an entry."""
        return self.folder / "results" / f"{entry}.json"

    def probed(self, name: str) -> Path:
        """Return the file with a model's losses under the probes; `name` is an entry, the original or a reference."""
        return self.folder / "probed" / f"{name}.json"

    def compared(self, entry: str) -> Path:
        """Return the file with the comparison of an entry under the probes; an entry that has it is done."""
        return self.folder / "compared" / f"{entry}.json"

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock for the length of a `with` block; a killed process holds none.

        Args:
            name: of the lock.
            wait: whether to wait for another process that holds it, or to yield False.
        """
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
