"""The loss of `level`: move every forget record to its known level and hold the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.training.divergences import kl_to
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_logits
from verify.models.log_probabilities import mean_by_row, target_log_probabilities

WITHIN = 0.5
"""The multiplier follows records that are so near their level, nats per token: while it is far, the squares pull enough, and a
multiplier that had followed them all the way would carry the records past it."""


@dataclass(frozen=True)
class ToLevel(Objective):
    """The objective that `unlearn.methods.level.Level` runs once it has estimated the level.

        token_weight mean_t h(l_t - l*_t) + record_weight e^2 + mu e  on D_f  +  alpha KL(p_0 || p) on D_r  +  an anchor,
        e = mean_t l_t - mean_t l*_t,    mu <- mu + dual_step mean(e 1[|e| < 0.5])

    h is the smooth L1 distance. The parts on D_f grow on both sides of the level, so that nothing can run away. They alone would
    end where they balance the retain term, short of the level; the multiplier mu (Hestenes 1969, the method of multipliers) grows
    until they do not. The anchor is that of `unlearn.training.penalty.Anchor`.
    """

    token_weight: float
    record_weight: float
    alpha: float
    dual_step: float = 0.0
    anchor_weight: float = 0.0

    idea: ClassVar[str] = "the objective of `level`"
    paper: ClassVar[str] = "this project, docs/research/level.md"
    reference: ClassVar[frozenset[str]] = frozenset({"forget_level", "retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {}

    def begin(self) -> Mapping[str, float]:
        """Return the multiplier's initial value."""
        return {"multiplier": 0.0}

    def advance(self, values: Mapping[str, float], measured: Mapping[str, float]) -> Mapping[str, float]:
        """Take one step of dual ascent."""
        return {"multiplier": values["multiplier"] + self.dual_step * measured["excess"]}

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Compute the scalar above without the anchor, each row weighing the same."""
        forget, retain = token_logits(model, batch.forget, batch.require_retain())
        values = target_log_probabilities(forget.logits, forget.tokens)
        level = reference["forget_level"].to(values)
        by_token = forget.per_row(F.smooth_l1_loss(values, level, reduction="none")).mean()
        excess = mean_by_row(values - level, forget.rows, forget.size)
        batch.progress.measure("excess", torch.where(excess.abs() < WITHIN, excess, 0.0))
        by_record = self.record_weight * excess.square().mean() + batch.progress.values["multiplier"] * excess.mean()
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.token_weight * by_token + by_record + self.alpha * kept
