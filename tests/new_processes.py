"""New processes without the seconds that importing torch takes: a server that has imported it and nothing else is forked.

What a process runs is a function of a module on the path of the tests, with arguments that can be pickled.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
# Third parties only: the server knows neither the path of the tests nor where the packages under test are.
CONTEXT.set_forkserver_preload(
    ["torch", "transformers.trainer", "transformers.models.llama.modeling_llama", "peft", "accelerate", "datasets", "scipy.stats"]
)


class NewProcess:
    """One function that runs in a process of its own.

    Args:
        function: what to run.
        given: its arguments.
        environment: variables that the process has besides this one's.
    """

    def __init__(self, function: Callable[..., Any], *given: Any, environment: dict[str, str] | None = None) -> None:
        self.answers, answer = CONTEXT.Pipe(duplex=False)
        variables = {**os.environ, **(environment or {})}
        self._process = CONTEXT.Process(target=_run, args=(answer, variables, function, given), daemon=True)
        self._process.start()
        answer.close()  # so that the end of the process ends the pipe

    def has_ended(self) -> bool:
        """Whether it is over, well or not."""
        return self._process.exitcode is not None

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def result(self) -> Any:
        """What the function returned, once it has, or None where SIGKILL ended it.

        Raises:
            AssertionError: the function raised, or the process ended in another way.
        """
        try:
            raised, answer = self.answers.recv()
        except EOFError:
            raised, answer = "", None
        self._process.join()
        assert not raised, raised
        if self._process.exitcode == -signal.SIGKILL:
            return None
        assert self._process.exitcode == 0, f"ended with {self._process.exitcode}"
        return answer


def _run(answer: Connection, variables: dict[str, str], function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    import torch

    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        answer.send(("", function(*given)))
    except BaseException:
        answer.send((traceback.format_exc(), None))
        raise


def in_new_process(function: Callable[..., Any], *given: Any) -> Any:
    """What the function returns in a process of its own, or None where SIGKILL ended it."""
    return NewProcess(function, *given).result()


def printed_by(program: str, *arguments: str) -> str:
    """What a program in Python prints in a process of its own, which has imported nothing of the packages under test."""
    return str(in_new_process(_execute, program, *arguments))


def _execute(program: str, *arguments: str) -> str:
    assert not {"unlearn", "verify"} & set(sys.modules)
    sys.argv = ["-c", *arguments]
    with tempfile.TemporaryFile("w+") as printed:
        os.dup2(printed.fileno(), 1)  # also what processes print that the program starts
        with open(1, "w", closefd=False) as stream, contextlib.redirect_stdout(stream):
            exec(program, {"__name__": "__main__"})
        printed.seek(0)
        return printed.read()


def in_processes(count: int, function: Callable[..., Any], *given: Any) -> list[Any]:
    """Return what the function returns in each of several processes, connected as by `torchrun`; with 1, in a single one.

    Raises:
        AssertionError: one of them failed. The others are ended, as they would wait for it.
    """
    if count == 1:
        return [in_new_process(function, *given)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""} for rank in range(count)]
    started = {process.answers: process for process in (NewProcess(function, *given, environment=rank) for rank in ranks)}
    results: dict[Any, Any] = {}
    try:
        while len(results) < count:
            for ready in wait([answers for answers in started if answers not in results]):
                results[ready] = started[ready].result()  # type: ignore[index]
    finally:
        for process in started.values():
            process.kill()
    return [results[answers] for answers in started]


@contextlib.contextmanager
def dask_cluster() -> Iterator[str]:
    """A Dask cluster of two workers, each such a process with one thread, and its HOST:PORT.

    It looks at itself seldom: an idle one, as Dask sets it up, takes an eighth of a core from the tests beside it.
    """
    import dask
    import distributed.utils
    from distributed import LocalCluster

    settings = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "2s",
        "distributed.admin.system-monitor.interval": "10s",
    }
    with (
        mock.patch.object(distributed.utils, "_forkserver_preload_set", True),  # else Dask has its own list imported
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made,
    ):
        yield made.scheduler_address.removeprefix("tcp://")


@contextlib.contextmanager
def local_workers() -> Iterator[None]:
    """Let the workers of this machine, which import all that they need, be such processes; no worker of before or after is one."""
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.backend.context import set_start_method

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    set_start_method("forkserver", force=True)
    try:
        yield
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
        set_start_method(None, force=True)
