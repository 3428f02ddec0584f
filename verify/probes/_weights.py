"""Weights of a model as one whole, with its adapter merged, and restored bit by bit."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from verify.models.adapter_types import is_adapter
from verify.models.quantized import is_quantized
from verify.probes.base import ProbeNotRunError

SAVED_WHOLE = re.compile(r"\.modules_to_save\.[^.]+")


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Merge a model's active adapters into its base within a `with` block; any other model is left as it is.

    Deploying an adapter in another format means merging it first. The original tensors are set aside and never written to, so that
    nothing is lost by rounding.

    Raises:
        ProbeNotRunError: the base is quantized, or the model is an ensemble of adapters.
    """
    if getattr(model, "ensemble_combine", None) is not None:
        raise ProbeNotRunError("the adapters of an ensemble cannot be merged")
    if is_quantized(model):
        raise ProbeNotRunError("the weights are quantized already")
    layers = adapted_layers(model)
    if not layers or any(layer.merged_adapters or layer.disable_adapters for layer in layers.values()):
        yield
        return
    kept = [(parameter, parameter.data) for layer in layers.values() for parameter in layer.get_base_layer().parameters()]
    try:
        for parameter, weights in kept:
            parameter.data = weights.clone()
        model.merge_adapter()
        yield
    finally:
        model.unmerge_adapter()
        for parameter, weights in kept:
            parameter.data = weights


def adapted_layers(model: Any) -> dict[str, Any]:
    """Return the layers of the base that have an adapter, by name; empty for a model without one."""
    if not is_adapter(model):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: one for name, one in model.get_base_model().named_modules() if isinstance(one, BaseTunerLayer)}


def own_modules(model: Any) -> dict[str, nn.Module]:
    """Return all modules of a model by their names without an adapter; those of adapters are left out."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = adapted_layers(model)
    found = {}
    for name, module in base.named_modules():
        plain = _plain_name(name, adapted)
        if plain is not None:
            found[plain] = module
    return found


def own_weights(model: Any) -> dict[str, nn.Parameter]:
    """Return all weights of a model by their names without an adapter; those of adapters are left out."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = adapted_layers(model)
    found = {}
    for name, parameter in base.named_parameters():
        plain = _plain_name(name, adapted)
        if plain is not None:
            found[plain] = parameter
    return found


@contextmanager
def replaced(weights: Mapping[Any, Tensor]) -> Iterator[None]:
    """Give parameters other values within a `with` block; the original tensors are never written to."""
    kept = [(parameter, parameter.data) for parameter in weights]
    try:
        for parameter, values in weights.items():
            parameter.data = values.to(parameter.dtype)
        yield
    finally:
        for parameter, values in kept:
            parameter.data = values


def _plain_name(name: str, adapted: dict[str, Any]) -> str | None:
    """Return a name as it is without an adapter, or None for what belongs to an adapter."""
    if ".original_module" in name:
        return None  # of a layer that the adapter replaces as a whole
    name = SAVED_WHOLE.sub("", name)
    parts = name.split(".")
    for end in range(1, len(parts)):
        if ".".join(parts[:end]) in adapted:
            return ".".join([*parts[:end], *parts[end + 1 :]]) if parts[end] == "base_layer" else None
    return name
