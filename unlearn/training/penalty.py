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

RECORDS = 96
"""So many retain records show the curvature; three times as many gave the same results (docs/research/level.md)."""
ROWS_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class Anchor:
    """What leaving the weights as they were would cost the retain set, to second order and weight by weight:

        KL(p_0 || p) ~ 1/2 sum_j F_j (theta_j - theta_0j)^2,   nats per token

    with F the diagonal of the Fisher matrix. Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3. It knows of all the retain set
    in every step, where a step's retain partners are a few records; what two weights do together it does not see.

    Attributes:
        weight: of this term in the loss.
        start: the trained weights as they were, by name.
        fisher: their F, by name; like `start` as large as what is trained.
        tokens: went through the model to estimate it, padding not counted.
    """

    weight: float
    start: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    tokens: int

    @classmethod
    def of(cls, model: Any, windows: Sequence[Encoded], pad_token_id: int, weight: float, seed: int) -> "Anchor":
        """Anchor a model's trained weights at their current values.

        F is estimated with tokens drawn from the model itself. The gradient of their log-likelihood then has mean zero, so the
        square of a batch's summed gradient estimates the sum over its tokens, and no record needs a pass of its own.

        Args:
            model: in evaluation mode.
            windows: of the retain set; `RECORDS` of them are drawn by the seed.
            pad_token_id: any token id.
            weight: of the term in the loss.
            seed: decides the records and the tokens drawn.
        """
        drawn = np.random.default_rng([seed, 7]).permutation(len(windows))[:RECORDS]
        chosen = sorted((windows[int(number)] for number in drawn), key=lambda window: len(window.input_ids))
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        fisher = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in trained.items()}
        device = next(iter(trained.values())).device
        random, scored = torch.Generator(device).manual_seed(seed), 0
        for first in range(0, len(chosen), ROWS_AT_ONCE):
            rows = collate(chosen[first : first + ROWS_AT_ONCE], pad_token_id)
            logits = scored_logits(model, {name: values.to(device) for name, values in rows.items()})[0]
            tokens = torch.multinomial(logits.detach().float().softmax(-1), 1, generator=random)[:, 0]
            scored += len(tokens)
            likelihood = -F.cross_entropy(logits.float(), tokens, reduction="sum")
            slopes = torch.autograd.grad(likelihood, list(trained.values()), allow_unused=True)
            for name, slope in zip(trained, slopes, strict=True):
                if slope is not None:
                    fisher[name] += slope.float().square()
        start = {name: parameter.detach().clone() for name, parameter in trained.items()}
        for values in fisher.values():
            values /= scored
        return cls(weight, start, fisher, sum(len(window.input_ids) for window in chosen))

    def penalty(self, model: nn.Module) -> Tensor:
        """Compute `weight` times the divergence above, a scalar, differentiable in the trained weights.

        Raises:
            InputError: the weights lie in parts on several processes.
        """
        parts = []
        for name, parameter in model.named_parameters():
            name = name.removeprefix("module.")  # of a model that several processes train together
            if name in self.start:
                if isinstance(parameter, DTensor):
                    raise InputError("the anchor of level needs whole weights in every process. Use --anchor-weight 0 with FSDP.")
                moved = (parameter - self.start[name]).float()
                parts.append((self.fisher[name] * moved.square()).sum())
        return 0.5 * self.weight * torch.stack(parts).sum()
