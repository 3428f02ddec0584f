"""Levels of a pool against full retrainings: correlation, slope, bias and error, by record and by subject, with intervals.

A pool's model k loses m_i(k) on record i; it has an effect of its own on everything, M_k, which controls show. A record's level is
the mean over the R models that never saw its subject; that of a control is the mean over R models drawn for its subject:

    M_k = mean_c m_c(k) - mean_ck m_c(k),      l_i = mean_{k in O_i} (m_i(k) - M_k)

Against a full retraining t without i's subject, which is the honest target of an audit:

    before calibration   l_i - m_i(t)
    after calibration    d_i = a + b l_i - m_i(t),    (a, b) least squares of m_c(t) on l_c over the controls

Further statistics of the pools' one pass can be regressed on as well; the regression then has a coefficient for each.

Intervals are percentiles of a bootstrap over subjects, with the models fixed: they say how far other subjects would give another
number, not how far another pool would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from benchmarks.level_table.measure import Scored
from verify.statistics.channels import EXACT_TEXT
from verify.statistics.estimate import Estimate

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Pool:
    """Models that left out some of the records.

    Attributes:
        losses: records under each model [M, K]; NaN where it was trained on the record.
        controls: controls under each [M, N].
    """

    losses: Array
    controls: Array

    @classmethod
    def of(cls, models: Sequence[Scored], trained_on: Sequence[NDArray[np.bool_]], channel: str) -> "Pool":
        """Put the losses of some models side by side."""
        own = [np.where(trained, np.nan, model.own(channel)) for model, trained in zip(models, trained_on, strict=True)]
        return cls(np.array(own), np.array([model.controls(channel) for model in models]))

    def levels(self, control_subjects: Numbers, seed: int) -> tuple[Array, Array]:
        """Return the levels of records [K] and controls [N], nats per token; NaN for a record that every model was trained on."""
        effect = self.controls.mean(axis=1) - self.controls.mean()
        known = ~np.isnan(self.losses)
        count = known.sum(axis=0)
        total = np.where(known, self.losses - effect[:, None], 0.0).sum(axis=0)
        levels = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        used = int(count[count > 0].min())
        draw = np.random.default_rng(seed)
        drawn = np.array([draw.permutation(len(self.losses))[:used] for _ in range(int(control_subjects.max()) + 1)])
        chosen = drawn[control_subjects].T  # models of each control [R, N]
        controls = np.take_along_axis(self.controls - effect[:, None], chosen, axis=0).mean(axis=0)
        return levels, controls


@dataclass(frozen=True, eq=False)
class Pairs:
    """Levels beside what honest targets lose, over all pairs of a record and a target that never saw it.

    Attributes:
        level, loss: l_i and m_i(t), nats per token [P].
        centre: mean l_c and mean m_c(t) over the controls, of the pair's target [2, P].
        residual: d_i [P].
        slope: b of the pair's target, the first coefficient [P].
        subject, target: numbers [P].
        control_level, control_loss: l_c and m_c(t) of all targets one after the other, each less its mean over the controls [Q].
        control_residual: m_c(t) predicted minus observed [Q].
        control_subject: numbers [Q].
    """

    level: Array
    loss: Array
    centre: Array
    residual: Array
    slope: Array
    subject: Numbers
    target: Numbers
    control_level: Array
    control_loss: Array
    control_residual: Array
    control_subject: Numbers


def joined(parts: Sequence[Pairs]) -> Pairs:
    """Put the pairs of several worlds together; subjects and targets of two worlds are different ones."""

    def distinct(name: str) -> Numbers:
        columns = [getattr(part, name) for part in parts]
        starts = np.cumsum([0, *(int(column.max()) + 1 for column in columns[:-1])])
        return np.concatenate([column + start for column, start in zip(columns, starts, strict=True)])

    numbers = ("subject", "target", "control_subject")
    values = {
        entry.name: distinct(entry.name)
        if entry.name in numbers
        else np.concatenate([getattr(part, entry.name) for part in parts], axis=-1)
        for entry in fields(Pairs)
    }
    return Pairs(**values)


@dataclass(frozen=True)
class Comparison:
    """How well a pool tells what full retrainings lose.

    Attributes:
        correlation, correlation_subjects: of levels with losses, both less the controls' means, by record and by subject.
        slope: of losses on levels over records; `control_slope`: over controls, mean of the targets.
        raw_bias: mean l - m(t), nats per token. bias: mean d, in units of the gap.
        error, error_subjects: root mean square of d, and of its means by subject, in units of the gap.
        control_correlation: of levels with losses over the controls, by record.
        control_error: root mean square over controls, in units of the gap.
        pairs, subjects: counts.
    """

    correlation: Estimate
    correlation_subjects: Estimate
    slope: Estimate
    control_slope: float
    raw_bias: Estimate
    bias: Estimate
    error: Estimate
    error_subjects: Estimate
    control_correlation: Estimate
    control_error: float
    pairs: int
    subjects: int


def pair_up(
    pools: Callable[[int], Sequence[Pool]],
    targets: Sequence[tuple[Array, Array, Numbers]],
    subjects: Numbers,
    controls: Numbers,
    seed: int,
) -> Pairs:
    """Predict every honest target by a pool.

    Args:
        pools: number of the target -> the pool that predicts it (for full retrainings, the others), its losses first, then any
            further statistics of the same models to regress on.
        targets: of each target, losses of records [K] and controls [N], and the records that it never saw.
        subjects, controls: number of the subject of each record [K] and control [N].
        seed: draws the models of the controls.
    """
    rows, left = [], []
    for number, (losses, control_losses, unseen) in enumerate(targets):
        columns = [pool.levels(controls, seed) for pool in pools(number)]
        known = np.column_stack([np.ones(len(unseen)), *(levels[unseen] for levels, _ in columns)])
        known_controls = np.column_stack([np.ones(len(controls)), *(others for _, others in columns)])
        coefficients = np.linalg.lstsq(known_controls, control_losses)[0]
        ones, own = np.ones(len(unseen)), losses[unseen]
        centre = (ones * known_controls[:, 1].mean(), ones * control_losses.mean())
        numbers = (subjects[unseen], np.full(len(unseen), number))
        rows.append((known[:, 1], own, *centre, known @ coefficients - own, ones * coefficients[1], *numbers))
        level, loss = known_controls[:, 1], control_losses
        left.append((level - level.mean(), loss - loss.mean(), known_controls @ coefficients - loss, controls))
    level, loss, *centres, residual, slopes, subject, target = (np.concatenate(column) for column in zip(*rows, strict=True))
    others = (np.concatenate(column) for column in zip(*left, strict=True))
    return Pairs(level, loss, np.array(centres), residual, slopes, subject, target, *others)


def compare(pairs: Pairs, gap: float, seed: int = 0) -> Comparison:
    """Summarise pairs, in units of the mean gap (nats per token) where said."""
    x, y = pairs.level - pairs.centre[0], pairs.loss - pairs.centre[1]
    raw = pairs.level - pairs.loss
    by_record = _Weighted(pairs.subject, seed)
    # One pair for each subject and target.
    both = pairs.subject * (int(pairs.target.max()) + 1) + pairs.target
    _, first, number = np.unique(both, return_index=True, return_inverse=True)
    x_s, y_s, d_s = (np.bincount(number, values) / np.bincount(number) for values in (x, y, pairs.residual))
    by_subject = _Weighted(pairs.subject[first], seed)
    return Comparison(
        correlation=by_record.estimate(lambda w: _correlation(w, x, y)),
        correlation_subjects=by_subject.estimate(lambda w: _correlation(w, x_s, y_s)),
        slope=by_record.estimate(lambda w: _slope(w, x, y)),
        control_slope=float(pairs.slope.mean()),
        raw_bias=by_record.estimate(lambda w: w @ raw / w.sum(axis=1)),
        bias=by_record.estimate(lambda w: w @ pairs.residual / w.sum(axis=1) / gap),
        error=by_record.estimate(lambda w: np.sqrt(w @ pairs.residual**2 / w.sum(axis=1)) / gap),
        error_subjects=by_subject.estimate(lambda w: np.sqrt(w @ d_s**2 / w.sum(axis=1)) / gap),
        control_correlation=_Weighted(pairs.control_subject, seed).estimate(
            lambda w: _correlation(w, pairs.control_level, pairs.control_loss)
        ),
        control_error=float(np.sqrt(np.mean(pairs.control_residual**2)) / gap),
        pairs=len(x),
        subjects=len(np.unique(pairs.subject)),
    )


class _Weighted:
    """Bootstrap over subjects: weights of pairs in every draw, and once as they are."""

    def __init__(self, subject: Numbers, seed: int) -> None:
        names, number = np.unique(subject, return_inverse=True)
        drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
        self.weights = np.vstack([np.ones(len(names)), drawn]).astype(np.float64)[:, number]
        self.count, self.seed = len(names), seed

    def estimate(self, of: Callable[[Array], Array]) -> Estimate:
        """Return a statistic of the weights [1 + draws, P] with its percentile interval."""
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one subject alone has no correlation
            value, *drawn = of(self.weights)
        low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)), self.count, LEVEL, self.seed)


def _moments(w: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Return the weighted variances of x and y and their covariance [D]."""
    total = w.sum(axis=1)
    mean_x, mean_y = w @ x / total, w @ y / total
    return w @ x**2 / total - mean_x**2, w @ y**2 / total - mean_y**2, w @ (x * y) / total - mean_x * mean_y


def _correlation(w: Array, x: Array, y: Array) -> Array:
    variance_x, variance_y, covariance = _moments(w, x, y)
    return np.asarray(covariance / np.sqrt(variance_x * variance_y))


def _slope(w: Array, x: Array, y: Array) -> Array:
    variance_x, _, covariance = _moments(w, x, y)
    return np.asarray(covariance / variance_x)


def mean_gap(original: Scored, targets: Sequence[tuple[Scored, Numbers]], channel: str = EXACT_TEXT) -> float:
    """Return the mean gap of the unseen records, contrasted with controls, nats per token."""
    own = np.concatenate([target.own(channel)[unseen] - original.own(channel)[unseen] for target, unseen in targets])
    other = np.mean([(target.controls(channel) - original.controls(channel)).mean() for target, _ in targets])
    return float(own.mean() - other)
