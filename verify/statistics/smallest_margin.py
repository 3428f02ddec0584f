"""The smallest margin that certifies: what a verdict could have claimed had nothing been fixed beforehand."""

from collections.abc import Callable

LARGEST = 0.5
"""Largest margin that is tried: beyond it, "forgotten" would mean "half remembered"."""

STEP = 0.001


def smallest_margin(certified: Callable[[float], bool]) -> float | None:
    """Return the smallest rho*, rounded up to a thousandth, at which a rule certifies; None where not even one half does.

    The tests are inverted, so this is an upper confidence limit of |rho| at 1 - alpha: a residual of 0.20 is put below 0.20 at most
    alpha of the time. A margin chosen after looking is not such a claim, which is why this number is printed where none was
    registered. Certification is monotone in the margin (a wider one is easier to stay within and harder to exceed), so the search
    is a bisection.

    Args:
        certified: the rule at a margin.
    """
    if not certified(LARGEST):
        return None
    low, high = 0, round(LARGEST / STEP)  # in thousandths: not certified at low, certified at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified(middle * STEP) else (middle, high)
    return round(high * STEP, 3)
