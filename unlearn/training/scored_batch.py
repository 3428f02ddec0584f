"""Scores of a batch from one forward pass, with the head applied to scored tokens only.

Shapes: B rows of a batch, L length, N scored tokens of a batch in row-major order, V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.training.divergences import kl_reduction, kl_reduction_of_change, kl_to
from unlearn.training.method import Batch, Rows
from verify.models.head_values import head_values, log_probability_of
from verify.models.log_probabilities import (
    mean_by_row,
    scored_log_probabilities_and_tokens,
    scored_logits,
    scored_states,
    sum_by_row,
    target_log_probabilities,
)
from verify.training.rounding import HALF


@dataclass(eq=False)
class Held:
    """Rows whose outputs are constants within a `with held(...)` block, and what computed outputs there.

    Attributes:
        parts: the sets of rows, by identity.
        used: whether a function of this file has run.
        elsewhere: whether anything else ran the model with a gradient; on which rows, nobody knows.
    """

    parts: Sequence[Rows] = ()
    used: bool = False
    elsewhere: bool = False
    _reading: bool = False

    def has(self, part: Rows) -> bool:
        """Return whether these rows are held."""
        return any(part is one for one in self.parts)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Mark passes of this file within a `with` block."""
        self.used = self._reading = True
        try:
            yield
        finally:
            self._reading = False

    def notice(self, *_: Any) -> None:
        """Take note of a pass; called wherever the model embeds tokens, which every pass does, also one through a part of it."""
        self.elsewhere |= torch.is_grad_enabled() and not self._reading


_HELD: ContextVar[Held | None] = ContextVar("held", default=None)


@contextlib.contextmanager
def held(model: Any, *parts: Rows) -> Iterator[Held]:
    """Treat a model's outputs on these rows as constants within a `with` block: they have no gradient."""
    now = Held(parts)
    token, watch = _HELD.set(now), model.get_input_embeddings().register_forward_hook(now.notice)
    try:
        yield now
    finally:
        watch.remove()
        _HELD.reset(token)


@dataclass(frozen=True, eq=False)
class SequenceScores:
    """Per-row scores of one pass over a batch.

    Attributes:
        loss: mean negative log-likelihood of the scored tokens, nats per token [B].
        log_probability: summed log-probability of the scored tokens, nats [B].
    """

    loss: Tensor
    log_probability: Tensor


@dataclass(frozen=True, eq=False)
class TokenLogits:
    """Logits at the scored tokens of one part of a batch.

    Attributes:
        logits: [N, V].
        tokens: the scored token ids [N].
        rows: the row of each token [N].
        size: number of rows B.
    """

    logits: Tensor
    tokens: Tensor
    rows: Tensor
    size: int

    def per_row(self, values: Tensor) -> Tensor:
        """Average values [N] over each row's tokens [B]."""
        return mean_by_row(values, self.rows, self.size)

    def scores(self) -> SequenceScores:
        """Compute loss and log-probability of each row."""
        values = target_log_probabilities(self.logits, self.tokens)
        return SequenceScores(self.per_row(-values), sum_by_row(values, self.rows, self.size))


@dataclass(frozen=True, eq=False)
class TokenOutputs:
    """What a pass gives for the scored tokens of one part of a batch: logits, or hidden states that the head is yet to read.

    Attributes:
        given: logits [N, V] where `head` is None, else hidden states [N, D].
        head: the head's weight [V, D], or None.
        tokens: the scored token ids [N].
        rows: the row of each token [N].
        size: number of rows B.
    """

    given: Tensor
    head: Tensor | None
    tokens: Tensor
    rows: Tensor
    size: int

    def log_probabilities(self) -> Tensor:
        """Compute the log-probability of every token [N]."""
        if self.head is None:
            return target_log_probabilities(self.given, self.tokens)
        return head_values(self.given, self.head, log_probability_of(self.tokens))

    def kl_to(self, target_logits: Tensor, target_states: Tensor | None = None) -> Tensor:
        """Compute KL(q || p) of every token [N], for a constant q = softmax(target_logits [N, V]) and the model's p.

        Args:
            target_logits: logits of q [N, V].
            target_states: hidden states that the same head turned into them [N, D], if they are known. The change of the logits is
                then computed from that of the states, where rounding would hide a small one.
        """
        if self.head is None:
            return kl_to(self.given, target_logits)
        if target_states is not None and self.head.dtype in HALF and not self.head.requires_grad:
            return head_values(self.given - target_states.to(self.given), self.head, kl_reduction_of_change(target_logits))
        return head_values(self.given, self.head, kl_reduction(target_logits))

    def per_row(self, values: Tensor) -> Tensor:
        """Average values [N] over each row's tokens [B]."""
        return mean_by_row(values, self.rows, self.size)


def score_forget(model: nn.Module, batch: Batch) -> SequenceScores:
    """Score the forget rows in one pass."""
    return score(model, batch.forget)[0]


