"""LoRA adapters: attaching one for training, merging it for deployment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearn.training.options import TrainingOptions
from unlearn.training.precision import float32_copies
from verify.errors import InputError
from verify.models.adapter_types import is_adapter, require_supported
from verify.models.loading import LoadedModel
from verify.models.quantized import is_quantized

ALL_LINEAR = "all-linear"
STATE_SPACE_MODELS = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
BYPASSED = ("conv1d", "dt_proj", "out_proj")
"""Layers of a Mamba block whose weights its scan reads directly, so that an adapter around them is never called. PEFT refuses two
of them but accepts dt_proj, which would then learn nothing."""


def attach_adapter(model: Any, options: TrainingOptions) -> Any:
    """Wrap the model in a new adapter if the options request one, else return the model itself.

    A model that already has an adapter keeps it and trains it, even if PEFT loaded it frozen. A new adapter changes no output yet
    (its B is zero).

    Raises:
        InputError: a named target layer does not exist or cannot be merged, the model is quantized and no adapter is requested, or
            its adapter cannot be unfrozen.
    """
    require_attachable(model, options)
    if is_adapter(model):
        unfreeze_adapter(model)
        return model
    if not options.lora:
        return model
    from peft import LoraConfig, get_peft_model

    targets = _targets(model, options.lora_targets)
    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(
            f"--lora-targets {options.lora_targets} cannot be adapted in this model ({error}). "
            f"Name some of {', '.join(_linear_names(model))}, separated by commas."
        ) from None
    if options.gradient_checkpointing:
        wrapped.enable_input_require_grads()
    return wrapped


def require_attachable(model: Any, options: TrainingOptions) -> None:
    """Raise InputError if `attach_adapter` would refuse model and options, before anything is computed."""
    if is_adapter(model):
        require_supported(model, "the model")
        return
    if options.lora:
        _targets(model, options.lora_targets)
    elif is_quantized(model):
        raise InputError("quantized weights cannot be trained, only an adapter on them. Add --lora, or leave out --quantize.")


def _targets(model: Any, requested: str) -> str | list[str]:
    """Return the layers to adapt, as PEFT expects them.

    Raises:
        InputError: a name matches no layer (which PEFT would ignore), one of two layers that share their weights, or a layer whose
            weights are read without calling it.
    """
    names = [name.strip() for name in requested.split(",") if name.strip()]
    bypassed = BYPASSED if getattr(getattr(model, "config", None), "model_type", None) in STATE_SPACE_MODELS else ()
    if names == [ALL_LINEAR]:
        return _linear_names(model) if bypassed else ALL_LINEAR
    if wrong_layers := [name for name in names if name.rpartition(".")[2] in bypassed]:
        raise InputError(
            f"--lora-targets {','.join(wrong_layers)}: a Mamba block reads these weights without calling the layer, so an adapter "
            f"on it would have no effect. Name some of {', '.join(_linear_names(model))}, or {ALL_LINEAR} alone."
        )
    layers = _layers(model)
    unknown = [name for name in names if not any(_matches(name, path) for path in layers)]
    if unknown or not names:
        wrong, known = " or ".join(unknown) or "nothing", ", ".join(sorted({path.rpartition(".")[2] for path in layers}))
        raise InputError(
            f"--lora-targets: no layer of this model is called {wrong}. Name some of {known}, separated by commas, or {ALL_LINEAR} "
            "alone."
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embedding.weight:
        shared = [path for path, layer in layers.items() if layer is embedding or layer is head]
        if tied := [name for name in names if any(_matches(name, path) for path in shared)]:
            raise InputError(
                f"--lora-targets {','.join(tied)}: embedding and head of this model are the same weights, so an adapter on one of "
                f"them cannot be merged without changing the other. Leave {' and '.join(tied)} out, or use {ALL_LINEAR}."
            )
    return names


def _linear_names(model: Any) -> list[str]:
    """Return the names of the linear layers that can be adapted, without the head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    bypassed = BYPASSED if model.config.model_type in STATE_SPACE_MODELS else ()
    found = {
        path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    return sorted(found - set(bypassed))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that hold a matrix, by their path in the model."""
    return {
        path: module
        for path, module in model.named_modules()
        if not list(module.children()) and isinstance(weight := getattr(module, "weight", None), torch.Tensor) and weight.ndim > 1
    }


def _matches(name: str, path: str) -> bool:
    """Return whether PEFT would match a layer's path by this name."""
    return path == name or path.endswith(f".{name}")


def unfreeze_adapter(model: Any) -> None:
    """Enable gradients of a `PeftModel`'s active adapter if no parameter has them, which is how PEFT loads it by default."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.set_requires_grad(model.active_adapters, True)


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

    A half-precision base is summed in float32 and rounded once, with the seed, as after training (`unlearn.training.precision`). A
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
