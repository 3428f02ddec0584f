"""Timing of two sides, and the results that the summary prints."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

RESULTS: list[tuple[str, float, float]] = []
"""Name, our median and the stock one, seconds."""
SHARES: list[tuple[str, float]] = []
"""Name, and share of a total."""
MEMORY: list[tuple[str, float, float]] = []
"""Name, our peak above the loaded model and the stock one, MiB."""


def clock() -> float:
    """Return wall seconds, or processor seconds on one thread, which other work on the machine disturbs less.

    Where there is a GPU, wall seconds once it has done all that it was given.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def compare(name: str, ours: Callable[[], Any], stock: Callable[[], Any], rounds: int = 7) -> float:
    """Time two sides alternately and record the ratio of their medians, ours / stock."""
    ours(), stock()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, run in enumerate((ours, stock)):
            started = clock()
            run()
            times[side].append(clock() - started)
    return note(name, *times)


def note(name: str, ours: list[float], stock: list[float]) -> float:
    """Record a comparison for the summary and return its ratio."""
    medians = statistics.median(ours), statistics.median(stock)
    RESULTS.append((name, *medians))
    return medians[0] / medians[1]


def timed(spent: dict[str, float], name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function, so that the seconds of its calls are added to those spent under a name."""

    def wrapped(*positional: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return run(*positional, **named)
        finally:
            spent[name] += time.perf_counter() - started

    return wrapped
