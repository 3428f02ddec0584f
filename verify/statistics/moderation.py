"""Moderated variances: per-record sample variances shrunk towards a prior fitted to all records.

With R = 4 references a record's own variance rests on three degrees of freedom; a pooled variance is wrong wherever records
differ in spread. Empirical Bayes interpolates between the two (Smyth 2004, "Linear models and empirical Bayes methods for
assessing differential expression in microarray experiments", sections 3 and 6.2):

    s_i^2 | sigma_i^2 ~ sigma_i^2 chi^2_d / d,    1 / sigma_i^2 ~ chi^2_d0 / (d0 s0^2)
    v_i = (d0 s0^2 + d s_i^2) / (d0 + d),         with d0 + d degrees of freedom

The prior is used as if it were known. From few variances it is not: six about a line exceed a level of 1 % in 2.4 %,
forty in 1.3 %. `record_test` takes the largest p-value of this and of fitted tails.

Where the variance follows something known of a record, such as how hard the record is, one prior for all shrinks the quiet records
upwards and the noisy ones downwards. `moderated_along` lets the prior follow it, as the "intensity trend" of limma does (Ritchie et
al. 2015, "limma powers differential expression analyses").
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEAST = 1e-6
"""Variances are raised to this share of their median before their logarithm is taken."""
TINY = 1e-12
"""Sum of squares of a covariate that is the same everywhere."""


@dataclass(frozen=True, eq=False)
class ModeratedVariances:
    """Posterior variances and their prior.

    Attributes:
        variances: v_i [K], in the squared unit of the data.
        prior_variance: s0^2.
        prior_degrees: d0; infinite where the records' variances differ no more than chance would make them.
        degrees: d0 + d, degrees of freedom of a t statistic with v_i.
    """

    variances: NDArray[np.float64]
    prior_variance: float
    prior_degrees: float
    degrees: float


def moderated_variances(sample_variances: ArrayLike, degrees: int, fitted: int = 1) -> ModeratedVariances:
    """Shrink sample variances towards a common prior, fitted by the moments of their logarithms.

    Args:
        sample_variances: s_i^2 [K], not negative, not all zero. Exact zeros are raised to a millionth of the median for the fit,
            as their logarithm does not exist. A single variance cannot be shrunk and is returned unchanged (d0 = 0).
        degrees: degrees of freedom d of each.
        fitted: coefficients that were fitted to their logarithms, the mean included: what the spread of K logarithms is divided by
            is K - fitted. No more than `fitted` variances cannot be shrunk, either.

    Returns:
        the posterior variances v_i [K] with their prior.

    Raises:
        ValueError: no variance, a negative or non-finite one, all zero, degrees < 1 or fitted < 1.
    """
    s2 = np.asarray(sample_variances, dtype=np.float64)
    if s2.ndim != 1 or not len(s2) or min(degrees, fitted) < 1:
        raise ValueError(
            f"moderation needs variances with at least 1 degree of freedom and 1 coefficient, got {s2.shape}, {degrees}, {fitted}"
        )
    if not np.isfinite(s2).all() or (s2 < 0).any() or not (s2 > 0).any():
        raise ValueError("variances must be finite, not negative and not all zero")
    if len(s2) <= fitted:
        return ModeratedVariances(s2, float(s2.mean()), 0.0, degrees)
    # A zero occurs where the references agree on a record to the last bit; its logarithm would dominate the fit.
    floored = np.maximum(s2, LEAST * np.median(s2[s2 > 0]))
    half = degrees / 2
    # Smyth's e_g: log s_i^2 less its bias. Its variance in excess of trigamma(d / 2) is that of log sigma_i^2, trigamma(d0 / 2).
    e = np.log(floored) - special.digamma(half) + np.log(half)
    excess = float(e.var(ddof=fitted) - special.polygamma(1, half))
    if excess <= 0:  # no more spread than chance: every record has the common variance
        pooled = float(np.exp(e.mean()))
        return ModeratedVariances(np.full_like(s2, pooled), pooled, np.inf, np.inf)
    d0 = 2 * inverse_trigamma(excess)
    # Smyth 2004, section 6.2: E log s_i^2 = log s0^2 + digamma(d / 2) - log(d / 2) - digamma(d0 / 2) + log(d0 / 2).
    s0 = float(np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2)))
    return ModeratedVariances((d0 * s0 + degrees * s2) / (d0 + degrees), s0, d0, d0 + degrees)


def moderated_along(sample_variances: ArrayLike, degrees: int, covariate: ArrayLike) -> ModeratedVariances:
    """Shrink sample variances towards a prior that follows a covariate.

        log s_i^2 = c0 + c1 x_i + error,    f_i = exp(c1 (x_i - mean x)),    v_i = f_i times the moderated s_i^2 / f_i

    c by least squares, which costs a degree of freedom of the spread of log s_i^2 / f_i. Beyond the central 90 % of its values x is
    taken at their end: little there shows whether the line continues.

    Args:
        sample_variances, degrees: as `moderated_variances`.
        covariate: x [K], finite; equal everywhere, or with fewer than three variances, it changes nothing.

    Returns:
        the posterior variances v_i [K]; `prior_variance` is that at the mean of x.

    Raises:
        ValueError: as `moderated_variances`, or a covariate of another shape or not finite.
    """
    s2, x = np.asarray(sample_variances, dtype=np.float64), np.asarray(covariate, dtype=np.float64)
    if x.shape != s2.shape or not np.isfinite(x).all():
        raise ValueError(f"a covariate is finite and has one value for each variance, got {x.shape} for {s2.shape}")
    plain = moderated_variances(s2, degrees)
    centred = np.clip(x, *np.quantile(x, [0.05, 0.95]))
    centred = centred - centred.mean()
    square = float(centred @ centred)
    if square <= TINY or len(s2) < 3:
        return plain
    floored = np.maximum(s2, LEAST * np.median(s2[s2 > 0]))
    factor = np.exp(float(centred @ np.log(floored)) / square * centred)
    level = moderated_variances(s2 / factor, degrees, fitted=2)
    return replace(level, variances=level.variances * factor)


def inverse_trigamma(y: float) -> float:
    """Invert trigamma: the x > 0 with trigamma(x) = y, by Newton's method on the convex 1/trigamma (Smyth 2004, appendix).

    Raises:
        ValueError: y is not positive.
    """
    if y <= 0:
        raise ValueError(f"trigamma is positive, got {y}")
    if y > 1e7:  # trigamma(x) ~ 1 / x^2 near 0 and ~ 1 / x far out; Newton's steps lose their digits at both ends
        return float(1 / np.sqrt(y))
    if y < 1e-6:
        return 1 / y
    x = 0.5 + 1 / y  # an upper bound of the root, from which Newton's method descends monotonically
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / y) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-10:
            break
    return x
