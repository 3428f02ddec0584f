"""LoRA adapters: attach one for training, fold it in for deployment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearn.options import TrainingOptions
from unlearn.precision import float32_copies
from verify.adapter_types import is_adapter, require_supported
from verify.errors import InputError
from verify.models import LoadedModel
from verify.quantized import is_quantized

ALL_LINEAR = "all-linear"
STATE_SPACE_MODELS = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
BYPASSED = ("conv1d", "dt_proj", "out_proj")
"""Layers of a Mamba block whose weights its scan reads directly, so that an adapter around them is never called; PEFT refuses two
of them, and would take dt_proj, which then learns nothing."""


def attach_adapter(model: Any, options: TrainingOptions) -> Any:
    """The model to train: wrapped in a fresh adapter if the options ask for one, else the model itself.

    A model that already is an adapter is trained as such, also where PEFT loaded it frozen. The fresh adapter changes nothing yet
    (its B is zero).

    Raises:
        InputError: a named target layer does not exist or cannot be folded in, the model is quantized and no adapter is asked for,
            or it is an adapter that cannot be unfrozen.
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
    """Raise InputError where `attach_adapter` would for what was asked, so that no run is begun with it."""
    if is_adapter(model):
        require_supported(model, "the model")
        return
    if options.lora:
        _targets(model, options.lora_targets)
    elif is_quantized(model):
        raise InputError("quantized weights cannot be trained, only an adapter on them. Add --lora, or leave out --quantize.")


def _targets(model: Any, asked: str) -> str | list[str]:
    """The layers to adapt, as PEFT takes them.

    Raises:
        InputError: a name fits no layer, which PEFT would pass over, one of two layers that share their weights, or one whose
            weights are read without calling it.
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    bypassed = BYPASSED if getattr(getattr(model, "config", None), "model_type", None) in STATE_SPACE_MODELS else ()
    if names == [ALL_LINEAR]:
        return _linear_names(model) if bypassed else ALL_LINEAR
    if wrong_layers := [name for name in names if name.rpartition(".")[2] in bypassed]:
        raise InputError(
            f"--lora-targets {','.join(wrong_layers)}: a Mamba block reads these weights without calling the layer, so an adapter "
            f"on it would have no effect. Name some of {', '.join(_linear_names(model))}, or {ALL_LINEAR} alone."
        )
    layers = _layers(model)
    unknown = [name for name in names if not any(_fits(name, place) for place in layers)]
    if unknown or not names:
        wrong, known = " or ".join(unknown) or "nothing", ", ".join(sorted({place.rpartition(".")[2] for place in layers}))
        raise InputError(
            f"--lora-targets: no layer of this model is called {wrong}. Name some of {known}, separated by commas, or {ALL_LINEAR} "
            "alone."
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embedding.weight:
        shared = [place for place, layer in layers.items() if layer is embedding or layer is head]
        if tied := [name for name in names if any(_fits(name, place) for place in shared)]:
            raise InputError(
                f"--lora-targets {','.join(tied)}: embedding and head of this model are the same weights, so an adapter on one of "
                f"them cannot be folded in without changing the other. Leave {' and '.join(tied)} out, or use {ALL_LINEAR}."
            )
    return names


def _linear_names(model: Any) -> list[str]:
    """Names of the linear layers that an adapter can be put on; the head is not among them."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    bypassed = BYPASSED if model.config.model_type in STATE_SPACE_MODELS else ()
    found = {
        place.rpartition(".")[2]
        for place, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    return sorted(found - set(bypassed))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that hold a matrix, by their place in the model."""
    return {
        place: module
        for place, module in model.named_modules()
        if not list(module.children()) and isinstance(weight := getattr(module, "weight", None), torch.Tensor) and weight.ndim > 1
    }


def _fits(name: str, place: str) -> bool:
    """Whether PEFT takes the layer at a place for one of that name."""
    return place == name or place.endswith(f".{name}")


def unfreeze_adapter(model: Any) -> None:
    """Let the active adapter of a `PeftModel` be trained where nothing of it asks for gradients, as PEFT loads it by default."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.set_requires_grad(model.active_adapters, True)


def gradient_flags(model: nn.Module) -> dict[str, bool]:
    """Which parameters ask for gradients, by name."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def put_gradient_flags(model: nn.Module, flags: Mapping[str, bool]) -> None:
    """Leave a model that is somebody's as it was found: what asked for gradients asks for them again, and nothing else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))


def require_adapter(model: Any, quantize: str) -> None:
    """Raise InputError where a model is no adapter yet, so that nothing of it could be trained on a quantized base."""
    if is_adapter(model) or (isinstance(model, (str, Path)) and (Path(model) / "adapter_config.json").is_file()):
        return
    raise InputError(f"--quantize {quantize} trains an adapter only. Add --lora, or leave out --quantize.")


def require_whole(loaded: LoadedModel, method: str) -> None:
    """Raise InputError where a model is an adapter: the difference of two products B A is no product of the same rank."""
    if is_adapter(loaded.model):
        raise InputError(
            f"{method} works on whole weights, and {loaded.name} is an adapter. Merge it into its base first (merge_and_unload of "
            "PEFT) and give that model, or use a method that changes the adapter itself: an objective such as npo, or ssd."
        )


def merged(model: Any, seed: int = 0) -> Any:
    """The model with its adapter folded into the weights: delta-W arithmetic, after which the adapter is gone.

    A base in half precision is added to in float32 and rounded once, by the seed, as after training (`unlearn.precision`). A
    quantized base is dequantized first: folded into few bits, most of the change would be rounded away.
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
    """Whole weights that compute what the quantized base and its adapter did, but for the rounding of their products."""
    from peft.tuners.lora import LoraLayer

    names = model.active_adapters
    changes = {
        place: sum(module.get_delta_weight(name) for name in names)
        for place, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
    whole = model.unload().dequantize()
    weights = {place: whole.get_submodule(place).weight for place in changes}
    with float32_copies(whole, weights.values(), seed):
        for place, change in changes.items():
            weights[place].add_(change.to(weights[place]))
    return whole
