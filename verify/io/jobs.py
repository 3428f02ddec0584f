"""Parallel execution of jobs, each in a process of its own with its share of the cores, here or on a cluster."""

import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed, parallel_config

from verify.errors import InputError, RunError
from verify.io.extras import missing
from verify.io.libraries import quiet_libraries

WORKERS = 2
"""Processes on this machine, where no cluster is named."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Settings of a new worker that libraries read when they are loaded."""
ATTEMPTS = 3
"""Times in a row that a local worker may die without any job getting done."""


@dataclass(frozen=True)
class Job:
    """A run of its own. Its arguments are paths and numbers, never records, since they are sent to another process.

    Attributes:
        label: what it does, for the progress bar.
        weight: its expected share of the work, for the progress bar.
        run: a module-level function, so that another process can import it.
        arguments: its arguments by name.
        after: labels of the jobs that must be done before it begins.
    """

    label: str
    weight: float
    run: Callable[..., Any]
    arguments: Mapping[str, Any]
    after: frozenset[str] = frozenset()


_RunNumbered = Callable[[Mapping[int, Job]], Iterator[tuple[int, Any]]]


def run_jobs(jobs: Sequence[Job], workers: int = WORKERS, engine: str | None = None) -> Iterator[tuple[Job, Any]]:
    """Run jobs in parallel and yield each with its result as it finishes. A job whose worker dies is given to another.

    Args:
        jobs: what to run; of the jobs that are ready, those listed first begin first.
        workers: processes on this machine, if no engine is named.
        engine: a cluster, "dask://HOST:PORT" or "ray://HOST:PORT"; its workers must see the same folders as this machine.

    Raises:
        InputError: the engine's kind is unknown, its library is not installed, or it does not answer.
        RunError: workers on this machine or of Ray die again and again.
    """
    labels = {job.label for job in jobs}
    assert all(job.after <= labels for job in jobs), "a job waits for one that is not there"
    if engine is not None:
        yield from _run_in_turns(jobs, engine)
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
                    "the same command continues where it stopped."
                ) from None


