"""Task-vector negation: the search keeps its promise to the control metric, and leaves what it chose."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.task_vector import TaskVector
from verify import InputError
from verify.models.loading import load_model

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Person {n * 13}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=2e-3, epochs=3, batch_size=4)


@pytest.fixture(scope="module")
def model(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tv") / "ft"
    return finetune(model_dir, ROWS, output_dir=output, options=TrainingOptions(learning_rate=5e-3, epochs=8)).model_dir


def test_the_chosen_scale_is_the_best_allowed(model: Path, tmp_path: Path) -> None:
    """Of the scales whose control loss is within tolerance, the one that forgets most is taken; the whole curve is reported."""
    result = forget(
        model, TaskVector(tolerance=0.2), forget_set=ROWS[:4], retain_set=ROWS[4:], output_dir=tmp_path / "out", options=OPTIONS
    )
    facts = result.facts
    allowed = [entry for entry in facts["search"] if entry["control_loss"] <= facts["control_loss_allowed"]]
    best = max(allowed, key=lambda entry: entry["forget_loss"], default={"scale": 0.0, "forget_loss": -np.inf})
    assert facts["scale"] == (best["scale"] if best["forget_loss"] > facts["forget_loss_before"] else 0.0)
    assert facts["control_loss_allowed"] == pytest.approx(facts["control_loss_before"] - np.log(0.8))


def test_weights_are_the_old_ones_less_the_scaled_vector(model: Path, tmp_path: Path) -> None:
    """theta = theta_0 - scale * tau, with tau from a separate run of the same training."""
    scale = 0.3
    forget(
        model,
        TaskVector(tolerance=0.99, scales=(scale,)),
        forget_set=ROWS[:4],
        retain_set=ROWS[4:],
        output_dir=tmp_path / "out",
        options=OPTIONS,
    )
    tuned = finetune(model, ROWS[:4], output_dir=tmp_path / "tuned", options=OPTIONS).model_dir
    old, new, learned = (dict(load_model(path).model.named_parameters()) for path in (model, tmp_path / "out", tuned))
    for name, weight in old.items():
        expected = weight - scale * (learned[name] - weight)
        assert torch.allclose(new[name], expected, atol=1e-6), name


def test_no_allowed_scale_leaves_the_model(model: Path, tmp_path: Path) -> None:
    """Where every scale breaks the control metric, nothing is subtracted and the result says scale 0."""
    result = forget(
        model,
        TaskVector(tolerance=1e-9, scales=(50.0,)),
        forget_set=ROWS[:4],
        retain_set=ROWS[4:],
        output_dir=tmp_path / "out",
        options=OPTIONS,
    )
    assert result.facts["scale"] == 0.0
    assert result.digest_after == result.digest_before


@pytest.mark.slow
def test_a_holdout_keeps_it_from_over_forgetting(model: Path, tmp_path: Path) -> None:
    """Forgetting beyond the never-trained level does not count, so that a smaller scale is enough."""
    holdout = [{"example_id": f"h{n}", "prompt": f"Who is {n + 50}?", "completion": f"Person {n * 17 + 5}."} for n in range(4)]
    scales = {}
    for name, given in (("with", holdout), ("without", None)):
        result = forget(
            model,
            TaskVector(tolerance=0.9),
            forget_set=ROWS[:4],
            retain_set=ROWS[4:],
            holdout_set=given,
            output_dir=tmp_path / name,
            options=OPTIONS,
        )
        scales[name] = result.facts["scale"]
    assert scales["with"] <= scales["without"]


def test_bad_parameters(model: Path, tmp_path: Path) -> None:
    """Scales that are not increasing, a tolerance of one, an origin that needs the base: refused."""
    for bad in ({"scales": (0.5, 0.1)}, {"scales": ()}, {"tolerance": 1.0}):
        with pytest.raises(InputError, match="must"):
            TaskVector(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--base DIR"):
        forget(
            model, TaskVector(origin="base"), forget_set=ROWS[:4], retain_set=ROWS[4:], output_dir=tmp_path / "out", options=OPTIONS
        )
