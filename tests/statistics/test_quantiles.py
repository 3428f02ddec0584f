"""Quantile regression against scikit-learn's linear program, against known quantiles, and against its optimality conditions."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import QuantileRegressor

from verify.statistics import quantiles
from verify.statistics.quantiles import quantile_regression

Array = NDArray[np.float64]


def drawn(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Features and skewed values whose spread depends on the first feature."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 5))
    return x, x @ np.array([0.5, -0.2, 0.1, 0.0, 0.03]) + rng.gumbel(size=count) * (1 + 0.2 * np.abs(x[:, 0]))


def objective(x: Array, y: Array, fit: tuple[Array, float], quantile: float, penalty: float) -> float:
    residual = y - x @ fit[0] - fit[1]
    return float(np.mean(np.maximum(quantile * residual, (quantile - 1) * residual)) + penalty * np.abs(fit[0]).sum())


@pytest.mark.parametrize("count", [1, 2, 7, 33, 801])
@pytest.mark.parametrize(("quantile", "penalty"), [(0.9, 0.01), (0.3, 0.0), (0.5, 0.2)])
def test_it_is_as_good_as_the_primal_program(count: int, quantile: float, penalty: float) -> None:
    """The objective is scikit-learn's to rounding, from one record on."""
    x, y = drawn(count)
    other = QuantileRegressor(quantile=quantile, alpha=penalty, solver="highs").fit(x, y)
    best = objective(x, y, (other.coef_, float(other.intercept_)), quantile, penalty)
    assert objective(x, y, quantile_regression(x, y, quantile, penalty), quantile, penalty) == pytest.approx(best, abs=1e-10)


def test_the_fit_is_the_same_where_only_one_is_best() -> None:
    """With real numbers and a count that does not split evenly the best fit is unique, so both find it."""
    x, y = drawn(997)
    other = QuantileRegressor(quantile=0.9, alpha=0.01, solver="highs").fit(x, y)
    coefficients, intercept = quantile_regression(x, y, 0.9, 0.01)
    np.testing.assert_allclose(coefficients, other.coef_, atol=1e-9)
    assert intercept == pytest.approx(other.intercept_, abs=1e-9)


@pytest.mark.parametrize("band", [1, 5, 10**6])
@pytest.mark.parametrize("digits", [1, 15])
def test_the_shortened_program_has_the_whole_ones_answer(band: int, digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever share of the sides is fixed in advance, also with many equal values and a constant feature."""
    x, y = drawn(6000, seed=1)
    x[:, 2], y = 0.0, np.round(y, digits)
    monkeypatch.setattr(quantiles, "BAND", band)
    short = quantile_regression(x, y, 0.9, 0.01)
    monkeypatch.setattr(quantiles, "WHOLE", 10**9)
    whole = quantile_regression(x, y, 0.9, 0.01)
    assert objective(x, y, short, 0.9, 0.01) == pytest.approx(objective(x, y, whole, 0.9, 0.01), abs=1e-10)


@pytest.mark.slow
def test_a_sample_that_misleads_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clusters of which the sample cannot show the balance: sides fixed wrongly are freed, or the whole is solved."""
    x = np.zeros((6000, 1))
    y = np.concatenate([np.full(5399, -1.0), np.full(601, 1.0)]) + np.random.default_rng(0).normal(size=6000) * 1e-3
    monkeypatch.setattr(quantiles, "BAND", 1)
    _, intercept = quantile_regression(x, y, 0.9)
    assert np.sum(y < intercept - 1e-12) <= 0.9 * 6000 <= np.sum(y <= intercept + 1e-12)


def test_simulated_quantiles_are_covered() -> None:
    """Of fresh draws the predicted share lies below the fit, on either half of a feature."""
    x, y = drawn(40_000)
    coefficients, intercept = quantile_regression(x, y, 0.9)
    fresh, values = drawn(40_000, seed=7)
    below = values < fresh @ coefficients + intercept
    for half in (fresh[:, 1] > 0, fresh[:, 1] <= 0):
        assert below[half].mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("features", "values", "quantile", "penalty", "said"),
    [
        (np.zeros((3, 2)), np.zeros(4), 0.5, 0.0, "got"),
        (np.zeros((0, 2)), np.zeros(0), 0.5, 0.0, "N >= 1"),
        (np.full((3, 2), np.nan), np.zeros(3), 0.5, 0.0, "finite"),
        (np.zeros((3, 2)), np.zeros(3), 1.0, 0.0, "quantile lies"),
        (np.zeros((3, 2)), np.zeros(3), 0.5, -1.0, "at least 0"),
    ],
)
def test_input_that_means_nothing_is_refused(features: Array, values: Array, quantile: float, penalty: float, said: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=said):
        quantile_regression(features, values, quantile, penalty)