def _run_here(jobs: Mapping[int, Job], workers: int) -> Iterator[tuple[int, Any]]:
    """Run numbered jobs on this machine; what they wait for and is not among them is done."""
    at_once = min(workers, len(jobs))
    waiting = dict(jobs)
    if at_once == 1:  # in this process, with the threads that its user gave it
        while waiting:
            number = _ready(waiting)[0]
            yield _run_numbered(number, waiting[number].run, dict(waiting[number].arguments), None)
            del waiting[number]
        return
    with _workers(at_once, threads := max(1, (os.cpu_count() or 1) // workers)) as pool:
        running: dict[Future[tuple[int, Any]], int] = {}
        while waiting:
            begun = set(running.values())
            # No more than there are workers: what becomes ready later may come before those that wait.
            for number in [one for one in _ready(waiting) if one not in begun][: at_once - len(running)]:
                job = waiting[number]
                running[pool.submit(_run_numbered, number, job.run, dict(job.arguments), threads)] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                found = future.result()
                del waiting[found[0]]
                yield found


def _ready(waiting: Mapping[int, Job]) -> list[int]:
    """Return the numbers of the jobs that wait for none of the others, in order."""
    undone = {job.label for job in waiting.values()}
    found = [number for number, job in waiting.items() if undone.isdisjoint(job.after)]
    assert found, "no two jobs wait for each other"
    return found


@contextmanager
def _workers(count: int, threads: int) -> Iterator[Any]:
    """Start processes, or take those of an earlier call; after an error, what still runs there is ended."""
    from joblib.externals.loky import get_reusable_executor

    given = {name: str(threads) for name in THREAD_VARIABLES if name not in os.environ}
    pool = get_reusable_executor(max_workers=count, timeout=300, env=given)
    with warnings.catch_warnings():
        # A worker that a language model has made larger is replaced between two jobs. Nothing is lost: one that dies during a job
        # raises `BrokenProcessPool`.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, kill_workers=True)
            raise


def _run_in_turns(jobs: Sequence[Job], engine: str) -> Iterator[tuple[Job, Any]]:
    """Run on a cluster all jobs that can begin, then all that waited for these, and so on."""
    waiting = dict(enumerate(jobs))
    with _cluster(engine) as run:
        while waiting:
            turn = {number: waiting[number] for number in _ready(waiting)}
            for number, result in run(turn):
                yield jobs[number], result
            for number in turn:
                del waiting[number]


@contextmanager
def _cluster(engine: str) -> Iterator[_RunNumbered]:
    """Connect to a Dask or Ray cluster and give what runs numbered jobs there and yields each number with its job's result."""
    kind, _, address = engine.partition("://")
    connect = {"dask": _dask, "ray": _ray}.get(kind)
    if connect is None or not address:
        raise InputError(f"the cluster {engine!r} must look like dask://HOST:PORT or ray://HOST:PORT.")
    with connect(address) as run:
        yield run


@contextmanager
def _connecting(kind: str, address: str) -> Iterator[None]:
    """Say what is missing where a cluster's library is not installed or nothing answers."""
    try:
        yield
    except ImportError:
        raise missing(f"the cluster {kind}://{address} ({kind})", "cluster") from None
    except (OSError, TimeoutError):
        raise InputError(f"nothing answers at {kind}://{address}. Start the scheduler, or name no cluster.") from None


@contextmanager
def _dask(address: str) -> Iterator[_RunNumbered]:
    """Connect to a Dask cluster, which gives the jobs of a dead worker to another."""
    with _connecting("dask", address):
        from distributed import Client

        client = Client(f"tcp://{address}")

    def run(jobs: Mapping[int, Job]) -> Iterator[tuple[int, Any]]:
        tasks = (delayed(_run_numbered)(number, job.run, dict(job.arguments), 1) for number, job in jobs.items())
        # What is done is kept if this process ends before the rest is.
        yield from Parallel(n_jobs=-1, return_as="generator_unordered")(tasks)

    with client, parallel_config(backend="dask"):
        yield run


@contextmanager
def _ray(address: str) -> Iterator[_RunNumbered]:
    """Connect to a Ray cluster, where jobs are tasks: the pool of its joblib backend ends with the first worker that dies."""
    with _connecting("ray", address):
        import ray

        client = _ray_client(address)

    def run(jobs: Mapping[int, Job]) -> Iterator[tuple[int, Any]]:
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_run_numbered)
        waiting = [task.remote(number, job.run, dict(job.arguments), 1) for number, job in jobs.items()]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                yield from ray.get(done)
            except ray.exceptions.WorkerCrashedError:
                raise RunError(
                    f"a worker of the cluster was ended from outside {ATTEMPTS + 1} times in the same job. Where memory is short, "
                    "start fewer workers; the same command continues where it stopped."
                ) from None
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as it was raised, without the worker's traceback in its message

    with client:
        yield run


def _ray_client(address: str) -> Any:
    """Connect; once more where the cluster listens, but took longer for a client than the half minute that Ray allows it."""
    import ray

    try:
        return ray.init(address=f"ray://{address}", log_to_driver=False)
    except ConnectionError:
        if not _listens(address):
            raise
        return ray.init(address=f"ray://{address}", log_to_driver=False)


def _listens(address: str) -> bool:
    """Return whether anything takes connections at HOST:PORT."""
    host, _, port = address.partition("/")[0].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError):  # nothing there, or no port that there could be
        return False
    return True


def _run_numbered(number: int, run: Callable[..., Any], arguments: dict[str, Any], threads: int | None) -> tuple[int, Any]:
    """Run one job with a limited number of threads, or as many as the process has, and return its number with its result."""
    import torch
    from tqdm import tqdm

    quiet_libraries()
    # The libraries' bars, though disabled, share a lock between processes: a semaphore that is left in the system where a worker
    # is killed. No other process shares the bars of a worker.
    tqdm.set_lock(threading.RLock())
    if threads is not None:
        torch.set_num_threads(threads)
    return number, run(**arguments)
