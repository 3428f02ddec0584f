"""Sophia takes the step of its formula, goes with any objective, and is resumed like AdamW."""

from pathlib import Path

import pytest
import torch

from unlearn import TrainingOptions, forget
from unlearn.methods import method_classes
from unlearn.training.method import Objective
from verify.training.optimizers import Sophia

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(8)]


def test_the_step_is_its_formula() -> None:
    """Two steps by hand, with decay; a direction of little curvature is clipped at the learning rate."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = Sophia([weight], lr=0.1, betas=(0.9, 0.8), rho=0.5, weight_decay=0.01)
    expected, mean, hessian = weight.detach().clone(), torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for gradient in (torch.tensor([3.0, 1e-6, -0.5]), torch.tensor([2.0, 1e-6, 4.0])):
        weight.grad = gradient.double()
        optimizer.step()
        mean, hessian = 0.9 * mean + 0.1 * weight.grad, 0.8 * hessian + 0.2 * weight.grad**2
        expected = expected * (1 - 0.1 * 0.01) - 0.1 * (mean / (0.5 * hessian).clamp_min(1e-12)).clamp(-1, 1)
    torch.testing.assert_close(weight.detach(), expected)


def test_a_bowl_is_descended() -> None:
    """On a quadratic with curvatures a hundred apart it reaches the bottom of both."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer, curvature = Sophia([weight], lr=0.02), torch.tensor([1.0, 100.0])
    for _ in range(300):
        optimizer.zero_grad()
        (0.5 * curvature * weight**2).sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in method_classes().items() if isinstance(kind(), Objective)])
def test_it_goes_with_any_objective(model_dir: Path, tmp_path: Path, name: str) -> None:
    """The weights move, by at most the learning rate in every step."""
    from verify.models.loading import load_model

    rate = 1e-3
    result = forget(
        model_dir,
        method_classes()[name](),
        forget_set=ROWS[:4],
        retain_set=ROWS[4:],
        output_dir=tmp_path / "out",
        options=TrainingOptions(learning_rate=rate, epochs=1, batch_size=2, optimizer="sophia", scheduler="constant"),
    )
    old, new = (load_model(folder).model.state_dict() for folder in (model_dir, tmp_path / "out"))
    largest = max(float((old[key] - new[key]).abs().max()) for key in old)
    assert result.training is not None
    assert 0 < largest <= rate * result.training.steps * 1.001
