"""PrivLeak of the MUSE benchmark, for comparison with papers (Shi et al. 2024, arXiv 2407.06460, section 3.4)."""

from itertools import product

from verify.statistics.estimate import Estimate


def privleak(target: Estimate, retrained: Estimate) -> Estimate:
    """100 (A_target - A_retrained) / A_retrained, in per cent, with A = 1 - AUC.

    The paper's area A has members *below* non-members, the mirror image of the membership AUC here: about -100 for a model
    that still holds the forget set, near 0 for one like the retrained, positive for one that over-forgot. It is no verdict:
    one retrained model does not show how far two honest ones differ.

    Args:
        target, retrained: `membership_auc` of forget against holdout scores, higher = member; the paper uses Min-K%.

    Returns:
        the value, with an interval that holds at both areas' limits at once (Bonferroni).

    Raises:
        ValueError: the retrained model's interval reaches AUC = 1, so that the ratio has no bound.
    """
    if retrained.high >= 1:
        raise ValueError("the retrained model's AUC may be 1, which leaves nothing to divide by; more records would bound it")
    level = 1 - (1 - target.level) - (1 - retrained.level)
    if level <= 0:
        raise ValueError("the two errors add up to 1 or more; give intervals at a higher level")
    corners = [_percent(*corner) for corner in product((target.low, target.high), (retrained.low, retrained.high))]
    value = _percent(target.value, retrained.value)
    return Estimate(value, min(corners), max(corners), min(target.n, retrained.n), level)


def _percent(target: float, retrained: float) -> float:
    return 100 * (retrained - target) / (1 - retrained)
