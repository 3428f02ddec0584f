"""Log-probabilities of scored tokens, without computing the logits of any other position.

A language model's head is often its most expensive layer: vocabulary x width for every position, prompts and padding
included, in float32. Here a hook on the head keeps only the hidden states in front of scored tokens. Whatever the model does
after its head (soft-capping, scaling) stays the model's own code, and wrappers (PEFT, DDP, FSDP) see an ordinary forward call.

Shapes: B batch, L length, D width, V vocabulary, N scored tokens of the batch in row-major order.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Select = Callable[[Tensor], Tensor]

TOLERATED_PADDING = 0.05
"""A batch with no larger share of padding runs as it is."""
ROWS_AT_ONCE = 64
"""So many rows of logits are worked on at a time, so that they are still in the cache for the next pass over them."""
WORTH_A_PASS = 64
"""Positions of padding that another pass through the layers must spare: its cost is adding up the gradients once more."""


def predicting_positions(scored: Tensor) -> Tensor:
    """Return positions whose hidden state predicts a scored token: bool [B, L], one to the left of `scored`."""
    return F.pad(scored[:, 1:], (0, 1))


@contextmanager
def head_sees(model: nn.Module, select: Select) -> Iterator[None]:
    """Apply the output head to `select(hidden [B, L, D])` only, within this block."""
    head = output_head(model)
    handle = head.register_forward_pre_hook(lambda _, inputs: (select(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def output_head(model: Any) -> nn.Module:
    """Return the layer that turns hidden states into logits, below any wrapper."""
    while hasattr(model, "module"):
        model = model.module
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module), "a causal language model has an output head"
    return head


def vocabulary_size(model: nn.Module) -> int:
    """Return the width of the head's output, V."""
    weight = output_head(model).weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def scored_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute logits where a scored token is predicted, in one pass over the batch with one application of the head.

    A batch with much padding goes through the layers in several parts, rows of like length together (`like_lengths`).

    Args:
        model: a causal language model, wrapped or not.
        batch: `input_ids`, `attention_mask` and `scored`, each [B, L], as `verify.data.encoding.collate` makes them.

    Returns:
        logits [N, V], the scored token ids [N], and the row of the batch each belongs to [N].
    """
    groups = _groups(batch)
    parts = [{name: batch[name][group, :length] for name in batch} for group, length in groups]
    places = torch.cat([group[torch.nonzero(part["scored"])[:, 0]] for (group, _), part in zip(groups, parts, strict=True)])
    row_major = torch.argsort(places, stable=True)
    kept: list[Tensor] = []

    def run(part: Mapping[str, Tensor], last: bool) -> Any:
        def select(hidden: Tensor) -> Tensor:
            kept.append(hidden[predicting_positions(part["scored"])])
            if not last:
                return kept[-1][:1]  # the head has to see something
            return torch.cat(kept)[row_major] if len(groups) > 1 else kept[0]

        with head_sees(model, select):
            return model(input_ids=part["input_ids"], attention_mask=part["attention_mask"], use_cache=False).logits

    for part in parts[:-1]:
        run(part, last=False)
    return run(parts[-1], last=True), batch["input_ids"][batch["scored"]], places[row_major]


def _groups(batch: Mapping[str, Tensor]) -> list[tuple[Tensor, int]]:
    """Group rows that pass through the layers together, with their common length."""
    rows, length = batch["input_ids"].shape
    device = batch["input_ids"].device
    # Several processes wait for each other within a forward call, so each of them has to make as many calls.
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        return [(torch.arange(rows, device=device), length)]
    lengths = batch["attention_mask"].sum(1).tolist()
    groups = like_lengths(lengths)
    if len(groups) == 1:
        return [(torch.arange(rows, device=device), length)]
    return [(torch.tensor(group, device=device), lengths[group[0]]) for group in groups]


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of similar length, the longest first.

    A group is cut where that spares most padding, until padding is a small share or a cut no longer pays for the pass it costs.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    sizes, cuts = np.array([lengths[row] for row in order]), [0, len(order)]
    while True:
        longest = np.repeat(sizes[cuts[:-1]], np.diff(cuts))
        ends = np.repeat(cuts[1:], np.diff(cuts))
        saved = (ends - np.arange(len(order))) * (longest - sizes)
        place = int(np.argmax(saved))
        if saved[place] < WORTH_A_PASS or 1 - sizes.sum() / longest.sum() <= TOLERATED_PADDING:
            return [order[start:end] for start, end in itertools.pairwise(cuts)]
        cuts = sorted([*cuts, place])


def step_after_head(model: nn.Module, raw: Tensor, final: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Find the known post-head operation that explains this model's own logits, or None."""
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
    """Compute the natural-log probability of every scored token, float32 [N], and its row [N]. Differentiable."""
    values, _, rows = scored_log_probabilities_and_tokens(model, batch)
    return values, rows


