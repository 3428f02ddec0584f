"""The flags of `unlearn train --defense`: which defence, and its settings."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from unlearn.defenses.base import Defense
    from unlearn.training.options import TrainingOptions

PRIVATE = ("target_epsilon", "target_delta", "privacy_unit", "accountant", "noise_seed")
FEDERATED = ("client_field", "clients", "rounds", "local_epochs", "engine", "keep_updates")


@dataclasses.dataclass(frozen=True)
class DefenseFlags:
    """A defence to train under; what is left open takes the defence's own default."""

    defense: Literal["none", "dp", "federated"] = "none"
    """dp: differential privacy (Opacus); federated: clients exchange weights, not records (Flower)."""
    target_epsilon: float | None = None
    """With dp: the privacy budget (8). Each unit's gradient is clipped to --max-grad-norm."""
    target_delta: float | None = None
    """With dp: the probability with which the budget may fail (1e-5)."""
    privacy_unit: Literal["record", "subject"] | None = None
    """With dp: what is hidden, one record (the default) or all records of one subject."""
    accountant: Literal["rdp", "prv"] | None = None
    """With dp: how epsilon is bounded, rdp (the default), or the tighter and slower prv."""
    noise_seed: int | None = None
    """With dp: makes the noise repeatable, for research; nothing is private against whoever knows it."""
    client_field: str | None = None
    """With federated: the column that says whose each record is; the default is the subject's."""
    clients: int | None = None
    """With federated: deal the subjects to so many clients instead."""
    rounds: int | None = None
    """With federated: how often clients train and the server averages (5)."""
    local_epochs: float | None = None
    """With federated: passes of each client over its records in a round (1)."""
    engine: Literal["in-process", "simulation"] | None = None
    """With federated: in this process (the default), or clients side by side on Flower's simulation engine (Ray)."""
    keep_updates: bool | None = None
    """With federated: keep every client's weights of every round, which federaser needs (yes)."""

    def chosen(self, training: "TrainingOptions") -> "Defense | None":
        """The defence that these flags describe.

        Raises:
            InputError: a flag of another defence was given, or a value is out of range.
        """
        from unlearn.defenses import DifferentialPrivacy, Federated
        from verify.errors import InputError

        given = {name: value for name in (*PRIVATE, *FEDERATED) if (value := getattr(self, name)) is not None}
        own = {"none": (), "dp": PRIVATE, "federated": FEDERATED}[self.defense]
        if strange := [name for name in given if name not in own]:
            wanted = "dp" if strange[0] in PRIVATE else "federated"
            raise InputError(f"--{strange[0].replace('_', '-')} belongs to --defense {wanted}, and --defense is {self.defense}.")
        if self.defense == "dp":
            return DifferentialPrivacy(max_grad_norm=training.max_grad_norm, **given)
        return Federated(**given) if self.defense == "federated" else None


def summary(defense: dict[str, Any] | None) -> str:
    """What the command line says about the defence of a finished training; nothing where there was none."""
    if defense is None:
        return ""
    if "epsilon" in defense:
        units = f"{defense['units']} {defense['parameters']['privacy_unit']}s"
        spent = f"epsilon {defense['epsilon']:.2f} at delta {defense['delta']:g}"
        return f"\nprivacy:      {spent}, {units}, noise {defense['noise_multiplier']:.2f} in {defense['steps']} steps"
    return f"\nclients:      {defense['clients_trained']} in {defense['parameters']['rounds']} rounds"
