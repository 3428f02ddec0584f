"""Killed at any moment, a run goes on to the same result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unlearn.training.log import TrainingLog
from verify.io.files import is_complete

SCRIPT = """
import sys, json
from pathlib import Path
from transformers import TrainerCallback
import torch
torch.set_num_threads(1)
from unlearn import NPO, TrainingOptions, finetune, forget
model, output, verb, kill_at = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rows = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == kill_at:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)

callbacks = [Kill()] if kill_at else []
options = TrainingOptions(learning_rate=1e-3, epochs=4, batch_size=2, gradient_accumulation=2, save_steps=3, seed=5)
if verb == "train":
    result = finetune(model, rows, output_dir=output, options=options, callbacks=callbacks).digest
else:
    sets = {"forget_set": rows[:6], "retain_set": rows[6:]}
    result = forget(model, NPO(), **sets, output_dir=output, options=options, callbacks=callbacks).digest_after
print(result)
"""


def run(model: Path, output: Path, verb: str, kill_at: int = 0) -> str | None:
    """The digest that a process arrives at, or None where it was killed."""
    arguments = [sys.executable, "-c", SCRIPT, str(model), str(output), verb, str(kill_at)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["none", "last checkpoint truncated", "last checkpoint without manifest"])
@pytest.mark.parametrize("verb", ["train", "forget"])
def test_killed_and_resumed(dropout_dir: Path, tmp_path: Path, verb: str, damage: str) -> None:
    """After SIGKILL the same command goes on from the last checkpoint that is whole, and ends with the same weights and log."""
    whole = run(dropout_dir, tmp_path / "whole", verb)
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
    assert run(dropout_dir, output, verb) == whole
    assert is_complete(output)
    if verb == "train":
        logs = [TrainingLog.read(folder / "training_log.jsonl") for folder in (tmp_path / "whole", output)]
        assert logs[0].microbatches == logs[1].microbatches
        assert logs[0].final_weights == logs[1].final_weights == whole


@pytest.mark.slow
def test_killed_at_random_moments(dropout_dir: Path, tmp_path: Path) -> None:
    """Not between steps but anywhere, three times over: the result is the same."""
    whole = run(dropout_dir, tmp_path / "whole", "train")
    output = tmp_path / "killed"
    for delay in (6.0, 5.3, 7.1):
        arguments = [sys.executable, "-c", SCRIPT, str(dropout_dir), str(output), "train", "0"]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        if is_complete(output):
            break
    resumed = (
        TrainingLog.read(output / "training_log.jsonl").final_weights if is_complete(output) else run(dropout_dir, output, "train")
    )
    assert resumed == whole
