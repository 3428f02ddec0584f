"""A2 and A3: every record, or every subject, against the margin, corrected for their number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.statistics.moderation import ModeratedVariances
from verify.statistics.multiplicity import Rejections
from verify.statistics.panel import ReferencePanel
from verify.statistics.tails import ScaledT

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RecordTest:
    """A2 of records or A3 of subjects: each against the margin. K counts records or subjects.

    Attributes:
        statistic: t_i, the larger of the two one-sided statistics [K].
        remembered: whether it is the upper one (else over-forgotten) [K].
        p_values: the largest of the moderated t's and the fitted tails' [K].
        rejections: A2: Benjamini-Hochberg; A3: Holm.
        variances: the moderated variances and their prior.
        tail: the tail fitted to the leave-one-reference-out statistics; None with two references, which leave nothing to fit,
            so that no record is accused.
        far_tail: the same fitted to the largest of them alone; None whenever `tail` is.
        noise: lambda, the variance of the target's noise in units of the references'; 1 where it was not measured.
    """

    statistic: Array
    remembered: NDArray[np.bool_]
    p_values: Array
    rejections: Rejections
    variances: ModeratedVariances
    tail: ScaledT | None
    far_tail: ScaledT | None
    noise: float = 1.0

    @property
    def accused(self) -> NDArray[np.bool_]:
        """Which records exceed the margin, bool [K]."""
        return self.rejections.rejected


def record_test(
    residual: Array,
    gap: Array,
    panel: ReferencePanel,
    margin: float,
    correction: Callable[[Array], Rejections],
    noise: float = 1.0,
) -> RecordTest:
    """Test H0_i: |d_i| <= rho* g_i for every record.

    Args:
        residual, gap: d_i and g_i, nats per token [K].
        panel: the references' statistics over the same K.
        margin: rho*.
        correction: for multiplicity, from p-values of distinct texts.
        noise: lambda >= 1.
    """
    count, moderated = len(panel.losses), panel.variances
    # Where the original fits a record no better than the references do (g <= 0), the margin is zero, never negative.
    allowed = margin * np.maximum(gap, 0.0)
    error_above, error_below = (np.sqrt(noise * moderated.variances * (1 + (1 - x) ** 2 / count)) for x in (margin, -margin))
    above, below = (residual - allowed) / error_above, (-residual - allowed) / error_below
    statistic, width = np.maximum(above, below), 2 * allowed / error_below
    p = np.ones_like(statistic)  # without a fitted tail no record is accused
    tails = [tail for tail in (panel.tail, panel.far_tail) if tail is not None]
    if tails:
        nominal = ScaledT(moderated.degrees, 1.0)
        p = np.max([_interval_p(distribution, statistic, width) for distribution in (nominal, *tails)], axis=0)
    found = correction(p[panel.distinct])
    everywhere = Rejections(found.rejected[panel.standing_for], found.adjusted[panel.standing_for], found.level)
    return RecordTest(statistic, above >= below, p, everywhere, moderated, panel.tail, panel.far_tail, noise)


def _interval_p(distribution: ScaledT, statistic: Array, width: Array) -> Array:
    """Compute the largest Pr[max(above, below) > t] over |d_i| <= rho* g_i, reached at the ends (Hodges and Lehmann 1954).

    Where the margin is small against the noise, the opposite limit can be exceeded by chance too, hence the second term.
    """
    both = distribution.beyond(statistic) + distribution.beyond(statistic + width)
    return np.asarray(np.minimum(both, 1.0), dtype=np.float64)
