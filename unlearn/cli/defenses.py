"""Flags of `unlearn train --defense`: the choice of a defence and its settings."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from unlearn.defenses.base import Defense
    from unlearn.training.options import TrainingOptions

PRIVATE = ("target_epsilon", "target_delta", "privacy_unit", "accountant", "noise_seed")
FEDERATED = ("client_field", "clients", "rounds", "local_epochs", "engine", "keep_updates")


@dataclasses.dataclass(frozen=True)
class DefenseFlags:
    """Defence to train under; unset flags take the defence's default."""

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(PRIVATE, "--defense dp"),
        **dict.fromkeys(FEDERATED, "--defense federated"),
    }

    defense: Literal["none", "dp", "federated"] = "none"
    """dp: differential privacy (Opacus); federated: clients exchange weights, not records (Flower)."""
    target_epsilon: float | None = None
    """With dp: the privacy budget epsilon (8). Each unit's gradient is clipped to --max-grad-norm."""
    target_delta: float | None = None
    """With dp: delta, the probability with which the guarantee may fail (1e-5)."""
    privacy_unit: Literal["record", "subject"] | None = None
    """With dp: the unit of privacy, one record (the default) or all records of one subject."""
    accountant: Literal["rdp", "prv"] | None = None
    """With dp: how epsilon is computed, rdp (the default) or the tighter and slower prv."""
    noise_seed: int | None = None
    """With dp: makes the noise reproducible, for research only; there is no privacy against anybody who knows the seed."""
    client_field: str | None = None
    """With federated: the column that names each record's client; the default is the subject column."""
    clients: int | None = None
    """With federated: distribute the subjects over this many clients instead."""
    rounds: int | None = None
    """With federated: number of rounds of local training and averaging (5)."""
    local_epochs: float | None = None
    """With federated: epochs of each client in a round (1)."""
    engine: Literal["in-process", "simulation"] | None = None
    """With federated: sequential clients in this process (the default), or parallel ones on Flower's simulation engine (Ray)."""
    keep_updates: bool | None = None
    """With federated: keep every client's weights of every round, which federaser needs (yes)."""

    def chosen(self, training: "TrainingOptions") -> "Defense | None":
        """Return the defence that these flags describe, or None.

        Raises:
            InputError: a value is out of range.
        """
        from unlearn.defenses import DifferentialPrivacy, Federated

        given = {name: value for name in (*PRIVATE, *FEDERATED) if (value := getattr(self, name)) is not None}
        if self.defense == "dp":
            return DifferentialPrivacy(max_grad_norm=training.max_grad_norm, **given)
        return Federated(**given) if self.defense == "federated" else None


def summary(defense: dict[str, Any] | None) -> str:
    """Return the lines about the defence of a finished training; empty without a defence."""
    if defense is None:
        return ""
    if "epsilon" in defense:
        units = f"{defense['units']} {defense['parameters']['privacy_unit']}s"
        spent = f"epsilon {defense['epsilon']:.2f} at delta {defense['delta']:g}"
        return f"\nprivacy:      {spent}, {units}, noise {defense['noise_multiplier']:.2f} in {defense['steps']} steps"
    return f"\nclients:      {defense['clients_trained']} in {defense['parameters']['rounds']} rounds"
