"""Intervals of proportions and means: known answers, and coverage where the truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verify.statistics import Estimate, clopper_pearson, mean_with_interval

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(10, 100, 0.0490047, 0.1762226), (1, 33, 0.0007669, 0.1575940), (0, 20, 0.0, 0.1684335), (20, 20, 0.8315665, 1.0)],
)
def test_clopper_pearson_known_answers(successes: int, trials: int, low: float, high: float) -> None:
    """The published limits, to seven digits; at the ends one limit is exactly 0 or 1."""
    found = clopper_pearson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-8)
    assert (found.value, found.n, found.level) == (successes / trials, trials, 0.95)


@given(st.integers(1, 60), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_inverts_the_binomial_tails(trials: int, data: st.DataObject, confidence: float) -> None:
    """At the lower limit the count or more, at the upper the count or fewer, has exactly half the error: the slow twin."""
    successes = data.draw(st.integers(0, trials))
    found, tail = clopper_pearson(successes, trials, confidence), (1 - confidence) / 2
    if successes > 0:
        assert stats.binom.sf(successes - 1, trials, found.low) == pytest.approx(tail, rel=1e-6)
    if successes < trials:
        assert stats.binom.cdf(successes, trials, found.high) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.37, 0.5, 0.93])
@pytest.mark.parametrize("trials", [7, 40])
def test_clopper_pearson_covers_whatever_the_rate(rate: float, trials: int) -> None:
    """Summed over every outcome, the interval holds the true rate with at least its nominal probability."""
    outcomes = [clopper_pearson(count, trials) for count in range(trials + 1)]
    weight = stats.binom.pmf(np.arange(trials + 1), trials, rate)
    assert sum(w for w, e in zip(weight, outcomes, strict=True) if e.low <= rate <= e.high) >= 0.95


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_clopper_pearson_refuses_impossible_counts(successes: int, trials: int) -> None:
    """No trials, and counts outside 0..trials, raise instead of returning a number."""
    with pytest.raises(ValueError, match="successes"):
        clopper_pearson(successes, trials)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, -0.1])
def test_a_confidence_lies_between_zero_and_one(confidence: float) -> None:
    """A level outside (0, 1) raises for every kind of interval."""
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(3, 9, confidence)
    with pytest.raises(ValueError, match="confidence"):
        mean_with_interval([1.0, 2.0], confidence)


def test_mean_known_answer() -> None:
    """Mean 3 of 1..5, half width t(0.975, 4) * sqrt(2.5 / 5) = 1.9632432."""
    found = mean_with_interval([1, 2, 3, 4, 5])
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 1.0367568, 4.9632432), abs=5e-8)
    assert found.n == 5


def test_mean_covers() -> None:
    """With four normal values the t interval holds the mean in 95 % of 4,000 draws, where a normal one would in 86 %."""
    draws = np.random.default_rng(0).normal(7.0, 3.0, (4000, 4))
    held = np.mean([e.low <= 7.0 <= e.high for e in map(mean_with_interval, draws)])
    assert held == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 2.0]]])
def test_mean_refuses_what_has_no_spread(bad: list[float]) -> None:
    """Fewer than two finite values in one dimension raise."""
    with pytest.raises(ValueError, match=r"mean|finite"):
        mean_with_interval(bad)


@pytest.mark.parametrize(
    "fields",
    [
        (float("nan"), 0.0, 1.0, 5, 0.95),
        (0.5, 0.0, float("inf"), 5, 0.95),
        (0.5, 0.7, 0.3, 5, 0.95),
        (0.5, 0.0, 1.0, 0, 0.95),
        (0.5, 0.0, 1.0, 5, 1.0),
    ],
)
def test_an_estimate_refuses_nonsense(fields: tuple[float, float, float, int, float]) -> None:
    """A value that is not finite, a reversed interval, no observations and an impossible level cannot be stated."""
    with pytest.raises(ValueError, match=r"finite|reversed|observation|level"):
        Estimate(*fields)
