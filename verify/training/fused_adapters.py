"""LoRA layers as one function with one rounding, for steps in bfloat16 on a processor.

    y = x W^T + s (x A^T) B^T,    with W frozen

PEFT rounds x W^T to bfloat16, adds the adapter's part and rounds the sum to nearest. The first summand then lies on bfloat16's
grid, so that an adapter's part below half a unit in the last place (1/512 to 1/256 of the value) is always lost: as a run begins,
the model does not see its steps. Here the adapter's part comes first, and the product with W, summed in float32 inside, is
added to it before the only rounding; what is rounded does not lie on the grid, and the errors have mean zero.

The gradients are computed in the same order, with as many matrix products as autograd's; a step takes as long as with PEFT.

    dB = s dy^T (x A^T),    dA = s (dy B)^T x,    dx = s (dy B) A + dy W

Shapes: N positions, D width of the input, K of the output, r rank.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from verify.training.rounding import HALF


@contextmanager
def fused_adapters(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Compute, within a `with` block, each plain LoRA layer whose weights are all in half precision as one function.

    Args:
        modules: modules of a model; other layers among them stay as they are.
    """
    changed = [module for module in modules if "lora_A" in module._modules and _is_plain(module)]
    try:
        for module in changed:
            module.forward = partial(_forward, module)
        yield
    finally:
        for module in changed:
            del module.forward


def _is_plain(module: Any) -> bool:
    """Return whether a layer of PEFT's is a linear one with a single adapter of plain LoRA in use, without dropout."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear or module.merged or module.disable_adapters:
        return False
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) != 1 or module.lora_variant or module.fan_in_fan_out:
        return False
    base, down, up = _parts(module)
    biases: list[Tensor | None] = [down.bias, up.bias]
    if not isinstance(module.lora_dropout[names[0]], nn.Identity) or any(bias is not None for bias in biases):
        return False
    weights = [base.weight, down.weight, up.weight]
    alike = {(weight.dtype, weight.device.type) for weight in weights}
    return alike in [{(dtype, "cpu")} for dtype in HALF] and not base.weight.requires_grad


def _parts(module: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Return a layer's frozen part and the two of its adapter, A and B."""
    (name,) = (name for name in module.active_adapters if name in module.lora_A)
    return module.base_layer, module.lora_A[name], module.lora_B[name]


def _forward(module: Any, given: Tensor, *rest: Any, **named: Any) -> Tensor:
    """Compute the layer's output [..., K] from its input [..., D]."""
    base, down, up = _parts(module)
    if rest or named or module.disable_adapters or given.dtype != base.weight.dtype:
        stock: Tensor = type(module).forward(module, given, *rest, **named)
        return stock
    (scale,) = (module.scaling[name] for name in module.active_adapters if name in module.lora_A)
    found: Tensor = _LowRank.apply(given, base.weight, down.weight, up.weight, scale)  # type: ignore[no-untyped-call]
    return found if base.bias is None else found + base.bias


class _LowRank(torch.autograd.Function):
    """The layer of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """Compute the output [..., K] from input [..., D], weight [K, D], A [r, D] and B [K, r]."""
        flat = given.reshape(-1, given.shape[-1])  # [N, D]
        inner = (flat @ down.mT).mul_(scale)  # s x A^T [N, r]
        ctx.save_for_backward(flat, inner, weight, down, up)
        ctx.scale = scale
        return (inner @ up.mT).addmm_(flat, weight.mT).reshape(*given.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        """Compute the gradients of input, A and B by the formulas of the module's docstring."""
        flat, inner, weight, down, up = ctx.saved_tensors
        slope = gradient.reshape(-1, gradient.shape[-1])  # dy [N, K]
        through = (slope @ up).mul_(ctx.scale)  # s dy B [N, r]
        given = (through @ down).addmm_(slope, weight).reshape(*gradient.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return given, None, through.mT @ flat, slope.mT @ inner, None
