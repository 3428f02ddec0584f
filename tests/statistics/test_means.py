"""Means with Student's interval."""

import numpy as np
import pytest
from scipy import stats

from verify.statistics import mean_with_interval


def test_known_answer() -> None:
    """The interval of 1..5 at 95 %: 3 +- 2.776 * sqrt(2.5 / 5)."""
    found = mean_with_interval([1, 2, 3, 4, 5], 0.95)
    assert (found.value, found.n) == (3.0, 5)
    assert found.high - 3.0 == pytest.approx(2.7764451 * np.sqrt(0.5))


def test_it_covers_the_truth() -> None:
    """Over 4,000 samples of eight, the 90 % interval holds the true mean in 90 % of cases, within four standard errors."""
    draws = np.random.default_rng(0).normal(2.0, 3.0, (4000, 8))
    covered = np.mean([found.low <= 2.0 <= found.high for found in (mean_with_interval(draw, 0.90) for draw in draws)])
    assert abs(covered - 0.90) < 4 * np.sqrt(0.09 / 4000)


def test_it_agrees_with_scipy() -> None:
    """The same as scipy's confidence interval of a one-sample t test."""
    values = np.random.default_rng(1).gamma(2.0, size=30)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.8)
    found = mean_with_interval(values, 0.8)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_degenerate_samples_raise() -> None:
    """Nothing, one value, NaN: an error, never a number."""
    for bad in ([], [1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match=r"."):
            mean_with_interval(bad, 0.95)
