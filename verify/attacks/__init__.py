"""Privacy attacks, one file each; the directories are the registry.

`membership/` infers whether a record was trained on, `extraction/` whether the model gives its text away.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.attacks import extraction, membership
from verify.errors import InputError
from verify.io.catalogue import catalogue
from verify.io.plugins import discover

if TYPE_CHECKING:
    from verify.attacks.base import Attack

FAMILIES = (membership, extraction)
LEVELS = {"quick": 0.0, "standard": 1.0, "full": float("inf")}
"""Largest `cost` of an attack in each level: forward passes over a record in addition to the shared one."""


def attack_classes() -> dict[str, Any]:
    """Return every attack's class by its command-line name: membership attacks first, then extraction attacks."""
    return {name: kind for family in FAMILIES for name, kind in discover(family, "score").items()}


def attack_catalogue() -> dict[str, Mapping[str, Any]]:
    """Return every attack's class attributes by its command-line name, without importing torch."""
    return {name: entry for family in FAMILIES for name, entry in catalogue(Path(family.__path__[0]), "score").items()}


def select_attacks(names: Sequence[str] = ()) -> "Mapping[str, Attack]":
    """Instantiate attacks with their published parameters, in the order asked for.

    Args:
        names: attacks, or levels: "quick" (the shared pass alone), "standard" (at most one further pass; the default), "full".

    Raises:
        InputError: a name is unknown.
    """
    classes = attack_classes()
    unknown = [name for name in names if name not in classes and name not in LEVELS]
    if unknown:
        known = ", ".join((*LEVELS, *classes))
        raise InputError(f"there is no attack called {', '.join(unknown)}. Use any of: {known}.")
    chosen = [
        entry
        for name in names or ("standard",)
        for entry in ([name] if name in classes else [one for one in classes if classes[one].cost <= LEVELS[name]])
    ]
    return {name: classes[name]() for name in dict.fromkeys(chosen)}


def cost_of(names: Sequence[str] = ()) -> str:
    """Describe the cost of a selection of attacks in forward passes, to print before they run.

    Raises:
        InputError: a name is unknown.
    """
    chosen = select_attacks(names)
    extra = {name: attack.cost for name, attack in chosen.items() if attack.cost}
    if not extra:
        return f"{len(chosen)} attacks from one pass over each record"
    listed = ", ".join(f"{name} {cost:g}" for name, cost in sorted(extra.items(), key=lambda entry: -entry[1]))
    return f"{len(chosen)} attacks: one pass over each record and about {sum(extra.values()):g} more ({listed})"
