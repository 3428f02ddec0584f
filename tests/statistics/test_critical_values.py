"""Critical values against tables, and against the distribution functions that they invert."""

import pytest
from scipy import stats

from verify.statistics.critical_values import beta_quantile, f_quantile, normal_quantile, t_quantile


def test_they_are_those_of_the_tables() -> None:
    """To the digits that are printed in textbooks."""
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert t_quantile(0.95, 3) == pytest.approx(2.353, abs=5e-4)
    assert t_quantile(0.975, 10) == pytest.approx(2.228, abs=5e-4)
    assert f_quantile(0.95, 3, 12) == pytest.approx(3.490, abs=5e-4)
    assert beta_quantile(0.95, 1, 9) == pytest.approx(1 - 0.05 ** (1 / 9))


def test_they_invert_the_distribution_functions() -> None:
    """At the probabilities of a verdict, with degrees of freedom that are no integers."""
    for p in (0.01, 0.05 / 64, 0.95, 1 - 0.05 / 512):
        assert stats.norm.cdf(normal_quantile(p)) == pytest.approx(p)
        assert stats.t.cdf(t_quantile(p, 6.37), 6.37) == pytest.approx(p)
        assert stats.f.cdf(f_quantile(p, 2.5, 7.1), 2.5, 7.1) == pytest.approx(p)
        assert stats.beta.cdf(beta_quantile(p, 3, 18), 3, 18) == pytest.approx(p)


def test_a_kept_value_belongs_to_its_arguments() -> None:
    """Asked again in another order, every value is the one from before."""
    asked = [(p, degrees) for p in (0.9, 0.95, 0.99) for degrees in (1, 1.5, 2)]
    first = [t_quantile(*one) for one in asked]
    assert [t_quantile(*one) for one in reversed(asked)] == first[::-1]
    assert len({*first}) == len(first)
