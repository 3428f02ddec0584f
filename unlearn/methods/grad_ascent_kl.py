"""Ascent on the forget set, while the model's answers on the retain set keep their distribution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.distributions import kl_to
from unlearn.methods.base import Batch, Cost, token_logits
from unlearn.stopping import ForgetLossCeiling, StopRule
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class GradAscentKL:
    """Raise the loss of the forget set, hold the token distributions of the retain set.

        minimise  -gamma l(D_f) + alpha KL(p_0 || p on D_r)

    l is the token-mean negative log-likelihood; KL is a mean over scored tokens, never over prompts or padding. p_0 is the model
    before unlearning: the hidden states in front of its head are kept, and the head as it was turns them into p_0 again. As in TOFU
    (Maini et al. 2024, arXiv 2401.06121, section 4).

    Do not use it where over-forgetting matters: the ascent has no lower bound, and the retain term does not tell it where to stop.

    Attributes:
        gamma: weight of the ascent.
        alpha: weight of the retain term.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V.
    """

    gamma: float = 1.0
    alpha: float = 1.0
    ceiling: float | None = None

    idea: ClassVar[str] = "ascend on the forget set, hold the distributions on the retain set"
    paper: ClassVar[str] = "Maini et al. 2024 (arXiv 2401.06121)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        forget, retain = token_logits(model, batch.forget, batch.retain)
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.alpha * kept - self.gamma * forget.scores().loss.mean()
