"""Both sides of every comparison are timed in one run, in turn, and compared by their medians."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

RESULTS: list[tuple[str, float, float]] = []


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """The figures are for two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def compare(name: str, ours: Callable[[], Any], stock: Callable[[], Any], rounds: int = 7) -> float:
    """Time two sides in turn and note the ratio of their medians, ours / stock."""
    ours(), stock()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, run in enumerate((ours, stock)):
            started = time.perf_counter()
            run()
            times[side].append(time.perf_counter() - started)
    return note(name, *times)


def note(name: str, ours: list[float], stock: list[float]) -> float:
    """Keep a comparison for the summary and return its ratio."""
    medians = statistics.median(ours), statistics.median(stock)
    RESULTS.append((name, *medians))
    return medians[0] / medians[1]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line per comparison."""
    if RESULTS:
        terminalreporter.section("ours against stock, medians")
    for name, ours, stock in RESULTS:
        terminalreporter.write_line(f"{name:<58} {ours * 1e3:9.1f} ms {stock * 1e3:9.1f} ms   ratio {ours / stock:.3f}")
