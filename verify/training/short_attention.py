"""Attention over short sequences in half precision on a processor, as plain matrix products.

torch's fused kernel for processors computes the gradient of half-precision attention block by block, four to five times slower
than batched matrix products at the length of a question with its answer (75 tokens, 9 heads of 64: 22 ms a layer against 5). It
saves the L x L probabilities, which short sequences can afford to keep.

    S = Q K^T / sqrt(d) + mask,   P = softmax(S),   O = P V

Scores and softmax are in float32, as in the fused kernel; P is kept in the inputs' precision.

Shapes: B rows, H heads, L queries, S keys, D width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 256
"""Longest sequence for which plain products are faster and the L x L probabilities small beside a layer's other activations."""
HALF = (torch.bfloat16, torch.float16)


STOCK = F.scaled_dot_product_attention


@contextmanager
def short_attention() -> Iterator[None]:
    """Compute, within a `with` block, half-precision attention of short sequences by matrix products.

    Passes without a gradient, which are no slower, are included: their outputs are then rounded as in the run's steps.

    The stock function is replaced by name, where models look it up at every call. A mode of `torch.overrides` would not reach the
    forward passes that gradient checkpointing repeats, since torch takes the mode off during a backward call.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def _attention(*given: Any, **named: Any) -> Tensor:
    """Compute `scaled_dot_product_attention`: by products where that pays, else by the stock kernel."""
    found = _by_products(*given, **named)
    return STOCK(*given, **named) if found is None else found


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Return the attention's output [B, H, L, D], or None where the stock kernel is to compute it; arguments are the stock ones."""
    short = query.ndim == key.ndim == 4 and max(query.shape[-2], key.shape[-2]) <= LONGEST
    learned_mask = attn_mask is not None and attn_mask.requires_grad
    if not short or learned_mask or dropout_p or query.device.type != "cpu" or query.dtype not in HALF:
        return None
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if key.shape[:2] != query.shape[:2]:
        return None
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    found: Tensor = _Attention.apply(query, key, value, attn_mask, query.shape[-1] ** -0.5 if scale is None else scale)  # type: ignore[no-untyped-call]
    return found


class _Attention(torch.autograd.Function):
    """Attention of the module's docstring, with its gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Compute the output [B, H, L, D]; the mask, bool (True is seen) or added to the scores, broadcasts to [B, H, L, S]."""
        scores = (query.float() @ key.float().mT).mul_(scale)
        # The least number instead of -inf: a query that sees nothing, which only padding does, gives a mean and no NaN.
        least = torch.finfo(scores.dtype).min
        if mask is not None and mask.dtype == torch.bool:
            scores.masked_fill_(~mask, least)
        elif mask is not None:
            scores.add_(mask).clamp_min_(least)
        probability = torch.softmax(scores, -1, out=scores).to(query.dtype)
        ctx.save_for_backward(query, key, value, probability)
        ctx.scale = scale
        return probability @ value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Compute dV = P^T dO, and through dS = P * (dO V^T - rowsum(P * dO V^T)) / sqrt(d): dQ = dS K, dK = dS^T Q."""
        query, key, value, probability = ctx.saved_tensors
        slopes = torch.ops.aten._softmax_backward_data(gradient @ value.mT, probability, -1, probability.dtype).mul_(ctx.scale)
        return slopes @ key, slopes.mT @ query, probability.mT @ gradient, None, None
