"""LoRA adapters: which models may have one, gradient flags around it, and merging it for deployment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verify.errors import InputError
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel
from verify.models.quantized import is_quantized
from verify.training.precision import float32_copies


def gradient_flags(model: nn.Module) -> dict[str, bool]:
    """Return `requires_grad` of every parameter, by name."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def put_gradient_flags(model: nn.Module, flags: Mapping[str, bool]) -> None:
    """Restore what `gradient_flags` returned, so that the caller's model is left as it was."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))


def require_adapter(model: Any, quantize: str) -> None:
    """Raise InputError if a model has no adapter, so that nothing could be trained on its quantized base."""
    if is_adapter(model) or (isinstance(model, (str, Path)) and (Path(model) / "adapter_config.json").is_file()):
        return
    raise InputError(f"--quantize {quantize} trains an adapter only. Add --lora, or leave out --quantize.")


def require_whole(loaded: LoadedModel, method: str) -> None:
    """Raise InputError if a model is an adapter: the difference of two products B A is in general of higher rank."""
    if is_adapter(loaded.model):
        raise InputError(
            f"{method} works on whole weights, and {loaded.name} is an adapter. Merge it into its base first (merge_and_unload of "
            "PEFT) and give that model, or use a method that changes the adapter itself: an objective such as npo, or ssd."
        )


def merged(model: Any, seed: int = 0) -> Any:
    """Merge the model's adapter into its weights, W + (alpha / r) B A, and return the model without the adapter.

    A half-precision base is summed in float32 and rounded once, with the seed, as after training (`verify.training.precision`). A
    quantized base is dequantized first: merged into 4 or 8 bits, most of the change would be rounded away.
    """
    if not is_adapter(model):
        return model
    from peft.tuners.lora import LoraLayer

    if is_quantized(model):
        return _dequantized_and_folded(model, seed)
    base = model.get_base_model()
    changed = [module.get_base_layer().weight for module in base.modules() if isinstance(module, LoraLayer)]
    with float32_copies(base, changed, seed):
        return model.merge_and_unload()


def in_form_of(original: Any, trained: Any, seed: int) -> Any:
    """Return a trained model in the form of the original: an adapter where that is one, else whole weights.

    An adapter on an original with whole weights could be switched off, and the old model would still be there.
    """
    return trained if is_adapter(original) else merged(trained, seed)


@torch.no_grad()
def _dequantized_and_folded(model: Any, seed: int) -> Any:
    """Return dequantized weights that compute what quantized base and adapter did, up to the rounding of their products."""
    from peft.tuners.lora import LoraLayer

    names = model.active_adapters
    # Collected first: `unload` discards the adapter's factors.
    changes = {
        path: sum(module.get_delta_weight(name) for name in names)
        for path, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
    whole = model.unload().dequantize()
    weights = {path: whole.get_submodule(path).weight for path in changes}
    with float32_copies(whole, weights.values(), seed):
        for path, change in changes.items():
            weights[path].add_(change.to(weights[path]))
    return whole
