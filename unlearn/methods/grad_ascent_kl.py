"""Gradient ascent on the forget set with a KL term that holds the retain set's distributions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_outputs
from unlearn.training.stopping import ForgetLossCeiling, StopRule
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class GradAscentKL(Objective):
    """Raise the loss of the forget set and hold the token distributions of the retain set.

        minimise  -gamma l(D_f) + alpha KL(p_0 || p on D_r)

    l is the token-mean negative log-likelihood; KL is a mean over scored tokens, never over prompts or padding. p_0 is the model
    before unlearning: its last hidden states are cached, and its original head turns them into p_0 again. As in TOFU (Maini et al.
    2024, arXiv 2401.06121, section 4).

    Do not use it where over-forgetting matters: the ascent has no lower bound, and the retain term does not stop it at any level.

    Attributes:
        gamma: weight of the ascent.
        alpha: weight of the retain term.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V.
    """

    gamma: float = 1.0
    alpha: float = 1.0
    ceiling: float | None = None

    idea: ClassVar[str] = "ascend on the forget set, preserve the token distributions on the retain set"
    paper: ClassVar[str] = "Maini et al. 2024 (arXiv 2401.06121)"
    reference: ClassVar[frozenset[str]] = frozenset({"retain_logits"})

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, retain = token_outputs(model, batch.forget, batch.require_retain())
        kept = retain.per_row(retain.kl_to(reference["retain_logits"], reference.get("retain_states"))).mean()
        return self.alpha * kept - self.gamma * forget.per_row(-forget.log_probabilities()).mean()
