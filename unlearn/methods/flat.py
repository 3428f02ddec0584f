"""FLAT: loss adjustment by an f-divergence between refusal and true answer, from the forget set alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearn.methods._alternatives import refusals
from unlearn.training.divergences import lambert_w
from unlearn.training.method import Batch, Cost, Objective
from unlearn.training.scored_batch import token_logits
from verify.data.records import Record
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import target_log_probabilities


@checked
@dataclass(frozen=True)
class FLAT(Objective):
    """Raise the probability of a refusal and lower that of the true answer, weighted by an f-divergence's dual form.

        minimise  -mean [g(P(x, refusal)) - f*(g(P(x, y)))],  P(x, y) = mean_t p(y_t | x, y_<t)

    g and f* are the optimal variational function and the convex conjugate of the divergence. Wang et al. 2024 (FLAT, arXiv
    2410.11143), section 3 and table 1; kl: g = v, f* = e^(u-1); js: g = log(2/(1+e^-v)), f* = -log(2-e^u); tv: g = tanh(v)/2,
    f* = u; jeffrey: g = v, f* = W(e^(1-u)) + 1/W(e^(1-u)) + u - 2 with Lambert's W.

    Do not use it to reach the never-trained level: with neither a retain set nor a reference it has no information where that is.

    Attributes:
        divergence: name of the divergence; with each of these the loss moves both answers in the right direction at any P.
    """

    divergence: Literal["kl", "js", "tv", "jeffrey"] = "kl"

    idea: ClassVar[str] = "f-divergence between the true answer and a refusal, without retain set or reference"
    paper: ClassVar[str] = "Wang et al. 2024 (arXiv 2410.11143)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain = False

    def __post_init__(self) -> None:
        if self.divergence not in ("kl", "js", "tv", "jeffrey"):
            raise InputError(f"--divergence must be kl, js, tv or jeffrey, got {self.divergence}. Leave it out for kl.")

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Draw a refusal for every forget record."""
        return refusals(forget, seed)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, refusal = token_logits(model, batch.forget, batch.require_alternative())
        # P of every row [B], in (0, 1): the mean probability of its scored tokens.
        true, wanted = (part.per_row(target_log_probabilities(part.logits, part.tokens).exp()) for part in (forget, refusal))
        return (self.conjugate(self.variational(true)) - self.variational(wanted)).mean()

    def variational(self, value: Tensor) -> Tensor:
        """Apply the optimal variational function g elementwise."""
        if self.divergence == "js":
            return torch.log(2.0 / (1.0 + torch.exp(-value)))
        return torch.tanh(value) / 2 if self.divergence == "tv" else value

    def conjugate(self, value: Tensor) -> Tensor:
        """Apply the convex conjugate f* elementwise."""
        if self.divergence == "kl":
            return torch.exp(value - 1)
        if self.divergence == "js":
            return -torch.log(2.0 - torch.exp(value))
        if self.divergence == "tv":
            return value
        lambert = lambert_w(torch.exp(1 - value))
        return lambert + 1 / lambert + value - 2
