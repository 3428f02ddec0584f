"""Gradient difference: ascend on the forget set while descending on the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import score_both
from unlearn.training.stopping import ForgetLossCeiling, StopRule
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class GradDiff(Objective):
    """Raise the loss of the forget set and hold that of the retain set.

        minimise  -gamma l(D_f) + alpha l(D_r)

    l is the token-mean negative log-likelihood. Liu et al. 2022 (Continual learning and private unlearning), eq. 3; as in
    TOFU (Maini et al. 2024, arXiv 2401.06121, section 4).

    Do not use it where over-forgetting matters: the ascent has no information about the loss of a model that never saw the
    records, so the forget loss ends far above that level, which is a trace in itself.

    Attributes:
        gamma: weight of the ascent.
        alpha: weight of the retain term.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V, the loss of a uniform
            prediction (the objective has no lower bound of its own).
    """

    gamma: float = 1.0
    alpha: float = 1.0
    ceiling: float | None = None

    idea: ClassVar[str] = "ascend on the forget set, descend on the retain set"
    paper: ClassVar[str] = "Liu et al. 2022; Maini et al. 2024 (arXiv 2401.06121)"

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, retain = score_both(model, batch)
        return self.alpha * retain.loss.mean() - self.gamma * forget.loss.mean()
