"""Training-time defences: differential privacy and federated learning.

A defence is a frozen dataclass with `train(task) -> Defended`: it trains the model of a task on its records and returns the model
with facts for the manifest. The libraries that they need are optional: `unlearn-verify[dp]`, `unlearn-verify[federated]`.
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
"""Every defence by its name in manifests and training logs."""


def defense_of(about: Mapping[str, Any]) -> Defense | None:
    """Return the defence in a model's manifest, or None.

    Raises:
        InputError: this version does not know it.
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
