"""Exact intervals for proportions."""

from scipy import stats

from verify.statistics.estimate import Estimate, require_confidence


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """Exact two-sided interval of a binomial proportion (Clopper and Pearson 1934).

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
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))
    return Estimate(successes / trials, low, high, trials, confidence)
