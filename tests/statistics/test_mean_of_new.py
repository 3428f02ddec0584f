"""The prediction of a new mean: by hand, by simulation, and on bad input."""

import numpy as np
import pytest

from verify.statistics.prediction import mean_of_new


def test_by_hand() -> None:
    """t of 0.975 with two degrees of freedom is 4.3027; s = 1, sqrt(1 / 3 + 1 / 6) = 0.70711."""
    found = mean_of_new([1.0, 2.0, 3.0], 6, 0.95)
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.302653 * 0.5**0.5, rel=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value)


@pytest.mark.slow
def test_covers_new_means() -> None:
    """Intervals at 90 % hold the mean of two new draws in 90 % of cases, within four standard errors."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        found = mean_of_new(rng.normal(size=5), 2, 0.9)
        hits += found.low <= rng.normal(size=2).mean() <= found.high
    assert abs(hits / 4000 - 0.9) < 4 * (0.09 / 4000) ** 0.5


@pytest.mark.parametrize(("values", "count"), [([1.0], 3), ([1.0, 2.0], 0), ([1.0, np.nan], 2), ([[1.0, 2.0]], 2)])
def test_refuses(values: list[float], count: int) -> None:
    """One draw, nothing to predict, or a value that is not finite is an error."""
    with pytest.raises(ValueError, match="at least two finite draws"):
        mean_of_new(values, count, 0.9)
