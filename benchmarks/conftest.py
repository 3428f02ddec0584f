"""Fixtures and summary of the benchmarks; both sides of a comparison are timed alternately in one run, and medians are compared."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timing import MEMORY, RESULTS, SHARES


@pytest.fixture(autouse=True)
def fixed_threads() -> Iterator[None]:
    """Run every benchmark on two threads, as most published figures were, or on as many as OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line per comparison."""
    if RESULTS:
        terminalreporter.section("ours against stock, medians")
    for name, ours, stock in RESULTS:
        terminalreporter.write_line(f"{name:<58} {ours * 1e3:9.1f} ms {stock * 1e3:9.1f} ms   ratio {ours / stock:.3f}")
    if SHARES:
        terminalreporter.section("shares of a whole")
    for name, share in SHARES:
        terminalreporter.write_line(f"{name:<70} {share:7.2%}")
    if MEMORY:
        terminalreporter.section("peak memory above the loaded model, ours against stock")
    for name, mine, theirs in MEMORY:
        terminalreporter.write_line(f"{name:<58} {mine:8.1f} MiB {theirs:8.1f} MiB   ratio {mine / theirs:.3f}")
