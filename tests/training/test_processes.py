"""Two processes do what one does: the same records meet the same partners, and the weights agree."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from new_processes import in_processes
from torch.utils.data import BatchSampler

from unlearn.cli.main import main
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.models.loading import load_model
from verify.training.schedule import FILLER, Lengths, PairSampler, epoch_pairs

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(22)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_partners_do_not_know_the_number_of_processes(processes: int) -> None:
    """All processes together see every pair of the epoch once; no two of them draw the same retain partner."""
    lengths = Lengths([3, 9, 4, 7, 1, 8, 2, 6, 5, 9], list(range(1, 26)), 12)
    sampler = PairSampler(10, 25, 3, lengths, multiple=2 * processes)
    batches = BatchSampler(sampler, 2, drop_last=False)
    seen = [
        pair
        for number in range(processes)
        for batch in BatchSamplerShard(batches, processes, number)
        for pair in batch
        if pair != FILLER
    ]
    assert sorted(seen) == sorted(epoch_pairs(10, 25, 3, 0, lengths))
    partners = [partner for _, partner in seen]
    assert len(set(partners)) == len(partners)


def launch(processes: int, *arguments: str) -> None:
    """Run the command line, in one process or in several."""
    assert in_processes(processes, main, list(arguments)) == [0] * processes


LATE = """
import sys, time
from pathlib import Path
from unlearn.training import distributed

mark, here = Path(sys.argv[1]), Path(sys.argv[1] + "-other")
if distributed.is_main():
    while not here.exists():  # the other one has started, however long that took
        time.sleep(0.01)
    time.sleep(0.5)
    mark.touch()
else:
    here.touch()
distributed.wait()
assert mark.exists(), "went on before the main process was here"
assert distributed.agreed(distributed.rank()) == 0
distributed.disconnect()
"""


@pytest.mark.slow
def test_processes_wait_for_the_main_one(tmp_path: Path) -> None:
    """Also on CPUs, and before a trainer has linked them: what the main process writes first is there for the others."""
    script = tmp_path / "late.py"
    script.write_text(LATE)
    # What `accelerate launch` starts on GPUs; on CPUs it leaves the starting to MPI.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(script), str(tmp_path / "mark")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def apart(one: Path, other: Path) -> float:
    first, second = (load_model(folder).model.state_dict() for folder in (one, other))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def choices(folder: Path) -> list[dict[str, float]]:
    selection = json.loads((folder / "manifest.json").read_text())["about"]["facts"]["selection"]
    return [{"chosen": selection["selected_step"]}, *selection["looks"]]


def training(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["about"]
    return dict(about["training"])


def losses(folder: Path) -> list[float]:
    return [loss for _, loss in training(folder)["losses"]]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(model_dir: Path, tmp_path: Path) -> None:
    """Fine-tuning and forgetting: losses to 1e-4, weights to 2e-5, the same step chosen; the log lists what both trained."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:7]))
    (tmp_path / "retain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[7:]))
    rates = ("--learning-rate", "1e-3", "--epochs", "2", "--logging-steps", "1", "--warmup-ratio", "0.25")
    for processes, size in ((1, "4"), (2, "2")):
        trained, forgotten = tmp_path / f"train{processes}", tmp_path / f"forget{processes}"
        data = ("--data", str(tmp_path / "train.jsonl"))
        launch(processes, "train", "--model", str(model_dir), *data, "--output", str(trained), "--batch-size", size, *rates)
        sets = ("--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl"))
        launch(
            processes,
            "forget",
            "npo",
            "--model",
            str(tmp_path / "train1"),
            *sets,
            "--output",
            str(forgotten),
            "--batch-size",
            size,
            *rates,
        )
    for verb in ("train", "forget"):
        one, two = tmp_path / f"{verb}1", tmp_path / f"{verb}2"
        assert losses(two) == pytest.approx(losses(one), abs=1e-4)
        # A pass that does not divide among the processes is filled up.
        assert training(one)["tokens"] <= training(two)["tokens"] <= 1.1 * training(one)["tokens"]
        assert apart(one, two) < 2e-5
    for alone, together in zip(choices(tmp_path / "forget1"), choices(tmp_path / "forget2"), strict=True):
        assert together == pytest.approx(alone, abs=1e-4)
    single, double = (TrainingLog.read(tmp_path / f"train{processes}" / LOG_NAME) for processes in (1, 2))

    def by_step(log: TrainingLog) -> dict[int, list[int]]:
        steps: dict[int, list[int]] = {}
        for entry in log.microbatches:
            steps.setdefault(entry.step, []).extend(entry.records)
        return steps

    assert by_step(single) == by_step(double)
    assert {entry.step: entry.learning_rate for entry in single.microbatches} == {
        entry.step: entry.learning_rate for entry in double.microbatches
    }


@pytest.mark.slow
def test_a_process_without_a_record_measures_nothing(model_dir: Path, tmp_path: Path) -> None:
    """Five records in steps of four leave one process empty-handed; an objective with a multiplier does not hear from it."""
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:5]))
    (tmp_path / "retain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[7:]))
    sets = ("--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl"), "--no-select")
    rates = ("--learning-rate", "3e-3", "--epochs", "4", "--dual-step", "50", "--slack", "0")
    for processes, size in ((1, "4"), (2, "2")):
        output = ("--output", str(tmp_path / f"out{processes}"), "--batch-size", size)
        launch(processes, "forget", "pdu", "--model", str(model_dir), *sets, *output, *rates)
    assert apart(tmp_path / "out1", tmp_path / "out2") < 2e-5


def test_filler_weighs_nothing() -> None:
    """An epoch is filled up to a multiple, and only with filler."""
    sampler = PairSampler(5, 0, seed=0, multiple=4)
    assert len(sampler) == 8
    assert list(sampler)[5:] == [FILLER] * 3
    assert torch.tensor([index for index, _ in list(sampler)[:5]]).sort().values.tolist() == [0, 1, 2, 3, 4]
