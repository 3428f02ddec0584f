"""Arithmetic on whole sets of weights, and the search for how far to go that every edit ends with."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearn.adapters import gradient_flags, put_gradient_flags, unfreeze_adapter
from unlearn.methods.base import Context
from verify.adapter_types import is_adapter
from verify.encoding import Encoder, collate, padding_token_id
from verify.errors import InputError
from verify.models import LoadedModel
from verify.records import Record
from verify.scoring import scored_log_probabilities
from verify.token_stats import compute_token_statistics

Weights = dict[str, Tensor]


@contextlib.contextmanager
def edited_parameters(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """What an edit may change, by name, and within this block whatever asks for gradients: all parameters, or the adapter's.

    The base below an adapter is not saved with it, so that a change of the base would be lost.
    """
    flags = gradient_flags(model)
    if is_adapter(model):
        unfreeze_adapter(model)
    else:
        model.requires_grad_(True)
    try:
        yield {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    finally:
        put_gradient_flags(model, flags)


def copy_weights(model: nn.Module) -> Weights:
    """A copy, by name, of all parameters that an edit may change."""
    with edited_parameters(model) as edited:
        return {name: parameter.detach().clone() for name, parameter in edited.items()}


@torch.no_grad()
def assign(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write these parameters back."""
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)


def sample(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """At most `count` records, drawn by the seed, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    return [records[index] for index in sorted(chosen)]


def mean_loss(loaded: LoadedModel, records: Sequence[Record]) -> float:
    """Mean over records of their loss in nats per token."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    statistics = compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer))
    return float(np.mean([entry.loss for entry in statistics]))


def diagonal_fisher(loaded: LoadedModel, records: Sequence[Record]) -> Weights:
    """Mean over records of the squared gradient of their mean log-likelihood: the diagonal of the empirical Fisher matrix.

    One backward pass per record, in evaluation mode; the result is as large as the weights that an edit may change.
    """
    model, pad = loaded.model, padding_token_id(loaded.tokenizer)
    device = next(model.parameters()).device
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    with edited_parameters(model) as edited:
        total = {name: torch.zeros_like(parameter) for name, parameter in edited.items()}
        for window in windows:
            batch = {name: values.to(device) for name, values in collate([window], pad).items()}
            model.zero_grad()
            scored_log_probabilities(model, batch)[0].mean().backward()  # type: ignore[no-untyped-call]
            for name, parameter in edited.items():
                if parameter.grad is not None:
                    total[name].addcmul_(parameter.grad, parameter.grad)
        model.zero_grad()
    return {name: value / len(windows) for name, value in total.items()}


@dataclass(frozen=True)
class Search:
    """Of several strengths, the one that forgets most while the control metric keeps within its tolerance.

    The control metric is the geometric-mean probability of retain tokens. Where a holdout set is given, forgetting beyond its loss
    does not count, so that the search does not over-forget.

    Attributes:
        tolerance: share of the control metric that may be lost.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    tolerance: float
    control_records: int

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InputError(f"--tolerance must lie between 0 and 1, got {self.tolerance}.")

    def run(self, context: Context, strengths: Sequence[float], apply: Callable[[float], None]) -> dict[str, Any]:
        """Try every strength, leave the best in the model (0 where none is allowed), and report the whole curve.

        Args:
            context: the model and the records.
            strengths: candidates, the weakest first.
            apply: puts the edit of a strength into the model, always from the original weights; 0 restores them.
        """
        loaded = context.loaded
        control = sample(context.retain, self.control_records, context.options.seed)
        control_before, forget_before = mean_loss(loaded, control), mean_loss(loaded, context.forget)
        level = mean_loss(loaded, context.holdout) if context.holdout else np.inf
        allowed = control_before - np.log1p(-self.tolerance)
        best, most, curve = 0.0, min(forget_before, level), []
        for strength in strengths:
            apply(strength)
            forget, kept = mean_loss(loaded, context.forget), mean_loss(loaded, control)
            curve.append({"scale": strength, "forget_loss": forget, "control_loss": kept})
            if kept <= allowed and min(forget, level) > most:
                best, most = strength, min(forget, level)
        apply(best)
        return {
            "scale": best,
            "control_loss_before": control_before,
            "control_loss_allowed": float(allowed),
            "forget_loss_before": forget_before,
            "search": curve,
        }

    def gain(self, context: Context, allowed: float) -> float:
        """The forget loss of the model as it is, at most the holdout's level; minus infinity beyond the allowed control loss."""
        control = sample(context.retain, self.control_records, context.options.seed)
        if mean_loss(context.loaded, control) > allowed:
            return -np.inf
        level = mean_loss(context.loaded, context.holdout) if context.holdout else np.inf
        return min(mean_loss(context.loaded, context.forget), level)


def require_scales(scales: Sequence[float]) -> None:
    """Raise InputError unless the candidates are positive and in increasing order."""
    if not scales or any(scale <= 0 for scale in scales) or list(scales) != sorted(scales):
        raise InputError(f"--scales must be positive numbers in increasing order, got {tuple(scales)}.")
