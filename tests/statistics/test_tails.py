"""Fitted tails: known answers, scipy's own density, and simulated references."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from verify.statistics.panel import reference_panel
from verify.statistics.tails import FAR_SHARE, ScaledT, fit_far_tail, fit_scaled_t

pytestmark = pytest.mark.filterwarnings("error")
NEIGHBOURS = ((1.02, 1.0), (0.98, 1.0), (1.0, 1.01), (1.0, 0.99), (1.02, 1.01), (0.98, 0.99))
"""Factors of degrees and scale."""


@pytest.mark.parametrize(("degrees", "scale"), [(3.0, 1.5), (8.0, 2.0), (2.0, 1.0)])
def test_a_tail_is_recovered(degrees: float, scale: float) -> None:
    """Draws from a scaled t give back its degrees and scale within 15 %."""
    found = fit_scaled_t(stats.t.rvs(degrees, scale=scale, size=20_000, random_state=2))
    assert found.degrees == pytest.approx(degrees, rel=0.15)
    assert found.scale == pytest.approx(scale, rel=0.15)


def test_a_tail_is_never_narrowed() -> None:
    """Statistics that stray less than they should leave the scale at 1: a lucky panel buys no power."""
    assert fit_scaled_t(0.2 * np.random.default_rng(3).normal(size=2000)).scale == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, float("nan")]])
@pytest.mark.parametrize("fit", [fit_scaled_t, fit_far_tail])
def test_a_tail_needs_statistics(fit: Callable[[list[float]], ScaledT], bad: list[float]) -> None:
    """Fewer than two finite statistics raise."""
    with pytest.raises(ValueError, match="two finite"):
        fit(bad)


def test_the_written_out_likelihood_is_scipys() -> None:
    """No neighbour of the fit is likelier by scipy's own density: the slow twin of value and gradient."""
    x = stats.t.rvs(4.0, scale=1.7, size=500, random_state=4)
    found = fit_scaled_t(x)
    best = stats.t.logpdf(x, found.degrees, scale=found.scale).sum()
    for degrees, scale in NEIGHBOURS:
        assert stats.t.logpdf(x, found.degrees * degrees, scale=found.scale * scale).sum() < best


def test_the_censored_likelihood_is_scipys() -> None:
    """No neighbour of the far fit is likelier by scipy's own functions: the largest by density, the rest by lying below them."""
    x = np.sort(np.abs(stats.t.rvs(4.0, scale=1.7, size=2000, random_state=5)))
    far = round(FAR_SHARE * len(x))

    def likelihood(degrees: float, scale: float) -> float:
        below = (len(x) - far) * np.log(2 * stats.t.cdf(x[-far - 1], degrees, scale=scale) - 1)
        return float(below + stats.t.logpdf(x[-far:], degrees, scale=scale).sum())

    found = fit_far_tail(x)
    assert 1.0 < found.degrees < 1000.0
    assert found.scale > 1.0
    best = likelihood(found.degrees, found.scale)
    assert all(likelihood(found.degrees * degrees, found.scale * scale) < best for degrees, scale in NEIGHBOURS)


def beyond(errors: Callable[[np.random.Generator, int], NDArray[np.float64]]) -> tuple[float, float]:
    """Honest records beyond the quantile at 1e-3 of the bulk's fit and of the far one, as multiples of 1e-3, over six panels."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        references, honest = (errors(rng, rows * 400).reshape(rows, 400) for rows in (8, 400))
        panel = reference_panel(references)
        statistics = np.abs(panel.mean - honest) / np.sqrt(panel.variances.variances * (1 + 1 / 8))
        assert panel.tail is not None
        assert panel.far_tail is not None
        found.append([2 * fit.beyond(statistics) < 1e-3 for fit in (panel.tail, panel.far_tail)])
    bulk, far = np.mean(found, axis=(0, 2, 3)) / 1e-3
    return float(bulk), float(far)


def test_the_far_fit_accuses_fewer_where_tails_are_heavy() -> None:
    """With t4 errors 1.6 times the nominal number lie beyond it (the bulk's 2.1); with normal errors no more than nominal."""
    bulk, far = beyond(lambda rng, count: rng.standard_t(4, count))
    assert 1.2 < far < 2.0
    assert far < 0.9 * bulk
    assert 0.7 < beyond(lambda rng, count: rng.normal(size=count))[1] < 1.1
