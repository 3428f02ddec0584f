"""Hidden states of an inner layer, without running the layers above it.

Shapes: B rows, L length, D width, N predicting positions (one before each scored token) in row-major order.
"""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from unlearn.training import distributed
from verify.errors import InputError
from verify.models.log_probabilities import head_sees, predicting_positions


class _EnoughError(Exception):
    """Raised to end a forward pass at a layer."""


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the stack of decoder layers, below any wrapper.

    Raises:
        InputError: the model has no such stack.
    """
    while hasattr(model, "module"):  # DistributedDataParallel
        model = model.module
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise InputError(f"{type(model).__name__} has no list of layers to work on. Use a method that works on the output.")
    # The longest list; of equally long ones (experts, say) the one with most parameters.
    return max(lists, key=lambda found: (len(found), sum(parameter.numel() for parameter in found.parameters())))


def layer_hidden(model: nn.Module, batch: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute one decoder layer's output where a scored token is predicted: hidden [N, D], token ids [N], rows [N].

    In a single process the forward pass ends at the layer. With several processes it runs to the end, because the wrapper that
    synchronises gradients needs its forward call to return; and with gradient checkpointing, because a layer that is left by an
    exception cannot be computed again.

    Args:
        model: a causal language model, wrapped or not.
        batch: `input_ids`, `attention_mask`, `scored`, each [B, L].
        layer: counted from 0.
    """

    kept: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)  # [B, L, D]
        if distributed.count() == 1 and not checkpointed:
            raise _EnoughError

    chosen = decoder_layers(model)[layer]
    checkpointed = chosen.training and getattr(chosen, "gradient_checkpointing", False)
    handle = chosen.register_forward_hook(keep)
    scored, positions = batch["scored"], predicting_positions(batch["scored"])
    try:
        with contextlib.suppress(_EnoughError), head_sees(model, lambda hidden: hidden[:, :1]):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        handle.remove()
    return kept[0][positions], batch["input_ids"][scored], positions.nonzero()[:, 0]


def down_projections(model: nn.Module, layers: Iterable[int]) -> list[nn.Parameter]:
    """Return the weights of some layers' feed-forward output projections.

    Raises:
        InputError: the architecture has none by a known name.
    """
    stack, names = decoder_layers(model), ("down_proj.", "mlp.c_proj.", "mlp.dense_4h_to_h.", "fc2.")
    found = [
        parameter for layer in layers for name, parameter in stack[layer].named_parameters() if any(part in name for part in names)
    ]
    if not found:
        raise InputError("this architecture has no feed-forward projection by a known name. Use --lora, or another method.")
    return found
