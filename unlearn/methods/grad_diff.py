"""Gradient difference: ascend on the forget set while descending on the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.methods.base import Batch, Cost, score_both
from unlearn.stopping import ForgetLossCeiling, StopRule
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class GradDiff:
    """Raise the loss of the forget set, hold that of the retain set.

        minimise  -gamma l(D_f) + alpha l(D_r)

    l is the token-mean negative log-likelihood. Liu et al. 2022 (Continual learning and private unlearning), eq. 3; as in
    TOFU (Maini et al. 2024, arXiv 2401.06121, section 4).

    Do not use it where over-forgetting matters: nothing tells the ascent how far a model that never saw the records would be,
    so the forget loss ends far above that level, which is a trace in itself.

    Attributes:
        gamma: weight of the ascent.
        alpha: weight of the retain term.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V, the loss of a model
            that knows nothing (the objective has no lower bound of its own).
    """

    gamma: float = 1.0
    alpha: float = 1.0
    ceiling: float | None = None

    idea: ClassVar[str] = "ascend on the forget set, descend on the retain set"
    paper: ClassVar[str] = "Liu et al. 2022; Maini et al. 2024 (arXiv 2401.06121)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        forget, retain = score_both(model, batch)
        return self.alpha * retain.loss.mean() - self.gamma * forget.loss.mean()
