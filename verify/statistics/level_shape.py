"""Check that controls show a target the same relation of level to loss as the original, channel by channel.

All tests by a level table take the line that controls follow for the one that deleted records would follow. Whoever can move the
losses of the controls (with the auditor's file, or with texts like it) can turn that line with their mean unchanged: hard controls
lose less, easy ones more. Records that are kept in the same proportion then lie on the line, and nothing accuses them. The original
saw none of the controls and is trained as the target should be, so that their difference knows no level:

    u_c = m_c(target) - m_c(original) = h(l_c) + noise,    h(l) = h1 x + h2 x^2 less its mean over controls,    x: l standardised

h1 shows a line that was turned, h2 one that was bent. Subjects count equally; the covariance of (h1, h2) is a jackknife's over
control subjects, and H0: h = 0 is tested by Hotelling's T^2. What h moves is measured where it counts: by its root mean square over
the forget records on the exact text, whose single records are judged, and by its mean over them on other channels, of which only N
is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from verify.statistics.channels import EXACT_TEXT
from verify.statistics.contrasts import MIN_GAP
from verify.statistics.level_contrast import TableLosses, calibrate
from verify.statistics.level_fit import Calibration
from verify.statistics.two_samples import TINY

Array = NDArray[np.float64]

SHAPE_LEVEL = 0.01
"""Level of the check, over all channels together."""


@dataclass(frozen=True)
class ShapeCheck:
    """Whether a target's losses on controls differ from the original's by level, on one channel.

    Attributes:
        channel: name of the channel.
        moved: what the difference h moves of the forget records, nats per token, not negative.
        allowed: rho* G / 2, which h may move whatever its p-value.
        p_value: p-value of h = 0.
        level: level of this channel's test.
    """

    channel: str
    moved: float
    allowed: float
    p_value: float
    level: float

    @property
    def held(self) -> bool:
        """Whether h is within chance, or moves no more than half of the margin."""
        return self.p_value >= self.level or self.moved <= self.allowed


def control_shapes(
    losses: Mapping[str, TableLosses], subjects: Sequence[str], control_subjects: Sequence[str], margin: float, seed: int
) -> tuple[ShapeCheck, ...]:
    """Check every channel that can be calibrated and on which the original knows the forget set.

    One subject is never certified, and at one person's level chance moves much: of 20 audits of single people by one world's honest
    retrainings 10 failed, of 25 of several people none. So one subject is not checked.

    Args:
        losses, subjects, control_subjects, margin, seed: as `judge_table`.

    Returns:
        one check per channel, in the order given; none of a channel that was scored about too few control subjects for a line, or
        on which the mean gap is below `MIN_GAP`.
    """
    if len(set(subjects)) < 2:
        return ()
    found = {name: calibrate(channel, subjects, control_subjects, seed) for name, channel in losses.items()}
    judged = {
        name: (calibration, (losses[name].control_target - losses[name].control_original)[usable])
        for name, (calibration, _, usable) in found.items()
        if calibration is not None and calibration.subject_gap.mean() >= MIN_GAP
    }
    level = SHAPE_LEVEL / max(1, len(judged))
    return tuple(_check(name, calibration, difference, margin, level) for name, (calibration, difference) in judged.items())


def _check(name: str, found: Calibration, difference: Array, margin: float, level: float) -> ShapeCheck:
    levels, numbers, count = found.control.levels, found.control.numbers, found.control.subjects
    middle, scale = float(levels.mean()), max(float(levels.std()), TINY)
    weights = 1 / (count * np.bincount(numbers)[numbers])  # records of a subject share its weight; together 1
    powers = _powers((levels - middle) / scale)
    shape, covariance = _parabola(powers, difference, weights, numbers, count)
    # Beyond the controls nothing shows how h continues.
    asked = _powers((np.clip(found.forget.levels, levels.min(), levels.max()) - middle) / scale)[:, 1:] - weights @ powers[:, 1:]
    own = 1 / (found.forget.subjects * np.bincount(found.forget.numbers)[found.forget.numbers])
    along = asked @ shape
    moved = float(np.sqrt(own @ along**2)) if name == EXACT_TEXT else abs(float(own @ along))
    squared = float(shape @ np.linalg.solve(covariance + TINY * np.eye(2), shape))
    p = float(stats.f.sf(squared * (count - 2) / (2 * (count - 1)), 2, count - 2))
    return ShapeCheck(name, moved, margin * max(float(found.subject_gap.mean()), 0.0) / 2, p, level)


def _powers(x: Array) -> Array:
    return np.stack([np.ones_like(x), x, x * x], axis=1)


def _parabola(powers: Array, values: Array, weights: Array, numbers: NDArray[np.intp], count: int) -> tuple[Array, Array]:
    """Fit a parabola by least squares; return (h1, h2) and their jackknife covariance over subjects [2, 2]."""
    products = weights[:, None, None] * powers[:, :, None] * powers[:, None, :]
    sides = weights[:, None] * powers * values[:, None]
    by_subject = np.zeros((count, 3, 3)), np.zeros((count, 3))
    for summed, own in zip(by_subject, (products, sides), strict=True):
        np.add.at(summed, numbers, own)
    total = [own.sum(axis=0) for own in by_subject]
    one, others = (
        np.linalg.solve(square + TINY * np.eye(3), side[..., None])[..., 1:, 0]
        for square, side in (total, [whole - own for whole, own in zip(total, by_subject, strict=True)])
    )
    deviations = others - others.mean(axis=0)
    return one, (count - 1) / count * deviations.T @ deviations
