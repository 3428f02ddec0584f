"""SCRUB: alternate between leaving the former distributions on the forget set and keeping them on the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.divergences import kl_to
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_logits
from unlearn.training.stopping import ForgetLossCeiling, StopRule
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class SCRUB(Objective):
    """Alternate optimizer steps: away from the teacher on the forget set, towards it on the retain set.

        loss = -KL(p_0 || p on D_f)  and  loss = alpha KL(p_0 || p on D_r) + gamma l(D_r),  in alternate steps

    The maximizing steps end after `ascent_epochs`; the rest of the run repairs the model. Kurmanji et al. 2023 (arXiv 2302.09880),
    section 3, who alternate by epochs; here by optimizer steps, so that accumulation and batch size do not decide which comes last.

    Do not use it for few steps: it needs the repair after the ascent.

    Attributes:
        alpha: weight of the KL term on the retain set.
        gamma: weight of the loss on the retain set.
        ascent_epochs: number of epochs with maximizing steps.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V.
    """

    alpha: float = 0.001
    gamma: float = 0.99
    ascent_epochs: int = 5
    ceiling: float | None = None

    idea: ClassVar[str] = "alternately leave the teacher on the forget set and follow it on the retain set"
    paper: ClassVar[str] = "Kurmanji et al. 2023 (arXiv 2302.09880)"
    reference: ClassVar[frozenset[str]] = frozenset({"forget_logits", "retain_logits"})

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of this step's kind, a scalar; every row has the same weight."""
        if batch.progress.step % 2 == 0 and batch.progress.epoch < self.ascent_epochs:
            (forget,) = token_logits(model, batch.forget)
            return -forget.per_row(kl_to(forget.logits, reference["forget_logits"])).mean()
        (retain,) = token_logits(model, batch.require_retain())
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.alpha * kept + self.gamma * retain.scores().loss.mean()
