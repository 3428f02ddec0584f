"""Data of the report's figures, small enough to be part of the evidence."""

import numpy as np
from numpy.typing import NDArray

from verify.schema.figures import Figures, Histogram, Residuals, RocCurve
from verify.scores.table import ScoreTable
from verify.statistics.residual import ResidualVerdict
from verify.statistics.roc import roc_curve

LEVEL_TABLE = "level table"
"""Label of the losses that a level table expects of a model that never saw the records."""
BINS = 40
ROC_POINTS = 60
QUANTILES = 500


def figures(table: ScoreTable, verdict: ResidualVerdict | None, by_table: bool = False) -> Figures:
    """Compute histograms of losses, ROC curves of every membership attack, and per-record residuals.

    Args:
        table: the scores.
        verdict: the residual test; None where there was none.
        by_table: whether it is by a level table, whose estimate of the target's losses, had it never seen them, is then drawn too.
    """
    models = list(table.models())
    losses = {model: table.loss(model, "forget") for model in models}
    if by_table and verdict is not None:
        losses[LEVEL_TABLE] = verdict.residual + losses["target"]
    top = max(float(np.quantile(values, 0.99)) for values in losses.values())
    bottom = min(0.0, *(float(values.min()) for values in losses.values()))
    edges = np.linspace(bottom, max(top * 1.02, 1e-6), BINS + 1)
    histograms = tuple(
        Histogram(
            model=model,
            edges=tuple(edges.tolist()),
            counts=tuple(np.histogram(np.minimum(values, edges[-1]), edges)[0].tolist()),
        )
        for model, values in losses.items()
    )
    return Figures(
        losses=histograms,
        roc=tuple(_curves(table, models)),
        residuals=None if verdict is None else _residuals(verdict),
    )


def _curves(table: ScoreTable, models: list[str]) -> list[RocCurve]:
    curves = []
    for model in models:
        forget, control = table.blocks[model, "forget"], table.block(model, "holdout")
        if control is None:
            continue
        # The smallest resolvable rate is one false positive among all controls.
        grid = np.geomspace(1 / len(control.records), 1.0, ROC_POINTS)
        for name in forget.scores:
            curve = roc_curve(forget.scores[name], control.scores[name])
            # The largest true-positive rate at a false-positive rate of at most the grid's.
            reached = np.searchsorted(curve.fpr, grid + 1e-12, side="right") - 1
            curves.append(
                RocCurve(attack=name, model=model, fpr=tuple(grid.clip(0, 1).tolist()), tpr=tuple(curve.tpr[reached].tolist()))
            )
    return curves


def _residuals(verdict: ResidualVerdict) -> Residuals:
    order = np.argsort(verdict.residual)
    if len(order) > QUANTILES:
        order = order[np.linspace(0, len(order) - 1, QUANTILES).round().astype(int)]

    def column(values: NDArray[np.float64]) -> tuple[float, ...]:
        return tuple(float(value) for value in values[order])

    margin = verdict.margin * np.maximum(verdict.gap, 0.0)
    return Residuals(residual=column(verdict.residual), margin=column(margin), gap=column(verdict.gap))
