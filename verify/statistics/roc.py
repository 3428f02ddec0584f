"""ROC analysis of membership scores: the curve, its area, and the true-positive rate at low false-positive rates.

Every score is oriented so that higher means "more like a training member". Ties count half, everywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from verify.statistics.estimate import Estimate, require_confidence
from verify.statistics.intervals import clopper_pearson

FEW = 20
"""Scores on a side below which DeLong's variance is too small too often."""


@dataclass(frozen=True, eq=False)
class Curve:
    """An ROC curve from (0, 0) to (1, 1).

    Attributes:
        fpr, tpr: rates when everything scoring at least `thresholds` is called a member [M].
        thresholds: in decreasing order, starting at +inf [M].
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def roc_curve(members: ArrayLike, nonmembers: ArrayLike) -> Curve:
    """Compute the ROC curve, one point per distinct score, O(n log n).

    Raises:
        ValueError: either side is empty or holds a score that is not finite.
    """
    positive, negative = _two_samples(members, nonmembers)
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    tpr = 1 - np.searchsorted(np.sort(positive), thresholds, side="left") / len(positive)
    fpr = 1 - np.searchsorted(np.sort(negative), thresholds, side="left") / len(negative)
    return Curve(np.r_[0.0, fpr], np.r_[0.0, tpr], np.r_[np.inf, thresholds])


def membership_auc(members: ArrayLike, nonmembers: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Compute the area under the ROC curve with DeLong's interval on the logit scale, O(n log n).

    DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014). On the logit scale the interval stays inside
    (0, 1). Where the two samples do not overlap (area 0 or 1) DeLong's variance is zero, which would claim certainty; the
    interval is then the one-sided exact bound for the pair of independent samples: with m pairs that cannot share a record
    (m the smaller sample), the area lies beyond (tail)^(1/m). With fewer than 20 scores on a side the interval also holds
    Newcombe's score interval (2006, method 5), as DeLong's alone then misses chance up to ten times as often as promised.

    Args:
        members, nonmembers: scores, at least 2 each.
        confidence: level of the two-sided interval.

    Returns:
        the estimate; n counts both samples.

    Raises:
        ValueError: fewer than two scores on a side, one that is not finite, or confidence outside (0, 1).
    """
    require_confidence(confidence)
    positive, negative = _two_samples(members, nonmembers)
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        raise ValueError(f"an AUC with an interval needs at least 2 members and 2 non-members, got {m} and {n}")
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    place_m = (ranks[:m] - stats.rankdata(positive)) / n
    place_n = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    area = float(place_m.mean())
    tail = (1 - confidence) / 2
    variance = place_m.var(ddof=1) / m + place_n.var(ddof=1) / n
    if 0 < area < 1 and variance > 0:
        logit, width = np.log(area / (1 - area)), stats.norm.ppf(1 - tail) * np.sqrt(variance) / (area * (1 - area))
        low, high = (float(1 / (1 + np.exp(-(logit + sign * width)))) for sign in (-1, 1))
    else:
        reach = 1 - tail ** (1 / min(m, n))
        low, high = max(0.0, area - reach), min(1.0, area + reach)
    if min(m, n) < FEW:
        wider = _score_interval(area, m, n, float(stats.norm.ppf(1 - tail)))
        low, high = min(low, wider[0]), max(high, wider[1])
    return Estimate(area, min(low, area), max(high, area), m + n, confidence)


def _score_interval(area: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Compute the score interval: all areas A within z sqrt(V(A)) of the estimate (Newcombe 2006, Stat. Med. 25, method 5).

    V(A) = A (1 - A) [1 + (N - 1) ((1 - A)/(2 - A) + A/(1 + A))] / (mn) with N = (m + n)/2 is Hanley and McNeil's variance, made
    symmetric; at A = 1/2 it is that of the Mann-Whitney test.
    """

    def beyond(other: float) -> float:
        inner = 1 + ((m + n) / 2 - 1) * ((1 - other) / (2 - other) + other / (1 + other))
        return (other - area) ** 2 - z**2 * other * (1 - other) * inner / (m * n)

    tiny = 1e-12  # at 0 and 1 the variance is nothing, so an area of 0 or 1 would be a root of its own
    low = 0.0 if area == 0 or beyond(tiny) < 0 else float(optimize.brentq(beyond, tiny, min(area, 1 - tiny)))
    high = 1.0 if area == 1 or beyond(1 - tiny) < 0 else float(optimize.brentq(beyond, max(area, tiny), 1 - tiny))
    return low, high


def tpr_at_fpr(members: ArrayLike, nonmembers: ArrayLike, fpr: float, confidence: float = 0.95) -> Estimate:
    """Compute the true-positive rate at a false-positive rate of at most `fpr`, with its exact binomial interval.

    The threshold is the largest set of calls that makes at most `fpr` of the non-members false positives: a member counts if
    it scores strictly above the (floor(fpr N) + 1)-th largest non-member. The interval is that of the members given the
    threshold; it does not hold the threshold's own error, so set thresholds on other controls where a claim rests on it.

    Args:
        members: scores [M].
        nonmembers: scores [N], with N >= 1/fpr: fewer cannot resolve the rate.
        fpr: in (0, 1).

    Raises:
        ValueError: empty or non-finite samples, fpr outside (0, 1), or too few non-members.
    """
    positive, negative = _two_samples(members, nonmembers)
    if not 0 < fpr < 1:
        raise ValueError(f"fpr lies between 0 and 1, got {fpr}")
    allowed = int(np.floor(fpr * len(negative) + 1e-9))
    if allowed < 1:
        raise ValueError(f"{len(negative)} non-members cannot resolve a false-positive rate of {fpr}; {int(np.ceil(1 / fpr))} can")
    threshold = np.sort(negative)[::-1][allowed] if allowed < len(negative) else -np.inf
    return clopper_pearson(int((positive > threshold).sum()), len(positive), confidence)


def _two_samples(members: ArrayLike, nonmembers: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    positive = np.asarray(members, dtype=np.float64).ravel()
    negative = np.asarray(nonmembers, dtype=np.float64).ravel()
    if not len(positive) or not len(negative):
        raise ValueError(f"both members and non-members are needed, got {len(positive)} and {len(negative)}")
    if not np.isfinite(positive).all() or not np.isfinite(negative).all():
        raise ValueError("scores must be finite")
    return positive, negative
