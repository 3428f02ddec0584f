"""Exact confidence intervals for proportions, and t intervals for means."""

import numpy as np
from numpy.typing import ArrayLike

from verify.statistics.critical_values import beta_quantile, t_quantile
from verify.statistics.estimate import Estimate, require_confidence


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """Compute the exact two-sided interval of a binomial proportion (Clopper and Pearson 1934).

    Args:
        successes: in 0..trials.
        trials: at least 1.
        confidence: level, in (0, 1).

    Raises:
        ValueError: no trials, successes outside 0..trials, or confidence outside (0, 1).
    """
    require_confidence(confidence)
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in 0..trials and trials be at least 1, got {successes} of {trials}")
    tail = (1 - confidence) / 2
    # The limits are quantiles of beta distributions, which do not exist at 0 or n successes: there they are 0 and 1.
    low = 0.0 if successes == 0 else beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0 if successes == trials else beta_quantile(1 - tail, successes + 1, trials - successes)
    return Estimate(successes / trials, low, high, trials, confidence)


def mean_with_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Compute the mean of independent values and its two-sided t interval (Student 1908).

    Args:
        values: [N], finite; at least 2, since one value carries no information on the spread.
        confidence: level of the interval, in (0, 1).

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
    half = float(t_quantile((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(mean, mean - half, mean + half, len(x), confidence)
