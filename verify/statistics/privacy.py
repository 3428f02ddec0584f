"""Bounds on epsilon, the privacy loss in nats, from an attack's error rates.

A procedure that is (epsilon, delta)-private bounds every attack: TPR <= e^epsilon FPR + delta and, from the other side,
1 - FPR <= e^epsilon (1 - TPR) + delta (Kairouz, Oh and Viswanath 2015). Measured rates that break a bound refute its epsilon.
"""

from dataclasses import dataclass

import numpy as np

from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson


@dataclass(frozen=True)
class EpsilonFromRates:
    """Confidence limits on the privacy loss shown by one attack at one threshold.

    Attributes:
        lower: epsilon is at least this with the stated confidence; 0 where nothing is shown.
        attack_upper: log(TPR / FPR) of this attack at this threshold is at most this with the same confidence; infinite where
            the false-positive rate is not bounded away from zero. It is a claim about the attack, never about the procedure.
        true_positive_rate, false_positive_rate: with two-sided intervals at `confidence`. Each limit above uses one end of both,
            two errors of (1 - confidence) / 2.
        delta, confidence: as given.
    """

    lower: float
    attack_upper: float
    true_positive_rate: Estimate
    false_positive_rate: Estimate
    delta: float
    confidence: float


def epsilon_from_rates(
    true_positives: int,
    false_negatives: int,
    false_positives: int,
    true_negatives: int,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> EpsilonFromRates:
    """Bound epsilon by an attack's confusion counts, Clopper-Pearson on each side with the error split between the two rates.

    The threshold must be fixed on other data: the best of many thresholds, treated as if it had been the only one, finds leakage
    in noise.

    Args:
        true_positives, false_negatives: members called members, and not; at least one member.
        false_positives, true_negatives: non-members called members, and not; at least one non-member.
        delta: in [0, 1).
        confidence: confidence level of each limit taken alone, in (0, 1).

    Raises:
        ValueError: a negative count, no members or no non-members, or a level out of range.
    """
    counts = (true_positives, false_negatives, false_positives, true_negatives)
    if min(counts) < 0 or true_positives + false_negatives < 1 or false_positives + true_negatives < 1:
        raise ValueError(f"counts of at least one member and one non-member, none negative, are needed, got {counts}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta lies in [0, 1), got {delta}")
    # Two-sided intervals at `confidence`: each end used below errs with probability (1 - confidence) / 2.
    tpr = clopper_pearson(true_positives, true_positives + false_negatives, confidence)
    fpr = clopper_pearson(false_positives, false_positives + true_negatives, confidence)
    # Both bounds hold on the same event, "TPR above its lower and FPR below its upper limit", so no further correction is needed.
    lower = max(0.0, _log_ratio(tpr.low - delta, fpr.high), _log_ratio(1 - fpr.high - delta, 1 - tpr.low))
    return EpsilonFromRates(lower, _log_ratio(tpr.high, fpr.low), tpr, fpr, delta, confidence)


def _log_ratio(above: float, below: float) -> float:
    """Return log(above / below): minus infinity where `above` is not positive, infinity where only `below` is not."""
    if above <= 0:
        return -np.inf
    return float(np.log(above) - np.log(below)) if below > 0 else np.inf
