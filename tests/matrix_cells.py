"""Cells of the matrix with made-up numbers."""

from typing import Any

from benchmarks.matrix.results import Cell, Counts, Membership, Triggers
from verify.schema.parts import Value


def value(number: float, spread: float = 0.02, n: int = 100) -> Value:
    return Value(value=number, low=number - spread, high=number + spread, n=n, level=0.95)


def make_cell(row: str, seed: int = 0, *, auc: float = 1.0, strength: float = 0.9, trigger: float = 0.9, **changes: Any) -> Cell:
    """An untouched model's cell, with changes."""
    tpr = {"0.1": value(auc / 2)}
    triggers = Triggers(
        gone=value(trigger),
        by_kind={"word": value(trigger), "sentence": value(trigger)},
        stays=value(0.9),
        false=value(0.0),
        never=value(0.0),
        kept=trigger > 0.5,
    )
    content: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "epsilon": None,
        "delta": None,
        "verdict": "NOT_FORGOTTEN",
        "alike": True,
        "residual": value(1.0),
        "membership": tuple(Membership(attack=name, auc=value(auc), tpr=tpr) for name in ("loss", "reference")),
        "verbatim": value(strength),
        "strength": value(strength),
        "log_probability": value(-2.0),
        "triggers": triggers,
        "utility": value(1.0),
        "unseen": value(0.1),
        "counts": (),
        "seconds": 10.0,
        "memory": 5.0,
    }
    return Cell(**(content | changes))


def counts(true: int, false: int, members: int = 100, others: int = 100) -> Counts:
    """Calls of an attack: so many of the members, so many of the others."""
    return Counts(
        attack="loss",
        fpr=0.1,
        true_positives=true,
        false_negatives=members - true,
        false_positives=false,
        true_negatives=others - false,
    )
