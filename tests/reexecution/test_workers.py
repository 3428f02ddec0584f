"""Re-execution side by side: the proof of a single process, on a cluster and in local processes, also where a worker is killed."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.rollback import Rollback
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.provenance.commitment import TrainingCommitment
from verify.reexecution.execution import Group
from verify.reexecution.plans import Trust
from verify.reexecution.reexecute import reexecute
from verify.reexecution.request import Request
from verify.reexecution.workers import execute_group
from verify.schema.reexecution import Reexecution

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=1, lora=True, lora_dropout=0.1, seed=3)


@pytest.fixture(scope="module")
def given(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A committed model and its deletion by rollback, as files."""
    top = tmp_path_factory.mktemp("world")
    (top / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (top / "forget.jsonl").write_text(json.dumps(ROWS[4]) + "\n")
    before = finetune(model_dir, top / "data.jsonl", output_dir=top / "before", options=OPTIONS).model_dir
    TrainingCommitment.of(before).save(top / "commitment.json")
    files = {"data": top / "data.jsonl", "forget_set": top / "forget.jsonl"}
    forget(before, Rollback(), **files, base=model_dir, output_dir=top / "after")
    return {"model": top / "after", "base": model_dir, **files, "log": before, "commitment": top / "commitment.json"}


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


@pytest.mark.slow
def test_workers_give_the_same_proof(given: dict[str, Path], dask_engine: str) -> None:
    """Byte for byte but for the times: one process, two local ones, and a cluster of which a worker is killed in the middle."""
    alone = reexecute(**given, from_base=True)
    assert alone.phrase == "REBUILT_WITHOUT(all of 6)", alone.findings
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(dask_engine, killed), daemon=True)
    killer.start()
    apart = reexecute(**given, from_base=True, engine=dask_engine)
    killer.join(30)
    assert killed, "no worker was killed"
    assert but_times(apart) == but_times(alone)
    assert but_times(reexecute(**given, from_base=True, workers=2)) == but_times(alone)


def test_a_worker_with_another_key(given: dict[str, Path]) -> None:
    """A worker whose record key is another one would hash every record otherwise: it says so, and accuses nobody."""
    request = Request(**given, trust=Trust(), fields=None, tokenizer=None, dtype="auto")
    with pytest.raises(InputError, match="another record key"):
        execute_group(request, Group(".", ((4, 5),)), RecordKey(b"x" * 32).check)


def test_workers_read_files_only(given: dict[str, Path]) -> None:
    """Records in memory are sent to no other process; no number of workers below 1."""
    with pytest.raises(InputError, match="data is in memory"):
        reexecute(**{**given, "data": ROWS}, workers=2)
    with pytest.raises(InputError, match="from 1 on"):
        reexecute(**given, workers=0)
