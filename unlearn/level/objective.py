"""The objective of `level`: move every forget record to its estimated level and hold the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_outputs
from verify.models.log_probabilities import mean_by_row

WITHIN = 0.5
"""The multiplier counts only records this close to their level, nats per token. Further away the squared distance pulls enough,
and a multiplier that had grown all the way would carry the records past their level."""


@dataclass(frozen=True)
class ToLevel(Objective):
    """The objective that `unlearn.methods.level.Level` runs once it has estimated the level.

        token_weight mean_t h(l_t - l*_t) + record_weight e^2 + mu e  on D_f  +  alpha KL(p_0 || p) on D_r  +  weight penalty,
        e = mean_t l_t - mean_t l*_t,    mu <- mu + dual_step mean(e 1[|e| < 0.5])

    l_t, l*_t: log-probability of a record's token t now and at its level; h: smooth L1 distance; e: a record's distance from its
    level, positive where it is still too well known; mu: multiplier; p, p_0: token distributions now and before unlearning.

    The terms on D_f grow on both sides of the level, so the loss is bounded below. By themselves they would come to rest where they
    balance the retain term, short of the level; the multiplier (method of multipliers, Hestenes 1969) grows until the mean of e is
    0. The weight penalty, anchor_weight/2 sum_j F_j (theta_j - theta_0j)^2 with F the Fisher diagonal on the retain set, is added
    by the trainer (`unlearn.training.penalty`), times the share of the retain set that no step sees.
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
        """Return the loss above without the weight penalty, a scalar; every row has the same weight."""
        forget, retain = token_outputs(model, batch.forget, batch.require_retain())
        values = forget.log_probabilities()  # [N], scored tokens of all rows
        level = reference["forget_level"].to(values)  # [N]
        by_token = forget.per_row(F.smooth_l1_loss(values, level, reduction="none")).mean()
        excess = mean_by_row(values - level, forget.rows, forget.size)  # e of every row [B]
        batch.progress.measure("excess", torch.where(excess.abs() < WITHIN, excess, 0.0))
        by_record = self.record_weight * excess.square().mean() + batch.progress.values["multiplier"] * excess.mean()
        kept = retain.per_row(retain.kl_to(reference["retain_logits"], reference.get("retain_states"))).mean()
        return self.token_weight * by_token + by_record + self.alpha * kept
