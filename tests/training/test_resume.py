"""Killed at any moment, a run goes on to the same result."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from unlearn.training.log import LOG_NAME, TrainingLog
from verify.io.files import is_complete

SCRIPT = """
import sys, json
from pathlib import Path
from transformers import TrainerCallback
import torch
torch.set_num_threads(1)
from unlearn import NPO, TrainingOptions, finetune, forget
model, output, verb, epochs, kill_at = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
rows = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]
steps = []

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        steps.append(state.global_step)
        if state.global_step == kill_at:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)

if kill_at < 0:  # when the result is whole but for its manifest
    import os, signal, unlearn.training.run
    def last(folder, kind, about, write=unlearn.training.run.write_manifest):
        os.kill(os.getpid(), signal.SIGKILL) if kind == "model" else write(folder, kind, about)
    unlearn.training.run.write_manifest = last
options = TrainingOptions(learning_rate=1e-3, epochs=epochs, batch_size=2, gradient_accumulation=2, save_steps=3, seed=5)
if verb == "train":
    done = finetune(model, rows, output_dir=output, options=options, callbacks=[Kill()])
    digest, training = done.digest, done.result
else:
    sets = {"forget_set": rows[:6], "retain_set": rows[6:]}
    done = forget(model, NPO(), **sets, output_dir=output, options=options, callbacks=[Kill()])
    digest, training = done.digest_after, done.training
print(json.dumps({"digest": digest, "steps": steps, "seconds": training.seconds}))
"""


@dataclass(frozen=True)
class Ended:
    """What a process arrived at.

    Attributes:
        digest: of the final weights.
        steps: numbers of the optimizer steps that this process took itself.
        seconds: duration of the training.
    """

    digest: str
    steps: list[int]
    seconds: float


def command(model: Path, output: Path, verb: str, epochs: int, kill_at: int = 0) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(model), str(output), verb, str(epochs), str(kill_at)]


def run(model: Path, output: Path, verb: str, epochs: int = 4, kill_at: int = 0) -> Ended | None:
    """What a process arrives at, or None where it was killed."""
    arguments = command(model, output, verb, epochs, kill_at)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return Ended(**json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["none", "last checkpoint truncated", "last checkpoint without manifest"])
@pytest.mark.parametrize("verb", ["train", "forget"])
def test_killed_and_resumed(dropout_dir: Path, tmp_path: Path, verb: str, damage: str) -> None:
    """After SIGKILL the same command takes the steps after the last whole checkpoint, and ends with the same weights and log."""
    whole = run(dropout_dir, tmp_path / "whole", verb)
    assert whole is not None
    output = tmp_path / "killed"
    assert run(dropout_dir, output, verb, kill_at=7) is None
    assert not is_complete(output), "a killed run leaves nothing that is trusted"
    checkpoints = sorted((output / "work").glob("checkpoint-*"))
    assert [folder.name for folder in checkpoints] == ["checkpoint-3", "checkpoint-6"]
    if damage == "last checkpoint truncated":
        weights = next(checkpoints[-1].glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "last checkpoint without manifest":
        (checkpoints[-1] / "manifest.json").unlink()
    resumed = run(dropout_dir, output, verb)
    assert resumed is not None
    assert resumed.steps == whole.steps[6 if damage == "none" else 3 :]
    assert resumed.digest == whole.digest
    assert is_complete(output)
    if verb == "train":
        logs = [TrainingLog.read(folder / LOG_NAME) for folder in (tmp_path / "whole", output)]
        assert logs[0].microbatches == logs[1].microbatches
        assert logs[0].final_weights == logs[1].final_weights == whole.digest


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "forget"])
def test_killed_before_the_manifest(dropout_dir: Path, tmp_path: Path, verb: str) -> None:
    """Killed when everything but the manifest is written, the same command makes the result, and leaves no working folder."""
    assert run(dropout_dir, tmp_path / "killed", verb, kill_at=-1) is None
    assert (tmp_path / "killed" / "model.safetensors").exists()
    assert not list((tmp_path / "killed").rglob("reference.safetensors")), "what may hold removed records is gone by then"
    made, whole = run(dropout_dir, tmp_path / "killed", verb), run(dropout_dir, tmp_path / "whole", verb)
    assert made is not None
    assert whole is not None
    assert made.digest == whole.digest
    assert is_complete(tmp_path / "killed")
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (tmp_path / "killed", tmp_path / "whole")]
    assert names[0] == names[1]


def logged(output: Path) -> int:
    """Number of microbatches in the log of a run, finished or not."""
    path = output / LOG_NAME
    return path.read_bytes().count(b'{"microbatch"') if path.exists() else 0


def kill_within(arguments: list[str], output: Path, microbatches: int, delay: float) -> None:
    """Kill a process `delay` seconds after its log has reached a number of microbatches."""
    errors = output.with_name("errors.txt")
    with errors.open("wb") as stream, subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stream) as process:
        while logged(output) < microbatches and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
    assert process.returncode == -signal.SIGKILL, f"ended before microbatch {microbatches}: {errors.read_text()}"


@pytest.mark.slow
def test_killed_at_random_moments(dropout_dir: Path, tmp_path: Path) -> None:
    """Not between steps but anywhere in them, three times over: every kill falls into training, and the weights are the same.

    Each moment is drawn from an undisturbed run: a microbatch, and a part of the time that a step takes.
    """
    epochs, draw = 40, random.Random(0)
    whole = run(dropout_dir, tmp_path / "whole", "train", epochs)
    assert whole is not None
    microbatches = logged(tmp_path / "whole")
    assert microbatches == 6 * epochs
    output = tmp_path / "killed"
    for _ in range(3):
        drawn = logged(output) + draw.randrange(6, microbatches // 5)
        kill_within(command(dropout_dir, output, "train", epochs), output, drawn, draw.uniform(0, whole.seconds / len(whole.steps)))
        log = TrainingLog.read(output / LOG_NAME)
        assert drawn <= len(log.microbatches) < microbatches, "the kill fell into training"
        assert log.final_weights is None
        assert not is_complete(output)
    resumed = run(dropout_dir, output, "train", epochs)
    assert resumed is not None
    assert 0 < len(resumed.steps) < len(whole.steps), "it went on from a checkpoint"
    assert resumed.digest == whole.digest
    assert TrainingLog.read(output / LOG_NAME) == TrainingLog.read(tmp_path / "whole" / LOG_NAME)
