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


def step_after_head(model: nn.Module, raw: Tensor, final: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The known step after the head that explains this model's own logits, or None if none does."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    cap = getattr(config, "final_logit_softcapping", None)
    candidates: list[Callable[[Tensor], Tensor]] = []
    if cap:
        candidates.append(lambda logits: torch.tanh(logits / cap) * cap)
    for factor in (getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)):
        if isinstance(factor, float | int) and factor:
            candidates += [lambda logits, f=factor: logits * f, lambda logits, f=factor: logits / f]  # type: ignore[misc]
    # Last, for tiny logits a soft cap looks like no step at all: what the configuration names goes first.
    candidates.append(lambda logits: logits)
    # One row takes another path through the matrix product than many do, so the two differ by rounding.
    tolerance = max(1e-4, 4 * torch.finfo(final.dtype).eps)
    scale = float(final.abs().max())
    for candidate in candidates:
        if torch.allclose(candidate(raw).float(), final.float(), rtol=tolerance, atol=tolerance * scale):
            return candidate
    return None


def scored_log_probabilities(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Natural-log probability of every scored token, float32 [N], and its row [N]. Differentiable."""
    values, _, rows = scored_log_probabilities_and_tokens(model, batch)
    return values, rows


def scored_log_probabilities_and_tokens(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the token ids in between: log-probabilities [N], tokens [N], rows [N]."""
    logits, targets, rows = scored_logits(model, batch)
    return target_log_probabilities(logits, targets), targets, rows


def target_log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] [N] from logits [N, V] and targets [N], in float32 or wider. Differentiable, once."""
    full = logits if logits.dtype == torch.float64 else logits.float()
    values: Tensor = _TargetLogProbability.apply(full, targets)  # type: ignore[no-untyped-call]
    return values


class _TargetLogProbability(torch.autograd.Function):
    """log softmax(logits)[target], per row, with half of cross_entropy's memory traffic.

    Stock cross entropy writes three arrays of the logits' size: the log-softmax, a gradient that is zero but for one entry a
    row, and the gradient of the logits. Here the softmax is the only one; backward turns it into the gradient where it lies:

        d log p_t / d z_v = 1[v = t] - p_v
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Natural-log probabilities [N] from logits [N, V] and targets [N]."""
        probability = torch.softmax(logits, dim=-1)
        ctx.save_for_backward(probability, targets)
        # The largest logit has log p = -log sum exp(z - max): the normaliser without another pass of exponentials, and
        # differences of logits are taken first, so that large ones cancel exactly.
        below_top = logits.gather(-1, targets[:, None])[:, 0] - logits.amax(-1)
        return below_top + probability.amax(-1).log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient of the logits, in place of the probabilities."""
        probability, targets = ctx.saved_tensors  # autograd refuses a second backward through what is overwritten here
        result = probability.mul_(-gradient[:, None])
        result.scatter_add_(-1, targets[:, None], gradient[:, None])
        return result, None


def sum_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Sum values [N] into their rows [B]."""
    return torch.zeros(batch_size, dtype=values.dtype, device=values.device).index_add_(0, rows, values)


def mean_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Mean of values [N] over each row's scored tokens, [B]; every row has at least one."""
    return sum_by_row(values, rows, batch_size) / torch.bincount(rows, minlength=batch_size)