def scored_log_probabilities_and_tokens(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log-probabilities [N], token ids [N] and rows [N] of the scored tokens."""
    logits, targets, rows = scored_logits(model, batch)
    return target_log_probabilities(logits, targets, spend=True), targets, rows


def target_log_probabilities(logits: Tensor, targets: Tensor, *, spend: bool = False) -> Tensor:
    """Compute log softmax(logits)[target] [N] from logits [N, V] and targets [N], in float32 or wider. Differentiable once.

    Args:
        logits: of any type.
        targets: token ids.
        spend: the caller reads the logits no more, so that the probabilities may take their place where nothing else needs them.
    """
    full = logits if logits.dtype == torch.float64 else logits.float()
    # A matrix product keeps its factors for the gradient, not its result; of other steps (a tanh, say) that is not known.
    in_place = spend and type(logits.grad_fn).__name__ in _RESULT_NOT_KEPT
    values: Tensor = _TargetLogProbability.apply(full, targets, in_place)  # type: ignore[no-untyped-call]
    return values


_RESULT_NOT_KEPT = ("MmBackward0", "AddmmBackward0")


class _TargetLogProbability(torch.autograd.Function):
    """log softmax(logits)[target], per row, with half of cross_entropy's memory traffic.

    Stock cross entropy writes three arrays of the logits' size: the log-softmax, a gradient that is zero but for one entry a
    row, and the gradient of the logits. Here the softmax is the only one, and may lie where the logits were (fresh memory costs
    more than the exponentials); backward turns it into the gradient where it lies:

        d log p_t / d z_v = 1[v = t] - p_v
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, in_place: bool) -> Tensor:
        """Compute natural-log probabilities [N] from logits [N, V] and targets [N]."""
        probability = logits if in_place else torch.empty_like(logits)
        values = logits.new_empty(len(logits))
        for start in range(0, len(logits), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            # The largest logit has log p = -log sum exp(z - max): the normaliser without another pass of exponentials, and
            # differences of logits are taken first, so that large ones cancel exactly.
            below_top = logits[rows].gather(-1, targets[rows, None])[:, 0] - logits[rows].amax(-1)
            torch.softmax(logits[rows], dim=-1, out=probability[rows])
            values[rows] = below_top + probability[rows].amax(-1).log()
        ctx.save_for_backward(probability, targets)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Compute the gradient of the logits, in place of the probabilities."""
        probability, targets = ctx.saved_tensors  # autograd refuses a second backward through what is overwritten here
        result = probability.mul_(-gradient[:, None])
        result.scatter_add_(-1, targets[:, None], gradient[:, None])
        return result, None, None


def sum_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Sum values [N] into their rows [B]."""
    return torch.zeros(batch_size, dtype=values.dtype, device=values.device).index_add_(0, rows, values)


def mean_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Average values [N] over each row's scored tokens [B]; every row has at least one."""
    return sum_by_row(values, rows, batch_size) / torch.bincount(rows, minlength=batch_size)
