"""Processes that train and score the models of some worlds side by side."""

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.level_table.measure import measure_worlds
from benchmarks.level_table.worlds import Name, folder_of, open_world
from verify.io.jobs import Job, run_jobs


def train(world: Name, seeds: Sequence[int], output: Path, shared: Path, seconds: float, workers: int) -> int:
    """Train and score missing models in some processes; return how many are still missing."""
    until = time.time() + seconds
    worlds = [open_world(world, folder_of(output, world, seed), shared, seed) for seed in seeds]
    for own in worlds:
        own.write_design(_machine())
    # Alone, since its times say what a retraining costs.
    measure_worlds(worlds[:1], seconds, _said, only=["original"])
    about = {"world": world, "seeds": tuple(seeds), "output": output, "shared": shared, "until": until}
    return min(missing for _, missing in run_jobs([Job(f"worker {n}", 1, work, about) for n in range(workers)], workers))


def work(world: Name, seeds: Sequence[int], output: Path, shared: Path, until: float) -> int:
    """Train and score what no other process has begun, until a time of the clock; return how many models are missing then.

    Not for a number of seconds: a worker whose pool broke begins again.
    """
    worlds = [open_world(world, folder_of(output, world, seed), shared, seed) for seed in seeds]
    return measure_worlds(worlds, until - time.time(), _said)


def _said(message: str, share: float) -> None:
    print(f"{100 * share:.0f} % {message}", flush=True)


def _machine() -> str:
    processor = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else processor}, torch {torch.__version__}"
