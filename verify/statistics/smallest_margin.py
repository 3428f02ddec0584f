"""The smallest margin that certifies: what a verdict could have claimed had nothing been fixed beforehand."""

from collections.abc import Callable

LARGEST = 0.5
"""Largest margin that is tried: beyond it, "forgotten" would mean "half remembered"."""

STEP = 0.001


def smallest_margin(certified: Callable[[float], bool]) -> float | None:
    """Return the smallest rho*, rounded up to a thousandth, at which a rule certifies; None where not even one half does.

    The tests are inverted, so this is an upper confidence limit of |rho| at 1 - alpha: a residual of 0.20 is put below 0.20 at most
    alpha of the time. A margin chosen after looking is not such a claim, which is why this number is printed where none was
    registered. The same tests at another margin are monotone in it (a wider one is easier to stay within and harder to exceed), so
    the search is a bisection. They must be the same: at a smaller margin fewer channels are precise enough to certify, and where
    the one that stands in the way dropped out, a certificate would return far below that channel's own residual.

    Args:
        certified: the rule at a margin, by the same channels at each.
    """
    if not certified(LARGEST):
        return None
    low, high = 0, round(LARGEST / STEP)  # in thousandths: not certified at low, certified at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified(middle * STEP) else (middle, high)
    return round(high * STEP, 3)
