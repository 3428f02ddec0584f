"""One value per token from hidden states, head and loss in one: the logits of a whole batch never exist.

A loss over a vocabulary of V words costs more memory than computing: stock code writes the logits of N tokens in the model's
precision and in float32, their softmax, and the gradient of both. Here the head is applied to `ROWS` tokens at a time. A reduction
turns these logits, in float32, into a value v_i per token and its slope in the logits, s_i = dv_i/dz_i [V]. Since z_i = W h_i,

    dL/dh_i = (dL/dv_i) s_i W,    dL/dW = sum_i (dL/dv_i) s_i h_i^T.

- Where the head is frozen (below an adapter), only s_i W [D] is kept, which the forward pass computes from the chunk in hand.
- Where it is trained, the slopes are kept in the head's precision: dL/dW needs all of dL/dv first. That is one array [N, V], in
  bfloat16 a sixth of what stock code holds at its peak.

Shapes: N tokens, D width, V vocabulary, n tokens of a chunk.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Callable[[Tensor, slice, bool], Tensor]
"""Computes the values [n] of the tokens in a slice from their logits [n, V], float32, which it may overwrite; where the last
argument is true it must overwrite them with the slopes of the values."""

ROWS, ROWS_ON_GPU = 256, 4096
"""Tokens per application of the head: enough for a matrix product at full speed."""
ROWS_IN_CACHE = 64
"""Rows of logits reduced at a time, so that they are still in the processor's cache for the next step."""


def head_values(hidden: Tensor, weight: Tensor, reduce: Reduction) -> Tensor:
    """Compute one float32 value per token [N] from hidden states [N, D] and a head [V, D]. Differentiable once in both."""
    values: Tensor = _HeadValues.apply(hidden, weight, reduce)  # type: ignore[no-untyped-call]
    return values


def log_probability_of(targets: Tensor) -> Reduction:
    """Return the reduction to log softmax(logits)[target], for target ids [N]; its slope is 1[v = target] - p_v."""

    def reduce(logits: Tensor, rows: slice, with_slopes: bool) -> Tensor:
        chosen = targets[rows, None]  # [n, 1]
        # log p_t = (z_t - max z) + log p_max: the difference of logits is taken first, so that large ones cancel exactly.
        below_top = (logits.gather(-1, chosen) - logits.amax(-1, keepdim=True))[:, 0]
        torch.softmax(logits, -1, out=logits)
        values = below_top + logits.amax(-1).log()
        if with_slopes:
            # In float32, so that 1 - p keeps its digits where a token is known by heart and p is rounded to 1.
            logits.neg_().scatter_add_(-1, chosen, torch.ones_like(chosen, dtype=logits.dtype))
        return values

    return reduce


def in_cache(count: int, rows: int, device: torch.device) -> Iterator[slice]:
    """Divide `count` rows into slices that fit into a processor's cache; on a GPU, where each costs a launch, all are one."""
    size = rows if device.type == "cpu" else max(count, 1)
    return (slice(start, min(start + size, count)) for start in range(0, max(count, 1), size))


class _HeadValues(torch.autograd.Function):
    """The values of `head_values`, with their gradients in hidden states and head."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, reduce: Reduction) -> Tensor:
        """Compute the values [N]."""
        hidden_wanted, weight_wanted, _ = ctx.needs_input_grad
        wanted = hidden_wanted or weight_wanted
        values = hidden.new_empty(len(hidden), dtype=torch.float32)
        kept = hidden.new_empty((len(hidden), len(weight) if weight_wanted else hidden.shape[1]) if wanted else 0)
        at_once = ROWS if hidden.device.type == "cpu" else ROWS_ON_GPU
        for start in range(0, len(hidden), at_once):
            logits = F.linear(hidden[start : start + at_once], weight)  # [n, V], in the head's precision
            for within in in_cache(len(logits), ROWS_IN_CACHE, logits.device):
                rows, part = slice(start + within.start, start + within.stop), logits[within]
                wide = part.float()  # the same memory where the head is in float32
                values[rows] = reduce(wide, rows, wanted)
                if wanted and wide is not part:
                    part.copy_(wide)
            if weight_wanted:
                kept[start : start + len(logits)] = logits
            elif hidden_wanted:
                torch.mm(logits, weight, out=kept[start : start + len(logits)])
        ctx.slopes_kept = weight_wanted
        ctx.save_for_backward(*((kept, hidden, weight) if weight_wanted else (kept,)))
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Compute the gradients of hidden states [N, D] and head [V, D] from those of the values [N]."""
        if not ctx.slopes_kept:
            (direction,) = ctx.saved_tensors
            return direction * gradient[:, None].to(direction.dtype), None, None
        slopes, hidden, weight = ctx.saved_tensors  # the slopes are overwritten: autograd refuses a second backward
        slopes.mul_(gradient[:, None].to(slopes.dtype))
        return slopes @ weight if ctx.needs_input_grad[0] else None, slopes.T @ hidden, None
