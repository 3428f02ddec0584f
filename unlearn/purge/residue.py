"""Residues of deleted data: one entry per path, with what it is, how it was found and what may be done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Residue:
    """A path that contains, or may contain, deleted data.

    Attributes:
        place: a file or folder, absolute and without symbolic links.
        kind: what it is: "log", "notebook", "checkpoint", ...
        how: how it was found: by its content, or by lineage.
        removable: whether `remove` may remove the data, the place or not.
        reason: why not; "" where it may.
        weights: digest of the weights, for models.
    """

    place: Path
    kind: str
    how: str
    removable: bool
    reason: str
    weights: str | None = None


class FoundResidue(Residue):
    """A residue with its cleaning action, which is no field because it holds what nobody may print or store."""

    action: Callable[[], None]

    def __init__(self, place: Path, kind: str, how: str, action: Callable[[], None], weights: str | None = None) -> None:
        super().__init__(place, kind, how, True, "", weights)
        object.__setattr__(self, "action", action)


class CannotMendError(Exception):
    """Deleted data cannot be removed; the message is the reason, as an end user reads it."""


BY_CONTENT = "a passage stands in it"
"""How, for everything that was found by what it holds."""
