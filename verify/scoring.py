"""The model's log-probabilities of scored tokens, without making the logits of any other position.

A language model's head is often its most expensive layer: vocabulary x width for every position, prompts and padding
included, in float32. Here a hook on the head keeps only the hidden states in front of scored tokens. Whatever the model does
after its head (soft-capping, scaling) stays the model's own code, and wrappers (PEFT, DDP, FSDP) see an ordinary forward call.

Shapes: B batch, L length, D width, V vocabulary, N scored tokens of the batch in row-major order.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Select = Callable[[Tensor], Tensor]


def predicting_positions(scored: Tensor) -> Tensor:
    """Positions whose hidden state predicts a scored token: bool [B, L], one to the left of `scored`."""
    return F.pad(scored[:, 1:], (0, 1))


@contextmanager
def head_sees(model: nn.Module, select: Select) -> Iterator[None]:
    """Within this block the output head is applied to `select(hidden [B, L, D])` instead of to every position."""
    head = output_head(model)
    handle = head.register_forward_pre_hook(lambda _, inputs: (select(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def output_head(model: Any) -> nn.Module:
    """The layer that turns hidden states into logits, below any wrapper."""
    while hasattr(model, "module"):
        model = model.module
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module), "a causal language model has an output head"
    return head


def vocabulary_size(model: nn.Module) -> int:
    """Width of the head's output, V."""
    weight = output_head(model).weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def scored_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass; logits where a scored token is predicted.

    Args:
        model: a causal language model, wrapped or not.
        batch: `input_ids`, `attention_mask` and `scored`, each [B, L], as `verify.encoding.collate` makes them.

    Returns:
        logits [N, V], the scored token ids [N], and the row of the batch each belongs to [N].
    """
    scored = batch["scored"]
    positions = predicting_positions(scored)
    with head_sees(model, lambda hidden: hidden[positions]):
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    rows = torch.nonzero(scored)[:, 0]
    return output.logits, batch["input_ids"][scored], rows


def scored_log_probabilities(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Natural-log probability of every scored token, float32 [N], and its row [N]. Differentiable."""
    logits, targets, rows = scored_logits(model, batch)
    return -F.cross_entropy(logits.float(), targets, reduction="none"), rows


def sum_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Sum values [N] into their rows [B]."""
    return torch.zeros(batch_size, dtype=values.dtype, device=values.device).index_add_(0, rows, values)


def mean_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Mean of values [N] over each row's scored tokens, [B]; every row has at least one."""
    return sum_by_row(values, rows, batch_size) / torch.bincount(rows, minlength=batch_size)
