"""ROC analysis of membership scores: the curve, its area, and the true-positive rate at low false-positive rates.

Every score is oriented so that higher means "more like a training member". Ties count half, everywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from verify.statistics.critical_values import normal_quantile
from verify.statistics.estimate import Estimate, require_confidence
from verify.statistics.intervals import clopper_pearson

FEW = 20
"""Sample size per class below which DeLong's variance is too often too small; Newcombe's interval is then added."""


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

    Args:
        members, nonmembers: scores [M] and [N], higher = more like a member.

    Raises:
        ValueError: either class is empty or holds a score that is not finite.
    """
    positive, negative = _two_samples(members, nonmembers)
    # Counts of scores >= each threshold, by binary search in the sorted samples.
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    tpr = 1 - np.searchsorted(np.sort(positive), thresholds, side="left") / len(positive)
    fpr = 1 - np.searchsorted(np.sort(negative), thresholds, side="left") / len(negative)
    return Curve(np.r_[0.0, fpr], np.r_[0.0, tpr], np.r_[np.inf, thresholds])


def membership_auc(members: ArrayLike, nonmembers: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Compute the area under the ROC curve with DeLong's interval on the logit scale, O(n log n).

    DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014). On the logit scale the interval stays inside
    (0, 1). Where the two samples do not overlap (area 0 or 1) DeLong's variance is zero, which would claim certainty; the
    interval is then an exact one-sided bound from m disjoint member/non-member pairs, m the smaller sample: an area of 1 has the
    lower limit tail^(1/m), tail = (1 - confidence) / 2. With fewer than 20 scores in either class the interval is widened to
    include Newcombe's score interval (2006, method 5): where nothing leaks, DeLong's alone excludes 0.5 up to ten times as often
    as its level promises.

    Args:
        members, nonmembers: scores [M] and [N], at least 2 each, higher = more like a member.
        confidence: level of the two-sided interval.

    Returns:
        the area; its n counts both samples.

    Raises:
        ValueError: fewer than two scores in a class, one that is not finite, or confidence outside (0, 1).
    """
    require_confidence(confidence)
    positive, negative = _two_samples(members, nonmembers)
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        raise ValueError(f"an AUC with an interval needs at least 2 members and 2 non-members, got {m} and {n}")
    # DeLong's placement values: the share of non-members below each member [M], and of members above each non-member [N].
    placements_m = _below(positive, negative) / n
    placements_n = 1 - _below(negative, positive) / m
    area = float(placements_m.mean())
    tail = (1 - confidence) / 2
    variance = placements_m.var(ddof=1) / m + placements_n.var(ddof=1) / n
    if 0 < area < 1 and variance > 0:
        # Delta method: d logit(A) / dA = 1 / (A (1 - A)).
        logit, width = np.log(area / (1 - area)), normal_quantile(1 - tail) * np.sqrt(variance) / (area * (1 - area))
        low, high = (float(1 / (1 + np.exp(-(logit + sign * width)))) for sign in (-1, 1))
    else:
        reach = 1 - tail ** (1 / min(m, n))
        low, high = max(0.0, area - reach), min(1.0, area + reach)
    if min(m, n) < FEW:
        wider = _score_interval(area, m, n, normal_quantile(1 - tail))
        low, high = min(low, wider[0]), max(high, wider[1])
    return Estimate(area, min(low, area), max(high, area), m + n, confidence)


def _below(scores: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count how many of the others lie below each score, ties as one half [N]."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2


def _score_interval(area: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Compute the score interval: all areas A within z sqrt(V(A)) of the estimate (Newcombe 2006, Stat. Med. 25, method 5).

    V(A) = A (1 - A) [1 + (N - 1) ((1 - A)/(2 - A) + A/(1 + A))] / (mn) with N = (m + n)/2 is Hanley and McNeil's variance, made
    symmetric; at A = 1/2 it is that of the Mann-Whitney test.
    """

    def beyond(other: float) -> float:
        inner = 1 + ((m + n) / 2 - 1) * ((1 - other) / (2 - other) + other / (1 + other))
        return (other - area) ** 2 - z**2 * other * (1 - other) * inner / (m * n)

    tiny = 1e-12  # V(0) = V(1) = 0, so an estimate of exactly 0 or 1 would be a spurious root
    low = 0.0 if area == 0 or beyond(tiny) < 0 else float(optimize.brentq(beyond, tiny, min(area, 1 - tiny)))
    high = 1.0 if area == 1 or beyond(1 - tiny) < 0 else float(optimize.brentq(beyond, max(area, tiny), 1 - tiny))
    return low, high


def tpr_at_fpr(members: ArrayLike, nonmembers: ArrayLike, fpr: float, confidence: float = 0.95) -> Estimate:
    """Compute the true-positive rate at a false-positive rate of at most `fpr`, with its exact binomial interval.

    The threshold is the lowest that makes at most `fpr` of the non-members false positives: a member counts if it scores strictly
    above the (floor(fpr N) + 1)-th largest non-member. The interval is the members' given the threshold and leaves out the
    threshold's own sampling error; where a claim rests on the interval, set the threshold on separate controls.

    Args:
        members: scores [M].
        nonmembers: scores [N], with N >= 1/fpr: fewer cannot resolve the rate.
        fpr: in (0, 1).
        confidence: level of the two-sided interval, in (0, 1).

    Raises:
        ValueError: empty or non-finite samples, fpr outside (0, 1), or too few non-members.
    """
    positive, negative = _two_samples(members, nonmembers)
    if not 0 < fpr < 1:
        raise ValueError(f"fpr lies between 0 and 1, got {fpr}")
    allowed = int(np.floor(fpr * len(negative) + 1e-9))  # 0.29 * 100 is 28.999... in floating point
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
