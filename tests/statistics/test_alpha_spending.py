"""Alpha spending over audits that share controls: known answers, and false accusations by simulation."""

import numpy as np
import pytest
from scipy import stats

from verify.schema.alpha_spending import Spending, level_of, level_spent


def test_levels_by_hand() -> None:
    """Alpha 0.05, twenty expected, a tenth in reserve: 0.00225 each, then 0.005 / 2, 0.005 / 6; never more than alpha in all."""
    spending = Spending(0.05, 20)
    assert [spending.level(number) for number in (1, 20, 21, 22)] == pytest.approx([0.00225, 0.00225, 0.0025, 0.005 / 6])
    assert spending.spent(20) == pytest.approx(0.045)
    assert 0.0499 < spending.spent(2000) < 0.05


def test_what_is_spent_is_the_sum_of_the_levels() -> None:
    """The closed form against the slow sum, before, at and beyond the planned number; without a plan every audit uses alpha."""
    spending = Spending(0.05, 7, 0.2)
    for count in (0, 1, 6, 7, 8, 30):
        assert spending.spent(count) == pytest.approx(sum(spending.level(number) for number in range(1, count + 1)))
    assert (level_of(0.05, None, 9), level_spent(0.05, None, 9), level_spent(0.05, None, 90)) == (0.05, pytest.approx(0.45), 1.0)
    assert (level_of(0.05, 7, 9), level_spent(0.05, 7, 9)) == (Spending(0.05, 7).level(9), Spending(0.05, 7).spent(9))


def test_false_accusations_over_twenty_requests_that_share_controls() -> None:
    """20 honest requests against the same five controls, 4,000 times, with p-values that hold one by one: without an account more
    than a quarter accuse somebody, with it at most alpha; an e-value that multiplies, valid for canaries, exceeds alpha.
    """
    rng = np.random.default_rng(0)
    worlds, requests, own, controls = 4000, 20, 0.4, 5
    common = rng.standard_normal((worlds, 1)) / np.sqrt(controls)
    z = (own * rng.standard_normal((worlds, requests)) - common) / np.sqrt(own**2 + 1 / controls)
    p = stats.norm.sf(z)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.01)
    levels = np.array([Spending(0.05, requests).level(number) for number in range(1, requests + 1)])
    product = np.cumsum(np.log(0.5 / np.sqrt(p)), axis=1).max(axis=1) >= np.log(20)  # p^{-1/2} / 2, Vovk and Wang 2021
    assert (p <= 0.05).any(axis=1).mean() > 0.25
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / worlds)
    assert (p <= levels).any(axis=1).mean() < limit
    assert product.mean() > limit


@pytest.mark.parametrize("given", [(0.6, 20, 0.1), (0.05, 0, 0.1), (0.05, 20, 1.0)])
def test_impossible_accounts(given: tuple[float, int, float]) -> None:
    """A level, a number of audits or a reserve out of range raise, as does an audit before the first."""
    with pytest.raises(ValueError, match="alpha lies in"):
        Spending(*given)
    with pytest.raises(ValueError, match="numbered from 1"):
        Spending(0.05, 20).level(0)
