"""Weight penalty: a quadratic pull to the initial weights, stronger where the retain set depends on them (EWC)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from verify.data.encoding import Encoded, collate
from verify.errors import InputError
from verify.models.log_probabilities import scored_logits
from verify.training.arithmetic import Arithmetic, float32_weight

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

    with F the diagonal of the Fisher matrix. Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3. In every step it stands
    for the whole retain set, while a step's retain partners are a few records; it ignores the interaction of weights.

    Attributes:
        weight: of this term in the loss.
        start: initial values of the trained weights, by name; in bfloat16 where that holds them exactly, as it does for a model
            stored in it.
        fisher: diagonal of the Fisher matrix by name, in the shapes of `start`, in bfloat16.
        tokens: tokens that went through the model for the estimate, without padding.
    """

    weight: float
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
            windows: of the retain set; `RECORDS` of them are drawn with the seed.
            pad_token_id: any token id; padding is masked.
            weight: of the term in the loss.
            seed: determines the records and the tokens drawn.
            arithmetic: of the passes.
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
        return cls(weight, start, fisher, sum(len(window.input_ids) for window in chosen))

    def value(self, model: nn.Module) -> Tensor:
        """Compute `weight` times the divergence above, a scalar, differentiable in the trained weights.

        Raises:
            InputError: the weights are sharded over several processes.
        """
        parts = []
        for name, parameter in model.named_parameters():
            name = name.removeprefix("module.")  # the prefix of DistributedDataParallel
            if name in self.start:
                if isinstance(parameter, DTensor):
                    raise InputError(
                        "the weight penalty of level needs whole weights in every process. Use --anchor-weight 0 with FSDP."
                    )
                weight = float32_weight(parameter)
                parts.append(_Pull.apply(weight, self.start[name], self.fisher[name]))  # type: ignore[no-untyped-call]
        return self.weight * torch.stack(parts).sum()


def _compact(values: Tensor) -> Tensor:
    """Copy values in bfloat16 where that loses nothing, else in their own type."""
    half = values.to(torch.bfloat16, copy=True)
    return half if torch.equal(half.to(values.dtype), values) else values.clone()


class _Pull(torch.autograd.Function):
    """Half of sum_j F_j (theta_j - theta_0j)^2 over one tensor, with the gradient F (theta - theta_0), a part at a time.

    Autograd would write and keep three arrays of the weights' size; here one is written, the gradient.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, start: Tensor, fisher: Tensor) -> Tensor:
        """Compute the sum, a scalar."""
        ctx.save_for_backward(weight, start, fisher)
        flat = [part.reshape(-1) for part in (weight, start, fisher)]
        sums = [
            torch.dot((moved := now - before).mul(share), moved)
            for now, before, share in zip(*(torch.split(part, AT_ONCE) for part in flat), strict=True)
        ]
        return 0.5 * torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Compute the gradient of the weights."""
        weight, start, fisher = ctx.saved_tensors
        return torch.sub(weight, start).mul_(fisher).mul_(gradient), None, None
