"""Sample-size planning for claims that nothing leaks, at a power of 80 % by default.

All sizes are per arm: a size of n means n members and n never-trained controls.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import stats

LARGEST = 1 << 26
"""Largest sample size searched."""


def required_sample_size(
    claim: Literal["auc", "epsilon", "rate"], bound: float, *, fpr: float | None = None, alpha: float = 0.05, power: float = 0.80
) -> int:
    """Compute the records per arm that a claim needs where nothing leaks; dispatches to the three functions below.

    Args:
        claim: "auc": the AUC is within `bound` of one half (`controls_for_auc`); "epsilon": log(TPR / FPR) is at most `bound`
            nats at the false-positive rate `fpr` (`controls_for_epsilon`); "rate": any claim at a false-positive rate of `bound`
            (`controls_for_rate`).
        bound: the claim's bound: half width of the AUC's region, nats, or a false-positive rate.
        fpr: false-positive rate in (0, 1), for "epsilon" only.
        alpha, power: error and power of the claim; not used by "rate".

    Returns:
        the number of members, and of controls.

    Raises:
        ValueError: an unknown claim, a missing `fpr`, or a value out of range.
    """
    if claim == "auc":
        return controls_for_auc(bound, alpha, power)
    if claim == "rate":
        return controls_for_rate(bound)
    if claim != "epsilon" or fpr is None:
        raise ValueError(f'a claim is "auc", "rate", or "epsilon" with an fpr; got {claim!r} with fpr {fpr}')
    return controls_for_epsilon(bound, fpr, alpha, power)


def controls_for_auc(within: float, alpha: float = 0.05, power: float = 0.80) -> int:
    """Compute the smallest arm that shows, by two one-sided tests, an AUC within `within` of 0.5 where it is exactly 0.5.

    The AUC of two samples of n from one distribution has variance close to 1 / (6 n) (Mann and Whitney 1947), so
    n = (z_{1 - alpha} + z_{(1 + power) / 2})^2 / (6 within^2).

    Args:
        within: half width of the equivalence region, in (0, 0.5).
        alpha: level of each one-sided test; 0.025 is a 95 % interval.
        power: probability of success where nothing leaks, in (0, 1).

    Raises:
        ValueError: a value out of range.
    """
    _check(0 < within < 0.5, alpha, power, f"an AUC is within 0.5 of one half, got {within}")
    # Both one-sided tests must succeed, so each may fail with probability (1 - power) / 2.
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf((1 + power) / 2)
    return int(np.ceil((z / within) ** 2 / 6))


def controls_for_epsilon(epsilon: float, fpr: float, alpha: float = 0.05, power: float = 0.80) -> int:
    """Compute the smallest arm that shows log(TPR / FPR) <= epsilon of one attack at one threshold, where TPR = FPR = `fpr`.

    Exact: the claim is made where the Clopper-Pearson upper limit of TPR is at most e^epsilon times the lower limit of FPR,
    each at alpha / 2. Power is a saw-tooth in n, of less than 0.01 at useful sizes; the size is found by bisection.

    Args:
        epsilon: > 0, nats.
        fpr: false-positive rate at the threshold, in (0, 1).
        alpha: error of both limits together.
        power: probability of success where nothing leaks, in (0, 1).

    Raises:
        ValueError: a value out of range, or no size up to 2^26 suffices.
    """
    _check(epsilon > 0 and 0 < fpr < 1, alpha, power, f"epsilon > 0 and fpr in (0, 1) are needed, got {epsilon} and {fpr}")
    return _smallest(lambda n: _epsilon_power(n, epsilon, fpr, alpha / 2) >= power)


def controls_for_rate(fpr: float) -> int:
    """Compute the controls that any claim at a false-positive rate needs: 3 / fpr, the rule of three.

    With fewer, even zero false positives would at 95 % be compatible with a rate above `fpr`.

    Raises:
        ValueError: `fpr` lies outside (0, 1).
    """
    _check(0 < fpr < 1, 0.05, 0.8, f"a false-positive rate lies between 0 and 1, got {fpr}")
    return int(np.ceil(3 / fpr - 1e-9))  # 3 / fpr may lie a hair above a whole number


def conformal_power(effect: float, controls: int, alpha: float = 0.05) -> float:
    """Compute the power of one record's conformal test at level alpha against a residual of `effect` standard deviations.

    The record must outscore all but floor(alpha (N + 1)) - 1 of N exchangeable normal controls.

    Args:
        effect: shift of the record's score, in standard deviations of the controls.
        controls: N >= 1.
        alpha: level, in (0, 0.5).

    Returns:
        the power; 0 where N + 1 < 1 / alpha, as no p-value can then be small enough.

    Raises:
        ValueError: no control, an effect that is not finite, or a level out of range.
    """
    _check(controls >= 1 and np.isfinite(effect), alpha, 0.8, f"at least one control is needed, got {controls}")
    allowed = int(np.floor(alpha * (controls + 1) + 1e-9)) - 1
    if allowed < 0:
        return 0.0
    # The record's score is effect + x, x standard normal; the integral over x is cut off at nine standard deviations.
    x = np.linspace(-9, 9, 4001)
    density = stats.norm.pdf(x) * stats.binom.cdf(allowed, controls, stats.norm.sf(x + effect))
    return float(np.trapezoid(density, x))


def _epsilon_power(n: int, epsilon: float, fpr: float, tail: float) -> float:
    """Sum the probabilities of the outcomes (tp, fp) of two Bin(n, fpr) at which the limits support the claim."""
    # Outcomes beyond these quantiles have a probability of 1e-12 and are left out, which keeps the table small.
    first, last = (int(stats.binom.ppf(q, n, fpr)) for q in (1e-12, 1 - 1e-12))
    counts = np.arange(max(first, 0), last + 1)
    high = np.where(counts == n, 1.0, stats.beta.ppf(1 - tail, counts + 1, np.maximum(n - counts, 1)))
    low = np.where(counts == 0, 0.0, stats.beta.ppf(tail, np.maximum(counts, 1), n - counts + 1))
    # For each false-positive count, the largest true-positive count that still supports the claim.
    largest = np.searchsorted(high, np.exp(epsilon) * low, side="right") - 1
    cumulative = np.r_[0.0, stats.binom.cdf(counts, n, fpr)]
    return float((stats.binom.pmf(counts, n, fpr) * cumulative[largest + 1]).sum())


def _smallest(enough: Callable[[int], bool]) -> int:
    """Return the smallest n that is enough: doubling until one is, then bisection."""
    high = 2
    while not enough(high):
        high *= 2
        if high > LARGEST:
            raise ValueError(f"no sample size up to {LARGEST} decides; ask for a wider margin")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(fits: bool, alpha: float, power: float, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)
    if not 0 < alpha < 0.5 or not 0 < power < 1:
        raise ValueError(f"alpha lies in (0, 0.5) and power in (0, 1), got {alpha} and {power}")
