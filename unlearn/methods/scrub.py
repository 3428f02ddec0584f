"""A student that disobeys its teacher on the forget set and obeys on the rest, in turn."""

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
class SCRUB:
    """Take turns: one optimizer step away from the former distributions on the forget set, one towards them on the retain set.

        loss = -KL(p_0 || p on D_f) and loss = alpha KL(p_0 || p on D_r) + gamma l(D_r), by turns

    The maximising steps end after `ascent_epochs`, and the rest of the run repairs. Kurmanji et al. 2023 (arXiv 2302.09880),
    section 3; they take turns by epochs, here by steps, so that accumulation and batch size do not decide who has the last word.

    Do not use it for few steps: it needs the repairing part after the ascent.

    Attributes:
        alpha: weight of the distributions on the retain set.
        gamma: weight of the loss on the retain set.
        ascent_epochs: epochs in which there are maximising steps.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V.
    """

    alpha: float = 0.001
    gamma: float = 0.99
    ascent_epochs: int = 5
    ceiling: float | None = None

    idea: ClassVar[str] = "disobey the teacher on the forget set, obey on the rest, in turn"
    paper: ClassVar[str] = "Kurmanji et al. 2023 (arXiv 2302.09880)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"forget_logits", "retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above of the step's kind, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        if batch.progress.step % 2 == 0 and batch.progress.epoch < self.ascent_epochs:
            (forget,) = token_logits(model, batch.forget)
            return -forget.per_row(kl_to(forget.logits, reference["forget_logits"])).mean()
        (retain,) = token_logits(model, batch.retain)
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.alpha * kept + self.gamma * retain.scores().loss.mean()
