"""Parallel execution of independent jobs, each in a process of its own with its share of the cores, here or on a cluster."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed, parallel_config

from verify.errors import InputError, RunError
from verify.io.libraries import quiet_libraries

WORKERS = 2
"""Processes on this machine, where no cluster is named."""
ATTEMPTS = 3
"""Times in a row that a local worker may die without any job getting done."""


@dataclass(frozen=True)
class Job:
    """An independent run. Its arguments are paths and numbers, never records, since they are sent to another process.

    Attributes:
        label: what it does, for the progress bar.
        weight: its expected share of the work, for the progress bar.
        run: a module-level function, so that another process can import it.
        arguments: its arguments by name.
    """

    label: str
    weight: float
    run: Callable[..., Any]
    arguments: Mapping[str, Any]


def run_jobs(jobs: Sequence[Job], workers: int = WORKERS, engine: str | None = None) -> Iterator[tuple[Job, Any]]:
    """Run jobs in parallel and yield each with its result as it finishes. A job whose worker dies is given to another.

    Args:
        jobs: what to run.
        workers: processes on this machine, if no engine is named.
        engine: a cluster, "dask://HOST:PORT" or "ray://HOST:PORT"; its workers must see the same folders as this machine.

    Raises:
        InputError: the engine's kind is unknown, its library is not installed, or it does not answer.
        RunError: workers on this machine or of Ray die again and again.
    """
    if engine is not None:
        yield from _run_on_cluster(jobs, engine)
        return
    missing, deaths = dict(enumerate(jobs)), 0
    while missing:
        try:
            for number, result in _run_here(missing, workers):
                deaths = 0
                yield missing.pop(number), result
        except BrokenProcessPool:
            # One that is killed, as by a system without memory, takes the results of the others with it.
            deaths += 1
            if deaths == ATTEMPTS:
                raise RunError(
                    f"a worker process was ended from outside {ATTEMPTS} times in a row. Where memory is short, run fewer workers; "
                    "the same command goes on where it was."
                ) from None


def _run_here(jobs: Mapping[int, Job], workers: int) -> Iterator[tuple[int, Any]]:
    """Run numbered jobs in processes of this machine."""
    at_once = min(workers, len(jobs))
    parallel = Parallel(n_jobs=at_once, return_as="generator_unordered")
    # A single one runs in this process, with the threads that its user gave it.
    threads = None if at_once == 1 else max(1, (os.cpu_count() or 1) // workers)
    tasks = (delayed(_run_numbered)(number, job.run, dict(job.arguments), threads) for number, job in list(jobs.items()))
    with warnings.catch_warnings():
        # A worker that a language model has made larger is replaced between two jobs. Nothing is lost: one that dies during a job
        # raises `BrokenProcessPool`.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        yield from parallel(tasks)


def _run_on_cluster(jobs: Sequence[Job], engine: str) -> Iterator[tuple[Job, Any]]:
    """Run jobs on a Dask or Ray cluster and yield each with its result as it finishes."""
    kind, _, address = engine.partition("://")
    run = {"dask": _run_on_dask, "ray": _run_on_ray}.get(kind)
    if run is None or not address:
        raise InputError(f"the cluster {engine!r} must look like dask://HOST:PORT or ray://HOST:PORT.")
    for number, result in run(jobs, address):
        yield jobs[number], result


@contextmanager
def _connecting(kind: str, address: str) -> Iterator[None]:
    """Say what is missing where a cluster's library is not installed or nothing answers."""
    try:
        yield
    except ImportError:
        raise InputError(
            f"the cluster {kind}://{address} needs the library {kind}. Install it: pip install 'unlearn-verify[cluster]'."
        ) from None
    except (OSError, TimeoutError):
        raise InputError(f"nothing answers at {kind}://{address}. Start the scheduler, or name no cluster.") from None


def _run_on_dask(jobs: Sequence[Job], address: str) -> Iterator[tuple[int, Any]]:
    """Run jobs on a Dask cluster, which gives those of a dead worker to another."""
    with _connecting("dask", address):
        from distributed import Client

        client = Client(f"tcp://{address}")
    with client, parallel_config(backend="dask"):
        tasks = (delayed(_run_numbered)(number, job.run, dict(job.arguments), 1) for number, job in enumerate(jobs))
        # What is done is kept if this process ends before the rest is.
        yield from Parallel(n_jobs=-1, return_as="generator_unordered")(tasks)


def _run_on_ray(jobs: Sequence[Job], address: str) -> Iterator[tuple[int, Any]]:
    """Run jobs on a Ray cluster as tasks: the pool of its joblib backend ends with the first worker that dies."""
    with _connecting("ray", address):
        import ray

        client = ray.init(address=f"ray://{address}", log_to_driver=False)
    with client:
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_run_numbered)
        waiting = [task.remote(number, job.run, dict(job.arguments), 1) for number, job in enumerate(jobs)]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                yield from ray.get(done)
            except ray.exceptions.WorkerCrashedError:
                raise RunError(
                    f"a worker of the cluster was ended from outside {ATTEMPTS + 1} times in the same job. Where memory is short, "
                    "start fewer workers; the same command goes on where it was."
                ) from None
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as it was raised, without the worker's traceback in its message


def _run_numbered(number: int, run: Callable[..., Any], arguments: dict[str, Any], threads: int | None) -> tuple[int, Any]:
    """Run one job with a limited number of threads, or as many as the process has, and return its number with its result."""
    import torch
    from tqdm import tqdm

    quiet_libraries()
    # The libraries' bars, though disabled, share a lock between processes: a semaphore that is left in the system where a worker
    # ends otherwise than by itself. No other process shares the bars of a worker.
    tqdm.set_lock(threading.RLock())
    if threads is not None:
        torch.set_num_threads(threads)
    return number, run(**arguments)
