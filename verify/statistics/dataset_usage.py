"""Dataset usage cardinality inference: estimate the share of a set that a model was trained on."""

from itertools import product

from verify.statistics.estimate import Estimate


def share_still_in(mean_guess: Estimate, false_positive_rate: Estimate, true_positive_rate: Estimate) -> Estimate:
    """Estimate the share as (mean guess - FPR) / (TPR - FPR) (Tong et al. 2025, "How much of my dataset did you use?").

    A membership attack's guesses on the set are a mixture of those on members and on non-members; the two rates, measured on data
    of known membership, undo the mixture. The interval spans all corners of the three intervals (Bonferroni).

    Args:
        mean_guess: share of the set that is called a member.
        false_positive_rate, true_positive_rate: rates of the same attack at the same threshold, measured on other records.

    Returns:
        the share, not clipped: below 0 or above 1 it shows that the rates do not fit the set. Its level is 1 minus the three
        errors.

    Raises:
        ValueError: the intervals of the two rates overlap, so that the attack separates nothing, or the three errors reach 1.
    """
    parts = (mean_guess, false_positive_rate, true_positive_rate)
    if true_positive_rate.low <= false_positive_rate.high:
        raise ValueError(
            f"the attack does not separate members from non-members: TPR is {true_positive_rate}, FPR is {false_positive_rate}; "
            "measure the rates on more records or use a stronger attack"
        )
    # Bonferroni: the errors of the three intervals add up.
    level = 1 - sum(1 - part.level for part in parts)
    if level <= 0:
        raise ValueError("the three errors add up to 1 or more; give intervals at a higher level")
    # Monotone in each argument with the others fixed, so the extremes lie at corners.
    corners = [_share(*corner) for corner in product(*((part.low, part.high) for part in parts))]
    return Estimate(_share(*(part.value for part in parts)), min(corners), max(corners), min(part.n for part in parts), level)


def _share(guess: float, fpr: float, tpr: float) -> float:
    return (guess - fpr) / (tpr - fpr)
