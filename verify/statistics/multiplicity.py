"""Multiple testing: the procedures of Benjamini and Hochberg and of Holm, and conformal p-values against controls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Rejections:
    """Outcome of a multiple-testing procedure.

    Attributes:
        rejected: which hypotheses are rejected, bool [K].
        adjusted: adjusted p-values [K]: the smallest level at which each would be rejected.
        level: the false-discovery rate q, or the family-wise error rate.
    """

    rejected: NDArray[np.bool_]
    adjusted: NDArray[np.float64]
    level: float


def benjamini_hochberg(p_values: ArrayLike, q: float) -> Rejections:
    """Control the false-discovery rate (Benjamini and Hochberg 1995), O(K log K).

    Args:
        p_values: [K], each in [0, 1], K >= 1.
        q: false-discovery rate, in (0, 1).

    Returns:
        which are rejected, and the adjusted p-values, in the order given.

    Raises:
        ValueError: no p-values, one outside [0, 1], or q outside (0, 1).
    """
    p = _unit_interval(p_values)
    if not 0 < q < 1:
        raise ValueError(f"q lies between 0 and 1, got {q}")
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    # An adjusted p-value is the smallest scaled one at its rank or after: a running minimum from the end.
    monotone = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = monotone
    return Rejections(adjusted <= q, adjusted, q)


def holm(p_values: ArrayLike, level: float) -> Rejections:
    """Control the probability of any false rejection (Holm 1979), O(K log K).

    Args:
        p_values: [K], each in [0, 1], K >= 1.
        level: family-wise error rate, in (0, 1).

    Returns:
        which are rejected, and the adjusted p-values, in the order given.

    Raises:
        ValueError: no p-values, one outside [0, 1], or a level outside (0, 1).
    """
    p = _unit_interval(p_values)
    if not 0 < level < 1:
        raise ValueError(f"the level lies between 0 and 1, got {level}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return Rejections(adjusted <= level, adjusted, level)


def conformal_p_values(scores: ArrayLike, controls: ArrayLike) -> NDArray[np.float64]:
    """Compute conformal p-values, (1 + #{controls >= score}) / (N + 1), O((K + N) log N).

    Valid for exchangeable controls whatever the distribution (Vovk et al. 2005; Bates et al. 2023). The smallest possible
    value is 1 / (N + 1).

    Args:
        scores: [K], higher = more like a member.
        controls: [N], scores of never-trained records.

    Returns:
        [K], one-sided p-values in (0, 1]; ties count against rejection.

    Raises:
        ValueError: either is empty or not finite.
    """
    s, c = np.atleast_1d(np.asarray(scores, dtype=np.float64)), np.asarray(controls, dtype=np.float64).ravel()
    if not len(s) or not len(c) or not np.isfinite(s).all() or not np.isfinite(c).all():
        raise ValueError("conformal p-values need finite scores and controls, at least one of each")
    # The score counts as one of its own controls: hence the 1 in numerator and denominator, which makes the p-value valid.
    at_least = len(c) - np.searchsorted(np.sort(c), s, side="left")
    return np.asarray((1 + at_least) / (len(c) + 1), dtype=np.float64)


def _unit_interval(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64).ravel()
    if not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values lie between 0 and 1, and there is at least one")
    return p
