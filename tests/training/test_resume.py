"""Killed at any moment, a run goes on to the same result."""

import random
import time
from pathlib import Path

import pytest
from killed_runs import BEFORE_THE_MANIFEST, Ended, trained
from new_processes import NewProcess, in_new_process

from unlearn.training.log import LOG_NAME, TrainingLog
from verify.errors import InputError
from verify.io.files import is_complete, only_writer

EPOCHS = 4


@pytest.fixture(scope="module")
def undisturbed(dropout_dir: Path, tmp_path_factory: pytest.TempPathFactory, verb: str) -> tuple[Ended, Path]:
    """What a run arrives at in this process, and its folder; nothing that lives in a process alone may make a difference."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    return trained(dropout_dir, folder, verb, EPOCHS), folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["none", "last checkpoint truncated", "last checkpoint without manifest"])
@pytest.mark.parametrize("verb", ["train", "forget"], scope="module")
def test_killed_and_resumed(dropout_dir: Path, undisturbed: tuple[Ended, Path], tmp_path: Path, verb: str, damage: str) -> None:
    """After SIGKILL the same command takes the steps after the last whole checkpoint, and ends with the same weights and log."""
    whole, folder = undisturbed
    output = tmp_path / "killed"
    assert in_new_process(trained, dropout_dir, output, verb, EPOCHS, 7) is None
    assert not is_complete(output), "a killed run leaves nothing that is trusted"
    checkpoints = sorted((output / "work").glob("checkpoint-*"))
    assert [folder.name for folder in checkpoints] == ["checkpoint-3", "checkpoint-6"]
    if damage == "last checkpoint truncated":
        weights = next(checkpoints[-1].glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "last checkpoint without manifest":
        (checkpoints[-1] / "manifest.json").unlink()
    resumed = in_new_process(trained, dropout_dir, output, verb, EPOCHS)
    assert resumed is not None
    assert resumed.steps == whole.steps[6 if damage == "none" else 3 :]
    assert resumed.digest == whole.digest
    assert is_complete(output)
    if verb == "train":
        logs = [TrainingLog.read(made / LOG_NAME) for made in (folder, output)]
        assert logs[0].microbatches == logs[1].microbatches
        assert logs[0].final_weights == logs[1].final_weights == whole.digest


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "forget"], scope="module")
def test_killed_before_the_manifest(dropout_dir: Path, undisturbed: tuple[Ended, Path], tmp_path: Path, verb: str) -> None:
    """Killed when everything but the manifest is written, the same command makes the result, and leaves no working folder."""
    killed = tmp_path / "killed"
    assert in_new_process(trained, dropout_dir, killed, verb, EPOCHS, BEFORE_THE_MANIFEST) is None
    assert (killed / "model.safetensors").exists()
    assert not list(killed.rglob("reference.safetensors")), "what may hold removed records is gone by then"
    made = in_new_process(trained, dropout_dir, killed, verb, EPOCHS)
    whole, folder = undisturbed
    assert made is not None
    assert made.digest == whole.digest
    assert is_complete(killed)
    names = [sorted(path.relative_to(place) for path in place.rglob("*")) for place in (killed, folder)]
    assert names[0] == names[1]


def logged(output: Path) -> int:
    """Number of microbatches in the log of a run, finished or not."""
    path = output / LOG_NAME
    return path.read_bytes().count(b'{"microbatch"') if path.exists() else 0


def kill_within(process: NewProcess, output: Path, microbatches: int, delay: float) -> None:
    """Kill a process `delay` seconds after its log has reached a number of microbatches."""
    while logged(output) < microbatches and not process.has_ended():
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    assert process.result() is None, f"ended before microbatch {microbatches}"


@pytest.mark.slow
def test_killed_at_random_moments(dropout_dir: Path, tmp_path: Path) -> None:
    """Not between steps but anywhere in them, three times over: every kill falls into training, and the weights are the same.

    Each moment is drawn from an undisturbed run: a microbatch, and a part of the time that a step takes.
    """
    epochs, draw = 40, random.Random(0)
    whole = trained(dropout_dir, tmp_path / "whole", "train", epochs)
    microbatches = logged(tmp_path / "whole")
    assert microbatches == 6 * epochs
    output = tmp_path / "killed"
    for _ in range(3):
        drawn = logged(output) + draw.randrange(6, microbatches // 5)
        process = NewProcess(trained, dropout_dir, output, "train", epochs)
        kill_within(process, output, drawn, draw.uniform(0, whole.seconds / len(whole.steps)))
        log = TrainingLog.read(output / LOG_NAME)
        assert drawn <= len(log.microbatches) < microbatches, "the kill fell into training"
        assert log.final_weights is None
        assert not is_complete(output)
    resumed = in_new_process(trained, dropout_dir, output, "train", epochs)
    assert resumed is not None
    assert 0 < len(resumed.steps) < len(whole.steps), "it went on from a checkpoint"
    assert resumed.digest == whole.digest
    assert TrainingLog.read(output / LOG_NAME) == TrainingLog.read(tmp_path / "whole" / LOG_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "forget"])
def test_the_same_command_twice_at_once(dropout_dir: Path, tmp_path: Path, verb: str) -> None:
    """While a run is at work the same command is refused, since it would go on from its checkpoints and write into its log."""
    output, endless = tmp_path / "out", 1000
    process = NewProcess(trained, dropout_dir, output, verb, endless)
    while not list(output.glob("work/checkpoint-*")):
        assert not process.has_ended()
        time.sleep(0.05)
    with pytest.raises(InputError, match=f"another run works in {output}"):
        trained(dropout_dir, output, verb, endless)
    assert not process.has_ended()
    process.kill()
    assert process.result() is None
    with only_writer(output):  # a killed run holds nothing
        assert (output / "work").is_dir()
