"""Difficulty-calibrated scores and two-sided conformal tests against controls, shared by several tiers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from verify.schema.claims import ConformalFinding
from verify.schema.parts import SetRole
from verify.scores.table import ScoreTable
from verify.statistics.multiplicity import benjamini_hochberg, conformal_p_values

Array = NDArray[np.float64]

BLIND_LEVEL = 0.01
"""Level of the blind baseline at which controls are rejected: texts that differ this clearly were not drawn at random."""


def calibrators(table: ScoreTable, role: SetRole) -> list[str]:
    """Return the models that never saw the records in question: the retrained references, else the base."""
    scored = [model for model in table.models() if table.block(model, role) is not None]
    references = [model for model in scored if model.startswith("reference")]
    return references or [model for model in scored if model == "base"]


def calibrated(table: ScoreTable, model: str, role: SetRole) -> Array:
    """Compute each record's mean log-probability minus its mean under models that never saw it, nats per token [N].

    Without such a model it is the plain log-probability: still valid, but less powerful, since difficulty adds variance.
    """
    own = -table.loss(model, role)
    others = calibrators(table, role)
    return own + table.losses(others, role).mean(axis=0) if others else own


def describe_calibration(table: ScoreTable, role: SetRole) -> str:
    """Describe the calibrated score in words, as the evidence and the report print it."""
    count = len(calibrators(table, role))
    if not count:
        return "mean log-probability per token"
    return f"mean log-probability per token, less its mean under {count} model{'s' if count > 1 else ''} that never saw the text"


def conformal_findings(names: Sequence[str], scores: Array, controls: Array, q: float) -> tuple[ConformalFinding, ...]:
    """Find scores that differ from the controls' in either direction, at a false-discovery rate of q over both."""
    findings = []
    for direction, sign in (("remembered", 1.0), ("over-forgotten", -1.0)):
        rejections = benjamini_hochberg(conformal_p_values(sign * scores, sign * controls), q / 2)
        findings += [
            ConformalFinding.model_validate(
                {"record": names[i], "direction": direction, "adjusted_p": float(rejections.adjusted[i])}
            )
            for i in np.flatnonzero(rejections.rejected).tolist()
        ]
    return tuple(sorted(findings, key=lambda finding: finding.adjusted_p))
