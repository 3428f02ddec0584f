"""Sum of shards: one model whose weights are the base's plus the weight changes of several adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verify.models.checked_loading import load_adapter
from verify.training.precision import float32_copies


@torch.no_grad()
def delta_weights(model: Any, adapter: str = "default") -> dict[str, Tensor]:
    """Compute every adapted layer's weight change, (alpha / r) B A, by the name of the weight below the adapter."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight(adapter).clone()
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


@torch.no_grad()
def add_adapters(model: Any, folders: Sequence[Path], seed: int) -> Any:
    """Add the weight changes of adapters to a model, in order; one in half precision is summed in float32 and rounded once.

    Args:
        model: the base, changed in place.
        folders: folders of the adapters.
        seed: seed of the rounding.

    Returns:
        the model.
    """
    changes = []
    for folder in folders:
        adapted = load_adapter(model, folder)
        changes.append(delta_weights(adapted))
        model = adapted.unload()
    changed = [model.get_parameter(name) for name in sorted({name for change in changes for name in change})]
    with float32_copies(model, changed, seed):
        for change in changes:
            for name, delta in change.items():
                model.get_parameter(name).add_(delta)
    return model
