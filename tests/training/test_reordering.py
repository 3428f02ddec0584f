"""Products in another order of summation: the same mathematics, another rounding."""

import pytest
import torch
from torch import Tensor, nn

from verify.training.reordering import Reordered


def passes(layer: nn.Module, rows: Tensor) -> list[Tensor]:
    """Output and gradients of one pass."""
    given = rows.clone().requires_grad_()
    output = layer(given)
    output.square().sum().backward()
    found = [output.detach(), given.grad, *(weight.grad for weight in layer.parameters())]
    layer.zero_grad()
    return [one for one in found if one is not None]


def layers(integers: bool) -> tuple[list[nn.Module], Tensor]:
    """A linear layer and the GPT-2 family's, with inputs of shape [2, 5, 48]."""
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    made, rows = [nn.Linear(48, 24), nn.Linear(48, 24, bias=False), Conv1D(24, 48)], torch.randn(2, 5, 48)
    if integers:
        with torch.no_grad():
            for weight in (weight for layer in made for weight in layer.parameters()):
                weight.copy_(torch.randint(-4, 5, weight.shape))
        rows = rows.round()
    return made, rows


def test_sums_of_integers_do_not_change() -> None:
    """Sums of small integers are exact in every order: outputs and gradients are equal to the last bit, each in its place."""
    made, rows = layers(integers=True)
    for layer in made:
        expected = passes(layer, rows)
        with Reordered(3):
            found = passes(layer, rows)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


def test_sums_of_real_numbers_are_rounded_otherwise() -> None:
    """Every product has other bits, near the same values; the same seed repeats them, another gives others."""
    made, rows = layers(integers=False)
    for layer in made:
        expected = passes(layer, rows)
        found = []
        for seed in (3, 3, 4):
            with Reordered(seed):
                found.append(passes(layer, rows))
        for one, same, again in zip(expected, *found[:2], strict=True):
            torch.testing.assert_close(one, same)
            assert torch.equal(same, again)
        assert any(not torch.equal(one, same) for one, same in zip(expected, found[0], strict=True))
        assert any(not torch.equal(one, other) for one, other in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_weights_and_autocast(dtype: torch.dtype) -> None:
    """A frozen weight gets no gradient, and under autocast products are bfloat16 as without reordering."""
    layer, rows = nn.Linear(48, 24), torch.randn(5, 48, requires_grad=True)
    layer.weight.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16), Reordered(1):
        output = layer(rows)
    assert output.dtype == dtype
    output.float().sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(rows.grad, layer.weight.sum(0).expand(5, -1), rtol=0.02, atol=0.02)
