"""Independent runs side by side: each in a process of its own, with its share of the cores."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed

from verify.console import quiet_libraries

WORKERS = 2


@dataclass(frozen=True)
class Job:
    """One independent run. Its arguments are paths and numbers, never records: they may cross to other processes.

    Attributes:
        label: what it does, for people.
        weight: its expected share of the work, for the progress bar.
        run: a function of a module, so that another process can find it.
        arguments: by name.
    """

    label: str
    weight: float
    run: Callable[..., Any]
    arguments: Mapping[str, Any]


def run_jobs(jobs: Sequence[Job], workers: int = WORKERS) -> Iterator[tuple[Job, Any]]:
    """Run jobs side by side and yield each with its result as it ends."""
    parallel = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator_unordered")
    threads = max(1, (os.cpu_count() or 1) // workers)
    tasks = (delayed(_run_numbered)(number, job.run, dict(job.arguments), threads) for number, job in enumerate(jobs))
    for number, result in parallel(tasks):
        yield jobs[number], result


def _run_numbered(number: int, run: Callable[..., Any], arguments: dict[str, Any], threads: int) -> tuple[int, Any]:
    import torch

    quiet_libraries()
    torch.set_num_threads(threads)
    return number, run(**arguments)
