"""LoRA adapters: attaching a new one for training, or unfreezing the one that a model has."""

from typing import Any, Protocol

import torch
from torch import nn

from verify.errors import InputError
from verify.models.adapter_types import is_adapter, require_supported
from verify.models.quantized import is_quantized

ALL_LINEAR = "all-linear"
STATE_SPACE_MODELS = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
BYPASSED = ("conv1d", "dt_proj", "out_proj")
"""Layers of a Mamba block whose weights its scan reads directly, so that an adapter around them is never called. PEFT refuses two
of them but accepts dt_proj, which would then learn nothing."""


class AdapterOptions(Protocol):
    """Training options that describe an adapter; a training log holds them by the same names."""

    @property
    def lora(self) -> bool:
        """Whether to train an adapter instead of all weights."""
        ...

    @property
    def lora_rank(self) -> int:
        """Rank r."""
        ...

    @property
    def lora_alpha(self) -> int:
        """Scale alpha, applied as alpha / r."""
        ...

    @property
    def lora_dropout(self) -> float:
        """Dropout in front of the adapter."""
        ...

    @property
    def lora_targets(self) -> str:
        """Layer names, separated by commas, or "all-linear"."""
        ...

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        ...

    @property
    def seed(self) -> int:
        """Random seed of the adapter's first weights."""
        ...


def attach_adapter(model: Any, options: AdapterOptions) -> Any:
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


def require_attachable(model: Any, options: AdapterOptions) -> None:
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
