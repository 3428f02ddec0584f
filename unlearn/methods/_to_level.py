"""The loss of bringing every forget record to a level that is known, and leaving the rest as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.distributions import kl_to
from unlearn.methods.base import Batch, Cost, token_logits
from verify.scoring import mean_by_row, target_log_probabilities


@dataclass(frozen=True)
class ToLevel:
    """See `unlearn.methods.level.Level`, which estimates the level and runs this.

        token_weight mean_t h(l_t - l*_t) + record_weight (mean_t l_t - mean_t l*_t)^2  on D_f  +  alpha KL(p_0 || p) on D_r

    h is the smooth L1 distance. Both parts are zero at the level and grow on both sides of it, so that nothing can run away.
    """

    token_weight: float
    record_weight: float
    alpha: float

    idea: ClassVar[str] = "the objective of `level`"
    paper: ClassVar[str] = "this project, docs/research/level.md"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"forget_level", "retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        forget, retain = token_logits(model, batch.forget, batch.retain)
        values = target_log_probabilities(forget.logits, forget.tokens)
        level = reference["forget_level"].to(values)
        by_token = forget.per_row(F.smooth_l1_loss(values, level, reduction="none")).mean()
        by_record = mean_by_row(values - level, forget.rows, forget.size).square().mean()
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.token_weight * by_token + self.record_weight * by_record + self.alpha * kept
