"""LoRA layers as one function in bfloat16: small adapters are not rounded away, and values are as exact as PEFT's."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama
from torch import nn

from verify.training.fused_adapters import fused_adapters

WIDTH, OUT, ROWS = 48, 80, 300


class Layer(nn.Module):
    """A model of one linear layer."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, OUT, bias=bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(values)
        return output


def adapted(size: float, bias: bool = False, **options: Any) -> Any:
    """Build such a model with an adapter whose B has entries of a size, all in bfloat16."""
    torch.manual_seed(0)
    model = get_peft_model(Layer(bias), LoraConfig(r=4, lora_alpha=8, target_modules=["linear"], **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=size)
    return model.bfloat16()


def given_values() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()


@torch.no_grad()
def test_an_adapter_below_half_a_unit_is_seen() -> None:
    """Outputs move with a tiny adapter by what it adds, in the mean; in PEFT's order of sums most of it is rounded away."""
    small, given = adapted(2e-4), given_values()
    exact, wide = copy.deepcopy(small).double(), given.double()
    with exact.disable_adapter():
        without = exact(wide)
    part = exact(wide) - without
    assert float(part.abs().median()) < 2**-10 * float(without.abs().median())

    def share() -> float:
        """The share of the adapter's part that arrives in the output."""
        moved = small(given).double() - without
        return float((moved * part).sum() / part.square().sum())

    assert share() < 0.5
    with fused_adapters(small.modules()):
        assert share() == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [0.5, 0.01])
def test_values_and_gradients(bias: bool, size: float) -> None:
    """Output and gradients of input, A and B are as near to float64 as PEFT's."""
    model, given = adapted(size, bias), given_values()
    toward = torch.randn(ROWS, OUT, generator=torch.Generator().manual_seed(2)).bfloat16()

    def run(model: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        values = given.to(dtype).requires_grad_()
        output = model(values)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return [output.detach(), *torch.autograd.grad(output, [values, *trained], toward.to(dtype))]

    exact, stock = run(copy.deepcopy(model).double(), torch.float64), run(model, torch.bfloat16)
    with fused_adapters(model.modules()):
        ours = run(model, torch.bfloat16)
    assert len(ours) == 4
    for mine, theirs, true in zip(ours, stock, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert mine.shape == true.shape
        assert float((mine - true).norm()) < max(1.25 * float((theirs - true).norm()), 0.003 * float(true.norm()))


def others() -> Iterator[Any]:
    """Layers that are not computed in this way, by what is different about them."""
    yield "float32", adapted(0.5).float()
    yield "DoRA", adapted(0.5, use_dora=True)
    yield "dropout", adapted(0.5, lora_dropout=0.5)
    yield "bias of B", adapted(0.5, lora_bias=True, bias=True)
    two = adapted(0.5)
    two.add_adapter("second", LoraConfig(r=2, target_modules=["linear"]))
    two.base_model.set_adapter(["default", "second"])
    yield "two adapters", two
    merged = adapted(0.5)
    merged.merge_adapter()
    yield "merged", merged
    trained = adapted(0.5)
    trained.base_model.model.linear.base_layer.weight.requires_grad_(True)
    yield "trained base", trained


@pytest.mark.parametrize(("name", "model"), list(others()), ids=lambda value: value if isinstance(value, str) else "")
def test_other_layers_are_left_to_peft(name: str, model: Any) -> None:
    """Whatever is not plain LoRA with frozen weights in half precision gives PEFT's bits."""
    values = given_values().to(next(model.parameters()).dtype)
    model.eval()
    found = []
    for context in (nullcontext(), fused_adapters(model.modules())):
        with context:
            assert not any("forward" in vars(module) for module in model.modules())
            found.append(model(values))
    assert torch.equal(*found)


def test_a_disabled_adapter_adds_nothing_and_the_model_is_left_as_it_was() -> None:
    """Switched off within the block, it gives the frozen layer's bits; after the block PEFT computes again."""
    model, values = adapted(0.5), given_values()
    stock = model(values)
    with model.disable_adapter():
        frozen = model(values)
    with fused_adapters(model.modules()), model.disable_adapter():
        assert torch.equal(model(values), frozen)
    with pytest.raises(KeyError), fused_adapters(model.modules()):
        raise KeyError
    assert torch.equal(model(values), stock)


def test_a_language_model(tokenizer: Any) -> None:
    """All linear layers of an adapted model are computed in this way, and their module calls keep their hooks."""
    plain = make_llama(tokenizer).bfloat16()
    model = get_peft_model(plain, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).bfloat16()
    calls: list[int] = []
    model.base_model.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.arange(3, 13)[None]
    with fused_adapters(model.modules()):
        changed = [name for name, module in model.named_modules() if "forward" in vars(module)]
        ours = model(input_ids=ids).logits
    assert len(changed) == 7 * len(plain.model.layers)
    assert len(calls) == 1
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=0.05, atol=0.02)
