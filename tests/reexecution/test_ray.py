"""The Ray engine, on a cluster of one machine: jobs, and re-executions of which a worker is killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verify.errors import InputError
from verify.io.jobs import Job, run_jobs
from verify.reexecution.reexecute import reexecute

pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlearn-verify[cluster]'")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def takes_clients(address: str) -> bool:
    """Whether a client gets an answer in the half minute that Ray allows it: the port is open long before the cluster is ready."""
    import ray

    try:
        with ray.init(address=address, log_to_driver=False):
            return True
    except ConnectionError:
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, int]]:
    """A Ray cluster of this machine alone, ready for clients, and its process, with which it ends.

    It runs one job at a time, each of which may have another worker: every worker imports all that it needs.
    """
    port, client = free_port(), free_port()
    first = 20000  # below the ports that the operating system hands out, so that neither of the two above is taken twice
    given = ["start", "--head", "--block", "--num-cpus=1", f"--port={port}", f"--ray-client-server-port={client}"]
    settings = [
        "--include-dashboard=false",
        "--disable-usage-stats",
        f"--min-worker-port={first}",
        f"--max-worker-port={first + 99}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("ray")), *given, *settings]
    # A folder of its own: in the shared one Ray would note this cluster as the one that others join. Its sockets need a short path.
    with (
        tempfile.TemporaryDirectory(prefix="ray") as folder,
        subprocess.Popen(
            [*command, f"--temp-dir={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        ) as head,
    ):
        while not listens(client):
            assert head.poll() is None, "Ray did not start"
            time.sleep(0.2)
        address = f"ray://127.0.0.1:{client}"
        while not takes_clients(address):
            assert head.poll() is None, "Ray ended before it took a client"
        yield address, head.pid
        head.terminate()


@pytest.mark.slow
def test_jobs_run_on_ray(cluster: tuple[str, int]) -> None:
    """Every job's result comes back with its job, from worker processes and not from this one; an error is the job's own."""
    jobs = [Job(str(number), 1.0, pow, {"base": number, "exp": 2}) for number in range(4)]
    jobs.append(Job("process", 1.0, os.getpid, {}))
    # Ray begins tasks in any order, so what ends the others waits until they are done.
    jobs.append(Job("a", 1.0, os.listdir, {"path": "/not-there"}, after=frozenset(job.label for job in jobs)))
    done = {}
    with pytest.raises(FileNotFoundError) as caught:
        done.update((job.label, result) for job, result in run_jobs(jobs, engine=cluster[0]))
    assert "Traceback" not in str(caught.value)
    assert done.pop("process") != os.getpid()
    assert done == {"0": 0, "1": 1, "2": 4, "3": 9}


def parent(pid: int) -> int:
    """The parent of a process; 0 where it ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def belongs_to(pid: int, head: int) -> bool:
    """Whether a process is a descendant of the cluster's."""
    while pid > 1 and pid != head:
        pid = parent(pid)
    return pid == head


def kill_one(head: int, killed: list[int]) -> None:
    """Kill -9 a worker of the cluster as soon as it works on something."""
    while not killed:
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                working = folder.joinpath("cmdline").read_bytes().startswith(b"ray::_run_numbered")
            except OSError:
                continue
            if working and belongs_to(int(folder.name), head):
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))
                break
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    rolled_back: dict[str, Any], cluster: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed in the middle, and paths are relative: the proof is that of a single process but for its times."""
    alone = reexecute(**rolled_back, from_base=True)
    engine, head = cluster
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(head, killed), daemon=True)
    killer.start()
    monkeypatch.chdir(rolled_back["data"].parent)
    near = {**rolled_back, "data": "data.jsonl", "forget_set": "forget.jsonl"}
    apart = reexecute(**near, from_base=True, engine=engine)
    killer.join(30)
    assert killed, "no worker was killed"
    assert apart.model_copy(update={"created": alone.created, "seconds": alone.seconds}).text() == alone.text()


def test_a_cluster_that_is_slow_to_take_a_client_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it listens, the second answer counts. Where nothing listens it is asked once; that or a second failure is named."""
    import ray

    asked = []

    def init(address: str, **_: object) -> Any:
        asked.append(address)
        if len(asked) != 2:
            raise ConnectionError
        raise KeyError("the second answer")  # stands for a client: nothing runs here

    monkeypatch.setattr(ray, "init", init)
    job = [Job("a", 1.0, pow, {"base": 1, "exp": 1})]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        engine = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(KeyError, match="the second answer"):
            list(run_jobs(job, engine=engine))
        assert asked == [engine] * 2
        with pytest.raises(InputError, match="nothing answers at ray:"):
            list(run_jobs(job, engine=engine))
        assert asked == [engine] * 4
    for silent in (engine, "ray://somewhere", "ray://127.0.0.1:70000", "ray://127.0.0.1:port"):
        with pytest.raises(InputError, match="nothing answers at ray:"):
            list(run_jobs(job, engine=silent))
        assert asked.pop() == silent
    assert asked == [engine] * 4


def test_a_missing_cluster_is_named() -> None:
    """An engine of no known kind is refused with the kinds there are."""
    with pytest.raises(InputError, match="dask://HOST:PORT or ray://HOST:PORT"):
        list(run_jobs([Job("a", 1.0, pow, {"base": 1, "exp": 1})], engine="slurm://somewhere:1"))
