"""Scaling of the statistics to 10,000 and 100,000 records: seconds, and memory linear in the number of records."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from verify.statistics import benjamini_hochberg, likelihood_ratio, membership_auc, residual_verdict, rmia
from verify.statistics.quantiles import quantile_regression

REFERENCES = 4


def _auc(rng: np.random.Generator, count: int) -> Callable[[], Any]:
    members, others = rng.normal(0.2, 1, count), rng.normal(size=count)
    return lambda: membership_auc(members, others, 0.95)


def _rejections(rng: np.random.Generator, count: int) -> Callable[[], Any]:
    p_values = rng.random(count)
    return lambda: benjamini_hochberg(p_values, 0.05)


def _ratios(rng: np.random.Generator, count: int) -> Callable[[], Any]:
    target, references = rng.normal(-2, 1, count), rng.normal(-2, 1, (REFERENCES, count))
    return lambda: likelihood_ratio(target, references, variance="pooled")


def _rmia(rng: np.random.Generator, count: int) -> Callable[[], Any]:
    target, references = rng.normal(-2, 1, count), rng.normal(-2, 1, (REFERENCES, count))
    population, population_references = rng.normal(-2, 1, count), rng.normal(-2, 1, (REFERENCES, count))
    return lambda: rmia(target, references, population, population_references, 1.0)


def _residual(rng: np.random.Generator, count: int) -> Callable[[], Any]:
    losses = rng.normal(3, 0.3, (2 + REFERENCES, count))
    losses[0] -= 2.0
    return lambda: residual_verdict(losses[0], losses[1], losses[2:], 0.1, 0.05)


def _quantile(rng: np.random.Generator, count: int) -> Callable[[], Any]:
    features, values = rng.normal(size=(count, 5)), rng.gumbel(size=count)
    return lambda: quantile_regression(features, values, 0.9, 0.01)


CASES = {
    "auc": _auc,
    "benjamini_hochberg": _rejections,
    "lira": _ratios,
    "rmia": _rmia,
    "residual": _residual,
    "quantile_regression": _quantile,
}


@pytest.mark.parametrize("count", [10_000, 100_000])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_scale(benchmark: Any, make: Callable[[np.random.Generator, int], Callable[[], Any]], count: int) -> None:
    """Time by pytest-benchmark, with peak memory per record as extra info."""
    run = make(np.random.default_rng(0), count)
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    benchmark.extra_info.update(bytes_per_record=peak / count)
    benchmark.pedantic(run, rounds=3)
    assert peak / count < 1000, "memory is linear in the number of records"
