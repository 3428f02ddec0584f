"""Means over records with Student's t interval."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from verify.statistics.estimate import Estimate, require_confidence


def mean_with_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of independent values and its two-sided t interval (Student 1908).

    Args:
        values: [N], finite; at least 2, since one value says nothing of its spread.
        confidence: level of the interval.

    Raises:
        ValueError: fewer than two values, one that is not finite, or confidence outside (0, 1).
    """
    require_confidence(confidence)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"a mean with an interval needs at least two values in one dimension, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("the values must be finite")
    mean = float(x.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(mean, mean - half, mean + half, len(x), confidence)
