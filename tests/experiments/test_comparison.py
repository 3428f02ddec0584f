"""An experiment that goes on takes over what was made of the same things, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_rows import make_rows

from unlearn import TrainingOptions
from unlearn.experiments.comparison import Experiment, _finetune, _forget
from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import MANIFEST

OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4)


@pytest.fixture
def experiment(model_dir: Path, tmp_path: Path) -> Experiment:
    """The original is trained."""
    sets = {"forget": make_rows("gone", 4), "retain": make_rows("kept", 6), "holdout": make_rows("never", 4)}
    (tmp_path / "data").mkdir()
    for name, listed in {**sets, "train": sets["forget"] + sets["retain"]}.items():
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    made = Experiment(tmp_path, model_dir, tmp_path / "data", OPTIONS, {})
    _finetune(model_dir, tmp_path / "data" / "train.jsonl", tmp_path / "models" / "original", Fields(), OPTIONS)
    return made


@pytest.mark.parametrize(
    ("method", "parameters", "options"),
    [("npo", {"beta": 0.2}, OPTIONS), ("task_vector", {"scales": (0.5, 1.0)}, OPTIONS), ("retrain", {}, TrainingOptions(seed=3))],
)
def test_the_same_again_is_taken_over(
    experiment: Experiment, method: str, parameters: dict[str, Any], options: TrainingOptions
) -> None:
    """What the method and the model's log fill in is the same again, and the result is not made a second time."""
    _forget(experiment, method, parameters, options)
    manifest = experiment.output / "models" / method / MANIFEST
    written = manifest.stat().st_mtime_ns
    _forget(experiment, method, parameters, options)
    assert manifest.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("parameters", "options", "said"),
    [
        ({"beta": 9.0}, OPTIONS, "other parameters"),
        ({"beta": 0.2}, replace(OPTIONS, learning_rate=1e-2), "other options"),
        ({"beta": 0.2}, replace(OPTIONS, learning_rate=None), "other options"),
    ],
)
def test_other_settings_are_refused(
    experiment: Experiment, parameters: dict[str, Any], options: TrainingOptions, said: str
) -> None:
    """Results of one setting are not passed off as those of another, and stay where they are."""
    _forget(experiment, "npo", {"beta": 0.2}, OPTIONS)
    with pytest.raises(InputError, match=said):
        _forget(experiment, "npo", parameters, options)
    about = json.loads((experiment.output / "models" / "npo" / MANIFEST).read_text())["about"]
    assert (about["parameters"]["beta"], about["options"]["learning_rate"]) == (0.2, 1e-3)


def test_other_records_are_refused(experiment: Experiment, model_dir: Path) -> None:
    """Also where every setting is the same."""
    _forget(experiment, "npo", {}, OPTIONS)
    for name in ("forget", "train"):
        path = experiment.data / f"{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match="other records"):
        _forget(experiment, "npo", {}, OPTIONS)
    with pytest.raises(InputError, match="other records"):
        _finetune(model_dir, experiment.data / "train.jsonl", experiment.output / "models" / "original", Fields(), OPTIONS)
