"""Log-probabilities of scored tokens, without computing the logits of any other position.

A language model's head is often its most expensive layer: vocabulary x width for every position, including prompts and padding, in
float32. Here a hook on the head keeps only the hidden states that predict scored tokens. Operations after the head (soft-capping,
scaling) remain the model's own code, and wrappers (PEFT, DDP, FSDP) see an ordinary forward call.

Shapes: B batch, L length, D width, V vocabulary, N scored tokens of the batch in row-major order.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.models.head_values import head_values, in_cache, log_probability_of

Select = Callable[[Tensor], Tensor]

TOLERATED_PADDING = 0.05
"""Largest share of padding at which a batch runs in one pass."""
ROWS_AT_ONCE = 64
"""Number of rows of logits processed at a time, so that they are still in the processor's cache for the next step."""
WORTH_A_PASS = 64
"""Smallest number of padded positions for which another pass through the layers pays; it adds up the gradients once more."""


def predicting_positions(scored: Tensor) -> Tensor:
    """Return positions whose hidden state predicts a scored token: bool [B, L], one to the left of `scored`."""
    return F.pad(scored[:, 1:], (0, 1))


@contextmanager
def head_sees(model: nn.Module, select: Select) -> Iterator[None]:
    """Apply the output head to `select(hidden [B, L, D])` only, within a `with` block."""
    head = output_head(model)
    handle = head.register_forward_pre_hook(lambda _, inputs: (select(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def output_head(model: Any) -> nn.Module:
    """Return the layer that turns hidden states [..., D] into logits [..., V], below any wrapper."""
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

    A batch with much padding passes through the layers in several parts, each of rows of similar length (`like_lengths`).

    Args:
        model: a causal language model, wrapped or not.
        batch: `input_ids`, `attention_mask` and `scored`, each [B, L], as `verify.data.encoding.collate` makes them.

    Returns:
        logits [N, V], the scored token ids [N], and the row of the batch each belongs to [N].
    """
    logits, _, rows = _through_layers(model, batch, head_on_all=True)
    return logits, batch["input_ids"][batch["scored"]], rows


def _through_layers(model: nn.Module, batch: Mapping[str, Tensor], *, head_on_all: bool) -> tuple[Tensor, list[Tensor], Tensor]:
    """Pass a batch through the layers, and the hidden states that predict scored tokens, or the first of them, through the head.

    Returns:
        logits [N, V] or [1, V]; hidden states [N, D], one array for each time that the model applies its head (an ensemble does so
        for every adapter); and the row of the batch of each [N].
    """
    groups = _groups(batch)
    parts = [{name: batch[name][group, :length] for name in batch} for group, length in groups]
    # Row of the batch of every scored token in the order of the parts [N], and the permutation back to row-major order [N]; the
    # sort is stable, so that the tokens of a row keep their order.
    rows = torch.cat([group[torch.nonzero(part["scored"])[:, 0]] for (group, _), part in zip(groups, parts, strict=True)])
    row_major = torch.argsort(rows, stable=True)
    kept: dict[int, list[Tensor]] = {}  # application of the head -> hidden states of each part's scored tokens [n, D]
    whole: list[Tensor] = []  # of each application, those of all parts [N, D]

    def run(part: Mapping[str, Tensor], last: bool) -> Any:
        applications = itertools.count()

        def select(hidden: Tensor) -> Tensor:
            own = kept.setdefault(next(applications), [])
            own.append(hidden[predicting_positions(part["scored"])])
            if not last:
                return own[-1][:1]  # one row instead of none, as the head needs an input
            whole.append(torch.cat(own)[row_major] if len(groups) > 1 else own[0])
            return whole[-1] if head_on_all else whole[-1][:1]

        with head_sees(model, select):
            return model(input_ids=part["input_ids"], attention_mask=part["attention_mask"], use_cache=False).logits

    for part in parts[:-1]:
        run(part, last=False)
    return run(parts[-1], last=True), whole, rows[row_major]


def _groups(batch: Mapping[str, Tensor]) -> list[tuple[Tensor, int]]:
    """Group rows that pass through the layers together, with their common length."""
    rows, length = batch["input_ids"].shape
    device = batch["input_ids"].device
    # Distributed processes synchronise within a forward call, so all must make the same number of calls; and on a GPU another pass
    # costs more than the padding that it saves.
    if device.type != "cpu" or _several_processes():
        return [(torch.arange(rows, device=device), length)]
    lengths = batch["attention_mask"].sum(1).tolist()
    groups = like_lengths(lengths)
    if len(groups) == 1:
        return [(torch.arange(rows, device=device), length)]
    return [(torch.tensor(group, device=device), lengths[group[0]]) for group in groups]


def _several_processes() -> bool:
    """Return whether several processes train one model."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of similar length, the longest first.

    A group is cut where that saves most padding, until padding is a small share or a cut saves less than the extra pass costs.

    Args:
        lengths: tokens of each row [B].

    Returns:
        indices of the rows of each group.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    sizes, cuts = np.array([lengths[row] for row in order]), [0, len(order)]
    while True:
        # For every row [B]: the padded length and the end of its group, and the positions saved by a cut in front of it.
        longest = np.repeat(sizes[cuts[:-1]], np.diff(cuts))
        ends = np.repeat(cuts[1:], np.diff(cuts))
        saved = (ends - np.arange(len(order))) * (longest - sizes)
        cut = int(np.argmax(saved))
        if saved[cut] < WORTH_A_PASS or 1 - sizes.sum() / longest.sum() <= TOLERATED_PADDING:
            return [order[start:end] for start, end in itertools.pairwise(cuts)]
        cuts = sorted([*cuts, cut])


def step_after_head(model: nn.Module, raw: Tensor, final: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Find the known operation after the head that turns its raw output into the model's own logits.

    Args:
        model: the model, for its configuration.
        raw: the head's output [n, V].
        final: the model's logits of the same positions [n, V].

    Returns:
        the operation, for further outputs of the head; None if no known one gives `final`.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    cap = getattr(config, "final_logit_softcapping", None)
    candidates: list[Callable[[Tensor], Tensor]] = []
    if cap:
        candidates.append(lambda logits: torch.tanh(logits / cap) * cap)
    for factor in (getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)):
        if isinstance(factor, float | int) and factor:
            # Architectures use these names for a factor or for a divisor: both are tried.
            candidates += [lambda logits, f=factor: logits * f, lambda logits, f=factor: logits / f]  # type: ignore[misc]
    # The identity is last, as for tiny logits a soft cap cannot be distinguished from it.
    candidates.append(lambda logits: logits)
    # A matrix product of one row uses other kernels than one of many rows, so the two differ by rounding.
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
    states = scored_states(model, batch)
    targets = batch["input_ids"][batch["scored"]]
    if states is not None:
        hidden, weight, rows = states
        return head_values(hidden, weight, log_probability_of(targets)), targets, rows
    logits, targets, rows = scored_logits(model, batch)
    return target_log_probabilities(logits, targets, spend=True), targets, rows


def scored_states(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Compute the hidden states [N, D] that predict scored tokens, for `head_values` to apply the head [V, D] to.

    Returns:
        hidden states [N, D], the head's weight [V, D], and the row of the batch of each token [N]; None where the logits are better
        computed whole: by a head in float32 that is trained, whose slopes are as large as its logits, and by heads that are more
        than one matrix product.
    """
    head: Any = output_head(model)
    if _PLAIN.get(head) is False or not _may_be_plain(head):
        return None
    logits, states, rows = _through_layers(model, batch, head_on_all=False)
    hidden = states[0]
    if head not in _PLAIN:
        # Checked once a model: what it does after its head (a softcap or a scale, say) would be left out.
        with torch.no_grad():
            raw = F.linear(hidden[:1], head.weight)
            after = step_after_head(model, raw, logits[:1])
            plain = after is not None and after(raw) is raw and hidden.dtype == head.weight.dtype
            _PLAIN[head] = plain and len(states) == 1
        if not _PLAIN[head]:
            return None
    return hidden, head.weight, rows


_PLAIN: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()
"""Whether the logits are a head's output as it is."""


def _may_be_plain(head: Any) -> bool:
    """Return whether a head is one product with a weight in this process that is frozen or in half precision."""
    weight: Any = getattr(head, "weight", None)
    bias: Any = getattr(head, "bias", None)
    # Not a subclass of these types, such as a shard of a weight or a quantized one.
    if type(head) is not nn.Linear or bias is not None or type(weight) not in (Tensor, nn.Parameter):
        return False
    if torch.is_autocast_enabled(weight.device.type) or _several_processes():
        return False
    half = weight.dtype in (torch.bfloat16, torch.float16)
    return half or (weight.dtype == torch.float32 and not weight.requires_grad)


def target_log_probabilities(logits: Tensor, targets: Tensor, *, spend: bool = False) -> Tensor:
    """Compute log softmax(logits)[target] [N] from logits [N, V] and targets [N], in float32 or wider. Differentiable once.

    Args:
        logits: logits of any floating-point type [N, V].
        targets: token ids [N].
        spend: whether the caller no longer needs the logits, so that the probabilities may overwrite them where autograd does not
            need them either.
    """
    full = logits if logits.dtype == torch.float64 else logits.float()
    # A matrix product saves its factors for the gradient, not its result; other operations (a tanh, say) may save theirs.
    in_place = spend and type(logits.grad_fn).__name__ in _RESULT_NOT_KEPT
    values: Tensor = _TargetLogProbability.apply(full, targets, in_place)  # type: ignore[no-untyped-call]
    return values


_RESULT_NOT_KEPT = ("MmBackward0", "AddmmBackward0")


class _TargetLogProbability(torch.autograd.Function):
    """log softmax(logits)[target], per row, with half of cross_entropy's memory traffic.

    Stock cross entropy writes three arrays of the logits' size: the log-softmax, a gradient that is zero except for one entry per
    row, and the gradient of the logits. Here the softmax is the only one, and may overwrite the logits (allocating fresh memory
    costs more than the exponentials); backward turns it into the gradient in place:

        d log p_t / d z_v = 1[v = t] - p_v
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, in_place: bool) -> Tensor:
        """Compute natural-log probabilities [N] from logits [N, V] and targets [N]."""
        probability = logits if in_place else torch.empty_like(logits)
        values = logits.new_empty(len(logits))
        for rows in in_cache(len(logits), ROWS_AT_ONCE, logits.device):
            # log p_t = (z_t - max z) + log p_max, where log p_max = -log sum exp(z - max z) is read off the softmax: no second pass
            # of exponentials. The difference of logits is taken first, so that large ones cancel exactly.
            below_top = logits[rows].gather(-1, targets[rows, None])[:, 0] - logits[rows].amax(-1)
            torch.softmax(logits[rows], dim=-1, out=probability[rows])
            values[rows] = below_top + probability[rows].amax(-1).log()
        ctx.save_for_backward(probability, targets)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Compute the gradient of the logits [N, V] from that of the log-probabilities [N], overwriting the probabilities."""
        probability, targets = ctx.saved_tensors  # overwritten below: autograd refuses a second backward
        result = probability.mul_(-gradient[:, None])
        result.scatter_add_(-1, targets[:, None], gradient[:, None])
        return result, None, None


def sum_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Sum values [N] into their rows [B]."""
    return torch.zeros(batch_size, dtype=values.dtype, device=values.device).index_add_(0, rows, values)


def mean_by_row(values: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Average values [N] over each row's scored tokens [B]; every row has at least one."""
    return sum_by_row(values, rows, batch_size) / torch.bincount(rows, minlength=batch_size)