def score_both(model: nn.Module, batch: Batch) -> tuple[SequenceScores, SequenceScores]:
    """Score forget and retain rows in one pass: one launch of every layer instead of two."""
    forget, retain = score(model, batch.forget, batch.require_retain())
    return forget, retain


def score(model: nn.Module, *parts: Rows) -> list[SequenceScores]:
    """Score several sets of rows in one pass; return the scores of each."""
    values, _, rows = one_pass(model, parts, scored_log_probabilities_and_tokens)
    return [
        SequenceScores(mean_by_row(-values[tokens], own, size), sum_by_row(values[tokens], own, size))
        for tokens, own, size in split_parts(rows, parts)
    ]


def score_tokens(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, SequenceScores]:
    """Score forget rows token by token and retain rows as a whole, in one pass.

    Returns:
        log-probability of every scored forget token [N], the row of each [N], and the scores of the retain rows.
    """
    parts = [batch.forget, batch.require_retain()]
    values, _, rows = one_pass(model, parts, scored_log_probabilities_and_tokens)
    (forget, forget_rows, _), (retain, retain_rows, size) = split_parts(rows, parts)
    kept = values[retain]  # the slice of the retain tokens
    scores = SequenceScores(mean_by_row(-kept, retain_rows, size), sum_by_row(kept, retain_rows, size))
    return values[forget], forget_rows, scores


def token_logits(model: nn.Module, *parts: Rows) -> list[TokenLogits]:
    """Compute the logits at the scored tokens of several sets of rows in one pass."""
    logits, tokens, rows = one_pass(model, parts, scored_logits)
    found = split_parts(rows, parts)
    # The backward pass of a split concatenates the gradients once; that of each slice would allocate an array of the full size.
    split = torch.split(logits, [part.stop - part.start for part, _, _ in found])
    return [TokenLogits(values, tokens[part], own, size) for values, (part, own, size) in zip(split, found, strict=True)]


def token_outputs(model: nn.Module, *parts: Rows) -> list[TokenOutputs]:
    """Compute the outputs at the scored tokens of several sets of rows in one pass; logits only where the head needs them whole."""
    head: Tensor | None = None

    def read(model: nn.Module, stacked: Rows) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal head
        states = scored_states(model, stacked)
        if states is None:
            return scored_logits(model, stacked)
        hidden, head, rows = states
        return hidden, stacked["input_ids"][stacked["scored"]], rows

    given, tokens, rows = one_pass(model, parts, read)
    found = split_parts(rows, parts)
    split = torch.split(given, [part.stop - part.start for part, _, _ in found])
    return [TokenOutputs(values, head, tokens[part], own, size) for values, (part, own, size) in zip(split, found, strict=True)]


def one_pass(model: nn.Module, parts: Sequence[Rows], read: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `read(model, rows)` (values, tokens, rows) to all parts as one padded batch, so that every layer runs once.

    Shorter parts are padded with masked zeros. `split_parts` separates the results.

    Args:
        model: a causal language model.
        parts: sets of rows, each tensor [B, L] with a B and L of its own.
        read: one of the scoring functions of `verify.models.log_probabilities`.

    Returns:
        values [N] or [N, V], token ids [N], and the rows of the stacked batch [N], of all parts one after another.
    """
    now = _HELD.get()
    if now is None:
        return _stacked(model, parts, read)
    with now.reading():
        return _in_turn(model, parts, read, now) if any(now.has(part) for part in parts) else _stacked(model, parts, read)


def _stacked(model: nn.Module, parts: Sequence[Rows], read: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `read` to all parts as one padded batch; see `one_pass`."""
    length = max(part["input_ids"].shape[1] for part in parts)
    # [sum of the parts' B, length]; padding on the right changes no position, and its attention mask is 0.
    stacked = {name: torch.cat([F.pad(part[name], (0, length - part[name].shape[1])) for part in parts]) for name in parts[0]}
    values, tokens, rows = read(model, stacked)
    return values, tokens, rows


def _in_turn(model: nn.Module, parts: Sequence[Rows], read: Any, now: Held) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `read` to one part after the other, without a gradient to those that are held; results as of `one_pass`."""
    found, before = [], 0  # rows before the current part
    for part in parts:
        with torch.no_grad() if now.has(part) else contextlib.nullcontext():
            values, tokens, rows = read(model, part)
        found.append((values, tokens, rows + before))
        before += len(part["input_ids"])
    values, tokens, rows = (torch.cat(column) for column in zip(*found, strict=True))
    return values, tokens, rows


def split_parts(rows: Tensor, parts: Sequence[Rows]) -> list[tuple[slice, Tensor, int]]:
    """Return each part's contiguous slice of the N tokens, their rows within the part, and its number of rows.

    Tokens are in row-major order and parts are stacked by rows, so that each part's tokens are contiguous.
    """
    found, first, begin = [], 0, 0  # rows and tokens before the current part
    for part in parts:
        size = len(part["input_ids"])
        count = int(part["scored"].sum())
        found.append((slice(begin, begin + count), rows[begin : begin + count] - first, size))
        first, begin = first + size, begin + count
    return found
