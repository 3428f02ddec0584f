"""The Ray engine of the fan-out, on a cluster of one machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlearn.jobs import Job, run_jobs
from verify.errors import InputError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlearn-verify[cluster]'")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster of this machine alone, with two workers; it ends when its standard input does."""
    client = free_port()
    code = (
        "import ray, time, sys; from ray.util.client.server import serve;"
        f"ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir={str(tmp_path / 'r')!r});"
        f"server = serve('127.0.0.1', {client}); print('ready', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as head:
        assert head.stdout is not None
        assert head.stdin is not None
        assert any("ready" in line for line in head.stdout)
        yield f"ray://127.0.0.1:{client}"
        head.stdin.close()


@pytest.mark.slow
def test_jobs_run_on_ray(cluster: str) -> None:
    """Every job's result comes back with its job, from two worker processes that are not this one."""
    jobs = [Job(str(number), 1.0, pow, {"base": number, "exp": 2}) for number in range(4)]
    done = {job.label: result for job, result in run_jobs(jobs, engine=cluster)}
    assert done == {"0": 0, "1": 1, "2": 4, "3": 9}


def test_a_missing_cluster_is_named() -> None:
    """An engine of no known kind is refused with the kinds there are."""
    with pytest.raises(InputError, match="dask://HOST:PORT or ray://HOST:PORT"):
        list(run_jobs([Job("a", 1.0, pow, {"base": 1, "exp": 1})], engine="slurm://somewhere:1"))
