"""Error over requests that share controls: known answers, and false accusations by simulation."""

import numpy as np
import pytest
from scipy import stats

from verify.statistics.across_requests import Spending, e_values, evidence_across_requests


def test_levels_by_hand() -> None:
    """Alpha 0.05, twenty expected, a tenth in reserve: 0.00225 each, then 0.005 / 2, 0.005 / 6; never more than alpha in all."""
    spending = Spending(0.05, 20)
    assert [spending.level(number) for number in (1, 20, 21, 22)] == pytest.approx([0.00225, 0.00225, 0.0025, 0.005 / 6])
    assert spending.spent(20) == pytest.approx(0.045)
    assert 0.0499 < spending.spent(2000) < 0.05


def test_evidence_by_hand() -> None:
    """p = 0.01 and 0.25 are e-values of 5 and 1; with weights 0.45 each they add to 2.25, then 2.7."""
    assert e_values([0.01, 0.25]) == pytest.approx([5, 1])
    assert np.exp(evidence_across_requests([0.01, 0.25], Spending(0.05, 2)).log_e_values) == pytest.approx([2.25, 2.7])


def test_false_accusations_over_twenty_requests_that_share_controls() -> None:
    """20 honest requests against the same five controls, 4,000 times, with p-values that hold one by one: without an account more
    than a quarter accuse somebody, with either account at most alpha; the product of e-values, valid for canaries, exceeds it.
    """
    rng = np.random.default_rng(0)
    worlds, requests, own, controls = 4000, 20, 0.4, 5
    common = rng.standard_normal((worlds, 1)) / np.sqrt(controls)
    z = (own * rng.standard_normal((worlds, requests)) - common) / np.sqrt(own**2 + 1 / controls)
    p = stats.norm.sf(z)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.01)
    spending = Spending(0.05, requests)
    levels = np.array([spending.level(number) for number in range(1, requests + 1)])
    added = np.array([evidence_across_requests(row, spending).alarm(0.05) is not None for row in p])
    product = np.cumsum(np.log(e_values(p)), axis=1).max(axis=1) >= np.log(20)
    assert (p <= 0.05).any(axis=1).mean() > 0.25
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / worlds)
    assert (p <= levels).any(axis=1).mean() < limit
    assert added.mean() < limit
    assert product.mean() > limit


def test_requests_that_kept_a_person_are_found_under_the_account() -> None:
    """A p-value of 1e-4 accuses under twenty requests, and 1e-7 raises the alarm by itself."""
    spending = Spending(0.05, 20)
    assert spending.level(7) > 1e-4
    assert evidence_across_requests([0.5] * 6 + [1e-7], spending).alarm(0.05) == 6


@pytest.mark.parametrize("given", [(0.6, 20, 0.1), (0.05, 0, 0.1), (0.05, 20, 1.0)])
def test_impossible_accounts(given: tuple[float, int, float]) -> None:
    """A level, a number of requests or a reserve out of range raise, as do a request before the first and no p-values."""
    with pytest.raises(ValueError, match="alpha lies in"):
        Spending(*given)
    with pytest.raises(ValueError, match="numbered from 1"):
        Spending(0.05, 20).level(0)
    with pytest.raises(ValueError, match="at least one request"):
        evidence_across_requests([], Spending(0.05, 20))
    with pytest.raises(ValueError, match="lie in"):
        e_values([0.0])
