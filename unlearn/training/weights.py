"""Arithmetic on all weights of a model, and the search for the strength of a weight edit."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearn.training.lora import gradient_flags, put_gradient_flags
from unlearn.training.method import Context
from verify.data.encoding import Encoder, collate, padding_token_id
from verify.data.records import Record
from verify.errors import InputError
from verify.io.progress import phase
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import scored_log_probabilities
from verify.models.token_stats import compute_token_statistics
from verify.training.adapters import unfreeze_adapter

Weights = dict[str, Tensor]


@contextlib.contextmanager
def edited_parameters(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Yield the parameters that an edit may change, by name, with gradients enabled within this block.

    A model with an adapter has only the adapter's edited: the base below it is not saved, so a change of it would be lost.
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
    """Copy all parameters that an edit may change, by name."""
    with edited_parameters(model) as edited:
        return {name: parameter.detach().clone() for name, parameter in edited.items()}


@torch.no_grad()
def assign(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy these weights into the parameters of the same names."""
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)


def sample(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Draw at most `count` records with the seed, and return them in their original order."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    return [records[index] for index in sorted(chosen)]


def mean_loss(loaded: LoadedModel, records: Sequence[Record]) -> float:
    """Compute the mean over records of their loss, nats per token."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    statistics = compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer))
    return float(np.mean([entry.loss for entry in statistics]))


def diagonal_fisher(loaded: LoadedModel, records: Sequence[Record]) -> Weights:
    """Compute the diagonal of the empirical Fisher matrix: mean squared gradient of the records' mean log-likelihoods.

    One backward pass per window, in evaluation mode; the result has the shapes of the weights that an edit may change.
    """
    model, pad = loaded.model, padding_token_id(loaded.tokenizer)
    device = next(model.parameters()).device
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    with edited_parameters(model) as edited, phase("reading the gradients") as done:
        total = {name: torch.zeros_like(parameter) for name, parameter in edited.items()}
        for number, window in enumerate(windows):
            done(number / len(windows))
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
    """Search for the strength that forgets most while the control metric stays within its tolerance.

    The control metric is the geometric-mean probability of retain tokens. If a holdout set is given, a forget loss above the
    holdout's counts as equal to it, so that the search does not over-forget.

    Attributes:
        tolerance: share of the control metric that may be lost.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
    """

    tolerance: float
    control_records: int

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InputError(f"--tolerance must lie between 0 and 1, got {self.tolerance}.")

    def run(self, context: Context, strengths: Sequence[float], apply: Callable[[float], None]) -> dict[str, Any]:
        """Evaluate every strength, leave the best in the model (0 if none is allowed), and return the whole curve.

        Args:
            context: the model and the records.
            strengths: candidates, in increasing order; of equal ones the weakest is taken.
            apply: applies the edit with a strength to the original weights; 0 restores them.
        """
        loaded = context.loaded
        control = sample(context.retain, self.control_records, context.options.seed)
        control_before, forget_before = mean_loss(loaded, control), mean_loss(loaded, context.forget)
        level = mean_loss(loaded, context.holdout) if context.holdout else np.inf
        # Losses are negative log-probabilities: exp(-loss) may fall to (1 - tolerance) of its value before.
        allowed = control_before - np.log1p(-self.tolerance)
        best, most, curve = 0.0, min(forget_before, level), []
        with phase("searching the strength") as done:
            for number, strength in enumerate(strengths):
                done(number / len(strengths))
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

    def run_along(self, context: Context, strengths: Sequence[float], original: Weights, change: Weights) -> dict[str, Any]:
        """Run the search along one direction, theta = original + strength * change, in the model of the context."""

        def apply(strength: float) -> None:
            moved = {name: original[name] + strength * step for name, step in change.items()}
            assign(context.loaded.model, moved)

        return self.run(context, strengths, apply)

    def gain(self, context: Context, allowed: float) -> float:
        """Return the current forget loss, capped at the holdout's level; minus infinity beyond the allowed control loss."""
        control = sample(context.retain, self.control_records, context.options.seed)
        if mean_loss(context.loaded, control) > allowed:
            return -np.inf
        level = mean_loss(context.loaded, context.holdout) if context.holdout else np.inf
        return min(mean_loss(context.loaded, context.forget), level)


def saliency_mask(loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], share: float) -> dict[str, Tensor]:
    """Mark the share of elements that matter most to the forget set against the retain set, by the ratio of squared gradients.

    As in SalUn (Fan et al. 2024, arXiv 2310.12508), over all tensors together.
    """
    wanted, kept = diagonal_fisher(loaded, forget), diagonal_fisher(loaded, retain)
    ratio = {name: wanted[name] / (kept[name] + torch.finfo(kept[name].dtype).tiny) for name in wanted}
    everything = torch.cat([values.reshape(-1) for values in ratio.values()])
    cut = kth_largest(everything, int(share * len(everything)))
    return {name: values >= cut for name, values in ratio.items()}


def kth_largest(values: Tensor, count: int) -> Tensor:
    """Return the element with `count` elements at least as large, itself included; `count` is raised to 1.

    By `kthvalue`, since `torch.quantile` takes at most 16 million elements.
    """
    flat = values.reshape(-1)
    return flat.kthvalue(len(flat) - max(1, count) + 1).values


def require_scales(scales: Sequence[float]) -> None:
    """Raise InputError unless the candidates are positive and in increasing order."""
    if not scales or any(scale <= 0 for scale in scales) or list(scales) != sorted(scales):
        raise InputError(f"--scales must be positive numbers in increasing order, got {tuple(scales)}.")
