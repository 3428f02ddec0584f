"""Deletion test by a data subject's own backdoor trigger (Athena: Sommer et al. 2022, arXiv 2003.04247)."""

from dataclasses import dataclass

from scipy import stats

from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson


@dataclass(frozen=True)
class TriggerTest:
    """A test of deletion by n uses of a data subject's own trigger.

    Attributes:
        rate: share of uses that succeed, with its exact interval.
        threshold: smallest number of successes that rejects deletion; None where even n would not be unlikely enough under it.
        alpha: probability of at least `threshold` successes if the records were deleted, at most the level.
        beta: probability of fewer if they were kept; 1 where there is no threshold.
        kept: whether deletion is rejected.
    """

    rate: Estimate
    threshold: int | None
    alpha: float
    beta: float
    kept: bool


def trigger_test(
    successes: int, trials: int, rate_deleted: float, rate_kept: float, alpha: float = 0.001, confidence: float = 0.95
) -> TriggerTest:
    """Test H0 "deleted", Bin(n, q), against "kept", Bin(n, p), q < p.

    Args:
        successes, trials: uses of the trigger on the audited model, and how many of them succeeded.
        rate_deleted: q, the success rate on models that never saw the records; its upper limit is the conservative choice.
        rate_kept: p, the rate before deletion; its lower limit is the conservative choice.
        alpha: level of the test, in (0, 1); Athena's is 0.001.
        confidence: level of the rate's interval, in (0, 1).

    Raises:
        ValueError: no trials, more successes than trials, rates outside [0, 1], a level outside (0, 1), or q >= p, where the
            trigger does not separate the two hypotheses.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"got {successes} successes in {trials} trials")
    if not 0 <= rate_deleted < rate_kept <= 1:
        raise ValueError(f"a trigger is informative only where 0 <= q < p <= 1, got q={rate_deleted:g}, p={rate_kept:g}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}")
    deleted, kept = stats.binom(trials, rate_deleted), stats.binom(trials, rate_kept)
    threshold = int(deleted.isf(alpha)) + 1  # the smallest t with Pr[Bin(n, q) >= t] <= alpha
    found = clopper_pearson(successes, trials, confidence)
    if threshold > trials:  # even n successes in n uses are likelier than alpha under deletion: no test at this level
        return TriggerTest(found, None, 0.0, 1.0, False)
    return TriggerTest(found, threshold, float(deleted.sf(threshold - 1)), float(kept.cdf(threshold - 1)), successes >= threshold)
