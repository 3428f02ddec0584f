"""A model with its adapter switched off: whoever deletes the adapter's file serves this one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from verify.models.adapter_types import is_adapter
from verify.models.digests import digest_of_weights, weights_digest
from verify.models.loading import LoadedModel


def without_adapter(loaded: LoadedModel) -> AbstractContextManager[LoadedModel] | None:
    """Return a context manager that switches a model's adapters off and on again, or None where it has none to switch off.

    An adapter that is merged into the weights cannot be switched off, nor can one that trained biases of the base: both are part
    of the weights of the base in memory.
    """
    layers = _layers(loaded.model)
    configs = (getattr(loaded.model, "peft_config", None) or {}).values()
    if not layers or any(getattr(config, "bias", "none") not in ("none", None) for config in configs):
        return None
    if any(getattr(layer, "merged_adapters", None) for layer in layers):
        return None
    return _switched_off(loaded, layers)


def digest_below(model: Any) -> str:
    """Compute the digest of the weights below a model's adapters: that of its base, where the two are named alike."""
    inner = model.get_base_model() if is_adapter(model) else model
    adapters = {name for layer in _layers(model) for name in getattr(layer, "adapter_layer_names", ())}
    below = {
        ".".join(part for part in key.split(".") if part != "base_layer"): value
        for key, value in inner.state_dict().items()
        if adapters.isdisjoint(key.split("."))
    }
    return digest_of_weights(below)


@contextmanager
def _switched_off(loaded: LoadedModel, layers: list[Any]) -> Iterator[LoadedModel]:
    needed = [(parameter, parameter.requires_grad) for parameter in loaded.model.parameters()]
    off = [layer for layer in layers if not layer.disable_adapters]
    try:
        for layer in off:
            layer.enable_adapters(False)
        yield replace(loaded, digest=weights_digest(loaded.model))  # another digest, so that caches keep the two apart
    finally:
        for layer in off:
            layer.enable_adapters(True)
        # Switching an adapter sets which of its weights require gradients.
        for parameter, need in needed:
            parameter.requires_grad_(need)


def _layers(model: Any) -> list[Any]:
    """Return the modules that hold adapters, of a `PeftModel` or of an ensemble on one base."""
    if not is_adapter(model) and getattr(model, "ensemble_combine", None) is None:
        return []
    return [module for module in model.modules() if hasattr(module, "enable_adapters") and hasattr(module, "disable_adapters")]
