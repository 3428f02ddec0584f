"""Residues of deleted data: one entry per path, with its kind, how it was found, and whether it may be removed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Residue:
    """A path that contains, or may contain, deleted data.

    Attributes:
        place: path of a file or folder, absolute and without symbolic links.
        kind: "log", "notebook", "checkpoint", ...
        how: how it was found, by its content or by lineage.
        removable: whether `remove` may remove the data, with or without the whole file.
        reason: why it may not be removed; "" where it may.
        weights: digest of the weights, for models.
    """

    place: Path
    kind: str
    how: str
    removable: bool
    reason: str
    weights: str | None = None

    def staying(self, reason: str) -> "Residue":
        """Return it as one that stays, with the reason."""
        return Residue(self.place, self.kind, self.how, False, reason, self.weights)


class FoundResidue(Residue):
    """A residue with its cleaning action, which is not a field because it refers to text that must not be printed or stored."""

    action: Callable[[], object]

    def __init__(self, place: Path, kind: str, how: str, action: Callable[[], object], weights: str | None = None) -> None:
        super().__init__(place, kind, how, True, "", weights)
        object.__setattr__(self, "action", action)


class CannotCleanError(Exception):
    """Deleted data cannot be removed from a file; the message is the reason shown to the user."""


TRAINING_FILE = "training file"
"""Kind of a file of training data itself, as opposed to copies of it."""
BY_CONTENT = "it contains a passage"
"""Value of `how` for everything that was found by its content."""
