"""Training-time defences: differential privacy and federated learning.

A defence is one frozen dataclass with `train(task) -> Defended`: how the records of a task are learned under it, and what is to be
said about that beside the model. The libraries that they stand on are optional: `unlearn-verify[dp]`, `unlearn-verify[federated]`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unlearn.defenses.base import Defense
from unlearn.defenses.differential_privacy import DifferentialPrivacy
from unlearn.defenses.federated import Federated
from verify.errors import InputError

__all__ = ["DEFENSES", "Defense", "DifferentialPrivacy", "Federated", "defense_of"]

DEFENSES: Mapping[str, type[DifferentialPrivacy] | type[Federated]] = {kind.name: kind for kind in (DifferentialPrivacy, Federated)}
"""Every defence by the name that manifests and training logs give it."""


def defense_of(about: Mapping[str, Any]) -> Defense | None:
    """Return the defence in a model's manifest, or None.

    Raises:
        InputError: it is none of this version.
    """
    described = about.get("defense")
    if described is None:
        return None
    try:
        kind, parameters = DEFENSES[described["name"]], dict(described["parameters"])
        known = {field.name for field in dataclasses.fields(kind)}
        if set(parameters) - known:
            raise ValueError
        return kind(**parameters)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "the model was trained under a defence that this version does not know. Run its command again by hand."
        ) from None
