"""Standard error of a difference of two means that holds for few units and for very unequal variances.

The larger of Welch's and the pooled one, with Welch-Satterthwaite degrees of freedom where the former is larger and n + m - 2
otherwise. Where both sides vary alike, as under honest retraining, the pooled one is exact; where a few units vary more, Welch's
protects. Either alone fails: at a one-sided level of 0.001, Welch's test of 2 against 20 equal units rejects 21 times too often
(and 35 times with the pooled degrees of freedom), because the variance of two units is sometimes tiny; the larger of both, 0.65
times. A single unit shows no variance and takes the other side's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TINY = 1e-12
"""Smallest standard error: values that agree to the last bit give none."""


@dataclass(frozen=True)
class StandardError:
    """A standard error, in the unit of the data, and its degrees of freedom."""

    size: float
    degrees: float


def difference_error(first: Array, second: Array) -> StandardError:
    """Return the standard error of mean(first) - mean(second).

    Args:
        first, second: one value a unit [n] and [m], at least three together and one on each side.
    """
    n, m = len(first), len(second)
    if min(n, m) == 1:
        variance = float((second if n == 1 else first).var(ddof=1))
        return StandardError(max(float(np.sqrt(variance * (1 / n + 1 / m))), TINY), max(n, m) - 1)
    a, b = float(first.var(ddof=1)) / n, float(second.var(ddof=1)) / m
    pooled = ((n - 1) * n * a + (m - 1) * m * b) / (n + m - 2) * (1 / n + 1 / m)
    if a + b <= pooled:
        return StandardError(max(float(np.sqrt(pooled)), TINY), n + m - 2)
    return StandardError(float(np.sqrt(a + b)), (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)))
