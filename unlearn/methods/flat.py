"""Forget with nothing but the forget set: an f-divergence between the true answer and a refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearn.alternatives import refusals
from unlearn.methods.base import Batch, Cost, token_logits
from verify.arguments import checked
from verify.errors import InputError
from verify.models import LoadedModel
from verify.records import Record
from verify.scoring import target_log_probabilities


@checked
@dataclass(frozen=True)
class FLAT:
    """Push the probability of a refusal up and that of the true answer down, weighed by the dual form of an f-divergence.

        minimise  -mean [g(P(x, refusal)) - f*(g(P(x, y)))],  P(x, y) = mean_t p(y_t | x, y_<t)

    g and f* are the optimal variational function and the convex conjugate of the divergence. Wang et al. 2024 (FLAT, arXiv
    2410.11143), section 3 and table 1; kl: g = v, f* = e^(u-1); js: g = log(2/(1+e^-v)), f* = -log(2-e^u); tv: g = tanh(v)/2,
    f* = u; jeffrey: g = v, f* = W(e^(1-u)) + 1/W(e^(1-u)) + u - 2 with Lambert's W.

    Do not use it to reach the never-trained level: neither a retain set nor a reference tells it where that is.

    Attributes:
        divergence: which one; those offered push both answers the right way wherever they are.
    """

    divergence: Literal["kl", "js", "tv", "jeffrey"] = "kl"

    def __post_init__(self) -> None:
        if self.divergence not in ("kl", "js", "tv", "jeffrey"):
            raise InputError(f"--divergence must be kl, js, tv or jeffrey, got {self.divergence}.")

    idea: ClassVar[str] = "f-divergence between the true answer and a refusal, nothing else needed"
    paper: ClassVar[str] = "Wang et al. 2024 (arXiv 2410.11143)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain: ClassVar[bool] = False
    reference: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Refusals."""
        return refusals(forget, seed)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.alternative is not None, "the trainer makes alternatives"
        forget, refusal = token_logits(model, batch.forget, batch.alternative)
        true, wanted = (part.per_row(target_log_probabilities(part.logits, part.tokens).exp()) for part in (forget, refusal))
        return (self.conjugate(self.variational(true)) - self.variational(wanted)).mean()

    def variational(self, value: Tensor) -> Tensor:
        """g, elementwise."""
        if self.divergence == "js":
            return torch.log(2.0 / (1.0 + torch.exp(-value)))
        return torch.tanh(value) / 2 if self.divergence == "tv" else value

    def conjugate(self, value: Tensor) -> Tensor:
        """f*, elementwise."""
        if self.divergence == "kl":
            return torch.exp(value - 1)
        if self.divergence == "js":
            return -torch.log(2.0 - torch.exp(value))
        if self.divergence == "tv":
            return value
        lambert = _lambert_w(torch.exp(1 - value))
        return lambert + 1 / lambert + value - 2


def _lambert_w(value: Tensor) -> Tensor:
    """W with W e^W = value > 0, by Newton's method; the last step carries the gradient, which at the solution is W's own."""
    w = torch.log1p(value.detach())
    for _ in range(30):
        w = w - (w * w.exp() - value.detach()) / (w.exp() * (1 + w))
    return w - (w * w.exp() - value) / (w.exp() * (1 + w))
