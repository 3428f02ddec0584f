"""Paired prediction-interval t-test of whether the target is exchangeable with its reference models.

A confidence interval of the references' mean is the wrong yardstick: it shrinks as references are added, while the target stays
one model with its own seed. A new draw differs from the mean of R by s sqrt(1 + 1/R).

The null is "nothing is left at all", without a margin: a large p-value is no evidence of forgetting. Verdicts come from
`residual_verdict`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from verify.statistics.critical_values import t_quantile
from verify.statistics.estimate import Estimate


@dataclass(frozen=True, eq=False)
class PredictionTest:
    """One t statistic per record.

    Attributes:
        difference: references' mean loss minus the target's, nats per token [K]; positive where the target fits the record better.
        statistic: the difference in units of its standard error [K].
        remembered, inverted: one-sided p-values for a difference above and below zero [K].
        degrees: degrees of freedom of every statistic.
    """

    difference: NDArray[np.float64]
    statistic: NDArray[np.float64]
    remembered: NDArray[np.float64]
    inverted: NDArray[np.float64]
    degrees: int


def prediction_test(
    target: ArrayLike, references: ArrayLike, variance: Literal["pooled", "per record"] = "per record"
) -> PredictionTest:
    """Compare a target's losses with those of retrained references, record by record.

    Args:
        target: mean losses, nats per token [K].
        references: the same under each reference [R, K], R >= 2. Means over the set, K = 1, test the set as a whole.
        variance: "per record" has R - 1 degrees of freedom and needs no assumption; "pooled" has K (R - 1), and is right only
            where every record has the same variance and references are independent from record to record.

    Returns:
        one t statistic per record with its one-sided p-values.

    Raises:
        ValueError: shapes that do not fit, fewer than two references, a loss that is not finite, or a variance of zero.
    """
    losses, refs = np.asarray(target, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if refs.ndim != 2 or len(refs) < 2 or losses.shape != refs.shape[1:] or not len(losses):
        raise ValueError(f"expected losses [K] and [R, K] with at least two references, got {losses.shape} and {refs.shape}")
    if not np.isfinite(losses).all() or not np.isfinite(refs).all():
        raise ValueError("losses must be finite")
    if variance not in ("pooled", "per record"):
        raise ValueError(f'the variance is "pooled" or "per record", got {variance!r}')
    count, records = refs.shape
    sample = refs.var(axis=0, ddof=1)  # [K]
    pooled = variance == "pooled"
    spread, degrees = (sample.mean(), records * (count - 1)) if pooled else (sample, count - 1)
    if not np.all(spread > 0):
        raise ValueError("references that agree to the last bit on a record show no spread to judge it by")
    difference = refs.mean(axis=0) - losses
    # The variance of a new draw plus that of the references' mean.
    statistic = difference / np.sqrt(spread * (1 + 1 / count))
    return PredictionTest(difference, statistic, stats.t.sf(statistic, degrees), stats.t.cdf(statistic, degrees), degrees)


def mean_of_new(values: ArrayLike, count: int, confidence: float) -> Estimate:
    """Predict the mean of further draws from the distribution of given ones, with a t interval.

    Args:
        values: independent draws [N], N >= 2.
        count: number of further draws M, at least one.
        confidence: confidence level of the interval.

    Returns:
        mean(values), and the interval mean -+ t s sqrt(1 / N + 1 / M) that the new mean lies in.

    Raises:
        ValueError: fewer than two draws, none to predict, or a value that is not finite.
    """
    drawn = np.asarray(values, dtype=np.float64)
    if drawn.ndim != 1 or len(drawn) < 2 or count < 1 or not np.isfinite(drawn).all():
        raise ValueError(f"expected at least two finite draws [N] and a count of at least one, got {drawn.shape} and {count}")
    mean = float(drawn.mean())
    error = float(drawn.std(ddof=1)) * (1 / len(drawn) + 1 / count) ** 0.5
    reach = t_quantile((1 + confidence) / 2, len(drawn) - 1) * error
    return Estimate(mean, mean - reach, mean + reach, n=len(drawn), level=confidence)
