"""Changes of whole weights in closed form or at random: a repair of a finished update, and noise before a distillation.

Shapes: T tokens, D inputs and O outputs of a linear layer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verify.data.encoding import Encoded, collate, padding_token_id
from verify.models.loading import LoadedModel
from verify.models.token_stats import length_sorted_batches

TOKENS_AT_ONCE = 4096
RIDGE = 1e-3
"""Part of the mean eigenvalue of the forget inputs' second moment that is added to both moments: they need not have full rank."""


@torch.no_grad()
def repair(
    model: LoadedModel, original: LoadedModel, forget: Sequence[Encoded], retain: Sequence[Encoded], strength: float
) -> None:
    """Change the update of every linear layer so that it acts on forget inputs as before, and little on retain inputs.

        min over dW'  tr (dW' - dW) C_f (dW' - dW)^T + strength tr dW' C_r dW'^T
        dW' = dW C_f (C_f + strength C_r)^-1

    dW: the update [O, D]; C_f, C_r: second moments of the layer's inputs [D, D] on forget and on retain windows, the latter scaled
    to the former's trace. Embeddings and norms keep their update.

    Args:
        model: after unlearning; changed in place.
        original: before it, of the same shape.
        forget, retain: windows whose tokens give the moments.
        strength: weight of the retain inputs.
    """
    before = dict(original.model.named_modules())
    inside, outside = (second_moments(model, windows) for windows in (forget, retain))
    for name, layer in model.model.named_modules():
        if name not in inside:
            continue
        own, kept = inside[name], outside[name]
        kept = kept * (own.trace() / kept.trace())
        ridge = RIDGE * own.trace() / len(own) * torch.eye(len(own), dtype=own.dtype)
        start = before[name].weight
        update = (layer.weight - start).double()
        found = torch.linalg.solve(own + strength * kept + ridge, (own + ridge) @ update.T).T
        layer.weight.copy_(start + found.to(start))


def second_moments(loaded: LoadedModel, windows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Compute the mean of x x^T over all tokens for the inputs x of every linear layer but the head, by name [D, D]."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    mask = torch.empty(0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0][mask].double()
            sums[name] = sums.get(name, 0) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        return add

    head = loaded.model.get_output_embeddings()
    layers = {name: layer for name, layer in loaded.model.named_modules() if isinstance(layer, nn.Linear) and layer is not head}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        for rows in length_sorted_batches([len(window.input_ids) for window in windows], TOKENS_AT_ONCE):
            batch: Mapping[str, Tensor] = collate([windows[row] for row in rows], padding_token_id(loaded.tokenizer))
            mask = batch["attention_mask"].bool()
            loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


@torch.no_grad()
def add_noise(model: nn.Module, share: float, seed: int) -> None:
    """Mix every matrix with noise of its own size: W <- (1 - share) W + share std(W) N(0, 1), as UNDO does (arXiv 2506.06278)."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        if value.ndim > 1:
            value.copy_(torch.lerp(value, value.std() * torch.randn(value.shape, generator=generator), share))
