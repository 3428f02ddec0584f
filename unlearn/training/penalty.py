"""Weight penalty: a quadratic pull to the initial weights, stronger where the retain set depends on them (EWC)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.data.encoding import Encoded, collate
from verify.models.log_probabilities import scored_logits
from verify.training.arithmetic import Arithmetic

RECORDS = 96
"""Retain records that the curvature is estimated on; three times as many gave the same results (docs/research/level.md)."""
ROWS_AT_ONCE = 4
"""Records of one backward pass."""
AT_ONCE = 1 << 18
"""Weights whose penalty is summed at a time, few enough for a processor's cache."""


@dataclass(frozen=True, eq=False)
class WeightPenalty:
    """Quadratic penalty on moving the weights, an estimate of the divergence that this causes on the retain set:

        KL(p_0 || p) ~ 1/2 sum_j F_j (theta_j - theta_0j)^2,   nats per token

    with F the diagonal of the Fisher matrix. Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3. In every step it represents
    the whole retain set, while a step's retain partners are a few records; it ignores the interaction of weights.

    Attributes:
        weight: weight of this term in the loss.
        trained: the weights that are held, by name.
        start: initial values of the trained weights, by name; in bfloat16 where that holds them exactly, as it does for a model
            stored in it.
        fisher: diagonal of the Fisher matrix by name, in the shapes of `start`, in bfloat16.
        tokens: tokens that went through the model for the estimate, without padding.
    """

    weight: float
    trained: Mapping[str, nn.Parameter]
    start: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    tokens: int

    @classmethod
    def of(
        cls, model: Any, windows: Sequence[Encoded], pad_token_id: int, weight: float, seed: int, arithmetic: Arithmetic
    ) -> "WeightPenalty":
        """Build the penalty around a model's current weights.

        F is estimated with tokens drawn from the model itself. The gradient of their log-likelihood has mean zero, so the square of
        a batch's summed gradient estimates the sum of squares over its tokens, and records can share a backward pass.

        Args:
            model: in evaluation mode.
            windows: windows of the retain set; `RECORDS` of them are drawn with the seed.
            pad_token_id: any token id; padding is masked.
            weight: weight of the term in the loss.
            seed: determines the records and the tokens drawn.
            arithmetic: arithmetic of the passes.
        """
        drawn = np.random.default_rng([seed, 7]).permutation(len(windows))[:RECORDS]
        # Sorted by length, so that a batch has little padding.
        chosen = sorted((windows[int(number)] for number in drawn), key=lambda window: len(window.input_ids))
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        fisher = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in trained.items()}
        device = next(iter(trained.values())).device
        random, scored = torch.Generator(device).manual_seed(seed), 0
        for first in range(0, len(chosen), ROWS_AT_ONCE):
            rows = collate(chosen[first : first + ROWS_AT_ONCE], pad_token_id)
            with arithmetic.of(model):
                logits = scored_logits(model, {name: values.to(device) for name, values in rows.items()})[0]  # [N, V]
                tokens = torch.multinomial(logits.detach().float().softmax(-1), 1, generator=random)[:, 0]  # [N]
                likelihood = -F.cross_entropy(logits.float(), tokens, reduction="sum")
                slopes = torch.autograd.grad(likelihood, list(trained.values()), allow_unused=True)
            scored += len(tokens)
            for name, slope in zip(trained, slopes, strict=True):
                if slope is not None:
                    fisher[name] += slope.float().square()
        start = {name: _compact(parameter.detach()) for name, parameter in trained.items()}
        # An estimate from a hundred records is no worse for 8 significant bits.
        for name in fisher:
            fisher[name] = fisher[name].div_(scored).to(torch.bfloat16)
        return cls(weight, trained, start, fisher, sum(len(window.input_ids) for window in chosen))

    @torch.no_grad()
    def value(self, model: nn.Module) -> Tensor:
        """Compute `weight` times the divergence above for a model with these weights by name, a scalar."""
        named = dict(model.named_parameters())
        return self._pass_over({name: named[name] for name in self.start}, with_gradient=False)

    @torch.no_grad()
    def pull(self) -> Tensor:
        """Add the penalty's gradient to the gradients of the trained weights, in place, and return its value.

        Autograd would write an array of the weights' size and pass over memory four times more.
        """
        return self._pass_over(self.trained, with_gradient=True)

    def _pass_over(self, weights: Mapping[str, nn.Parameter], *, with_gradient: bool) -> Tensor:
        """Compute the value and, if wanted, add the gradient weight F (theta - theta_0), a part of the weights at a time."""
        products = []
        for piece in _pieces(self._arrays(weights, with_gradient)):
            columns = list(zip(*piece, strict=True))
            now, before, share = (_joined(column) for column in columns[:3])  # [n]
            moved = now - before
            pull = moved * share
            products.append(torch.dot(pull, moved))
            if with_gradient:
                slopes = torch.split(pull.mul_(self.weight), [gradient.numel() for gradient in columns[3]])
                added = [slope.view(gradient.shape) for slope, gradient in zip(slopes, columns[3], strict=True)]
                torch._foreach_add_(list(columns[3]), added)
        return 0.5 * self.weight * torch.stack(products).sum()

    def _arrays(self, weights: Mapping[str, nn.Parameter], with_gradient: bool) -> Iterator[list[Tensor]]:
        """Yield of every weight: its value now, before and its share of F, and its gradient if wanted."""
        for name, parameter in weights.items():
            arrays = [parameter.detach(), self.start[name], self.fisher[name]]
            if with_gradient:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                arrays.append(parameter.grad)
            yield arrays


def _pieces(rows: Iterable[Sequence[Tensor]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Split arrays of one weight each, all alike in shape, into parts, and collect parts of at most `AT_ONCE` values together.

    Small models and adapters have hundreds of small weights, and each operation costs as much as its start.
    """
    collected: list[tuple[Tensor, ...]] = []
    size = 0
    for arrays in rows:
        for part in zip(*map(_parts, arrays), strict=True):
            if collected and size + part[0].numel() > AT_ONCE:
                yield collected
                collected, size = [], 0
            collected.append(part)
            size += part[0].numel()
    if collected:
        yield collected


def _parts(values: Tensor) -> Sequence[Tensor]:
    """Split an array into views of at most `AT_ONCE` values [n]; one that has no flat view stays whole."""
    if values.numel() <= AT_ONCE or not values.is_contiguous():
        return (values,)
    return torch.split(values.view(-1), AT_ONCE)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join parts to one flat array [n]; the widest type holds all of them."""
    return torch.cat([part.reshape(-1) for part in parts]) if len(parts) > 1 else parts[0].reshape(-1)


def _compact(values: Tensor) -> Tensor:
    """Copy values in bfloat16 where that loses nothing, else in their own type."""
    half = values.to(torch.bfloat16, copy=True)
    return half if torch.equal(half.to(values.dtype), values) else values.clone()
