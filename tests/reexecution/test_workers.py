"""Re-execution side by side: the proof of a single process, on a cluster and in local processes, also where a worker is killed."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.execution import Group
from verify.reexecution.plans import Trust
from verify.reexecution.reexecute import reexecute
from verify.reexecution.request import Request
from verify.reexecution.workers import execute_group
from verify.schema.reexecution import Reexecution


def but_times(proof: Reexecution) -> str:
    """A proof's text, without the times in it."""
    return proof.model_copy(update={"created": "", "seconds": 0.0}).text()


def kill_one(engine: str, killed: list[int]) -> None:
    """Kill -9 a worker of a Dask cluster as soon as it works on something."""
    from distributed import Client

    with Client(f"tcp://{engine.removeprefix('dask://')}", set_as_default=False) as client:
        pids = client.run(os.getpid)
        while not killed:
            busy = [worker for worker, tasks in client.processing().items() if tasks and worker in pids]
            if busy:
                os.kill(pids[busy[0]], signal.SIGKILL)
                killed.append(pids[busy[0]])
            time.sleep(0.01)


def asked(given: dict[str, Any]) -> Request:
    """What a worker is given."""
    files = {name: value for name, value in given.items() if name != "requested"}
    return Request(**files, trust=Trust(), fields=None, tokenizer=None, dtype="auto")


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_workers_give_the_same_proof(rolled_back: dict[str, Any], dask_engine: str) -> None:
    """Byte for byte but for the times: one process, two local ones, and a cluster of which a worker is killed in the middle."""
    alone = reexecute(**rolled_back, from_base=True)
    assert alone.phrase == "REBUILT_WITHOUT(all of 6)", alone.findings
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(dask_engine, killed), daemon=True)
    killer.start()
    apart = reexecute(**rolled_back, from_base=True, engine=dask_engine)
    killer.join(30)
    assert killed, "no worker was killed"
    assert but_times(apart) == but_times(alone)
    assert but_times(reexecute(**rolled_back, from_base=True, workers=2)) == but_times(alone)


def test_a_worker_with_another_key(rolled_back: dict[str, Any]) -> None:
    """A worker whose record key is another one would hash every record otherwise: it says so, and accuses nobody."""
    with pytest.raises(InputError, match="another record key"):
        execute_group(asked(rolled_back), Group(".", ((4, 5),)), RecordKey(b"x" * 32).check)


def test_a_worker_with_other_software(rolled_back: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that rounds otherwise would accuse an honest deletion: it executes nothing and names the difference."""
    monkeypatch.setattr("verify.reexecution.environment.environment", lambda: {"torch": "1.0"})
    segments, findings = execute_group(asked(rolled_back), Group(".", ((4, 5),)), RecordKey.load().check)
    assert not segments
    assert [finding.kind for finding in findings] == ["software"]
    assert "here 1.0" in findings[0].what


def test_the_device_is_read_once(rolled_back: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of segments loads the base, and none of them reads the log for its device again."""
    request, reads, read = asked(rolled_back), list[Any](), TrainingLog.read
    monkeypatch.setattr(TrainingLog, "read", lambda path: reads.append(path) or read(path))
    for _ in range(3):
        request.load_base()
    assert reads == [rolled_back["model"] / LOG_NAME]


def test_workers_read_files_only(rolled_back: dict[str, Any]) -> None:
    """Records in memory are sent to no other process; no number of workers below 1."""
    with pytest.raises(InputError, match="data is in memory"):
        reexecute(**{**rolled_back, "data": [{"prompt": "a", "completion": "b"}]}, workers=2)
    with pytest.raises(InputError, match="from 1 on"):
        reexecute(**rolled_back, workers=0)
