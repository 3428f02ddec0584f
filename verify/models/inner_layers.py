"""Parts of a model that decode its inner layers: which layers these are, and the norm in front of the head."""

from typing import Any

from torch import nn


def layers_below_the_last(model: Any) -> tuple[int, ...]:
    """Return the numbers of the layers below the last, from 1; none for a model of one layer."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", 1)
    return tuple(range(1, int(count)))


def final_norm(model: Any) -> Any:
    """Return the norm in front of the head, below any wrapper; the identity for architectures without a known one."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    body = getattr(model, model.base_model_prefix)  # the transformer without its head: `model`, `transformer`, ...
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
        if hasattr(body, name):
            return getattr(body, name)
    return nn.Identity()
