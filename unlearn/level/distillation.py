"""The objective of `calibrated_distillation`: bring every reading of every context to its level and hold the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.level.objective import WITHIN
from unlearn.level.readings import OUTPUT, decoded, read_pass
from unlearn.training.divergences import kl_to
from unlearn.training.method import Batch, Objective, Rows
from unlearn.training.scored_batch import TokenLogits, one_pass, split_parts
from verify.models.log_probabilities import mean_by_row, target_log_probabilities

RECORD_WEIGHT = 5.0
"""Weight of the squared distance of a record's mean, that of `level`."""


@dataclass(frozen=True)
class ToReadings(Objective):
    """The objective that `unlearn.methods.calibrated_distillation` runs once it has estimated the levels.

        sum_d w_d [ mean_t h(l_td - l*_td) + 5 e_d^2 + mu_cd e_d ]  on D_f in context c  +  alpha KL(p_0 || p) on D_r  +  penalty,
        e_d = mean_t l_td - mean_t l*_td,    mu_cd <- mu_cd + dual_step mean(e_d 1[|e_d| < 0.5] 1[row in context c], over all rows)

    l_td: log-probability of token t by reading d, the output (w 1) or a layer (w `lens_weight`), and l*_td its level; h: smooth L1
    distance; mu_cd: multiplier of each context and reading, as in `unlearn.level.objective`; penalty: as there.

    Attributes:
        layers: the readings beside the output.
        contexts: names of the contexts, in the order of their numbers in the table "forget_context".
    """

    layers: tuple[int, ...]
    contexts: tuple[str, ...]
    lens_weight: float
    alpha: float
    dual_step: float
    anchor_weight: float

    idea: ClassVar[str] = "the objective of `calibrated_distillation`"
    paper: ClassVar[str] = "this project, docs/research/level.md"
    reference: ClassVar[frozenset[str]] = frozenset({"forget_level", "forget_context", "retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def readings(self) -> tuple[int, ...]:
        """The output and the layers, in the order of the columns of the table "forget_level"."""
        return (OUTPUT, *self.layers)

    def begin(self) -> Mapping[str, float]:
        """Return the multipliers' initial values."""
        return {_name(context, reading): 0.0 for context in self.contexts for reading in self.readings}

    def advance(self, values: Mapping[str, float], measured: Mapping[str, float]) -> Mapping[str, float]:
        """Take one step of dual ascent."""
        return {name: value + self.dual_step * measured[name] for name, value in values.items()}

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above without the weight penalty, a scalar; every row has the same weight."""
        forget, states, retain = self._outputs(model, batch)
        held = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        contexts = reference["forget_context"].long()  # [B]
        loss = self.alpha * held
        for column, reading in enumerate(self.readings):
            logits = forget.logits if reading == OUTPUT else decoded(model, states[reading])
            values = target_log_probabilities(logits, forget.tokens)  # [N]
            level = reference["forget_level"][:, column].to(values)
            by_token = forget.per_row(F.smooth_l1_loss(values, level, reduction="none"))
            excess = mean_by_row(values - level, forget.rows, forget.size)  # e_d of every row [B]
            pull = excess.new_tensor([batch.progress.values[_name(context, reading)] for context in self.contexts])[contexts]
            by_row = by_token + RECORD_WEIGHT * excess.square() + pull * excess
            loss = loss + (1.0 if reading == OUTPUT else self.lens_weight) * by_row.mean()
            near = torch.where(excess.detach().abs() < WITHIN, excess.detach(), 0.0)
            for number, context in enumerate(self.contexts):
                batch.progress.measure(_name(context, reading), torch.where(contexts == number, near, 0.0))
        return loss

    def _outputs(self, model: nn.Module, batch: Batch) -> tuple[TokenLogits, dict[int, Tensor], TokenLogits]:
        """Compute the logits of forget and retain rows in one pass, and the forget rows' hidden states by layer [N, D]."""
        kept: list[dict[int, Tensor]] = []  # of each pass; the rows are in one or in two

        def read(model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
            logits, states = read_pass(model, rows, self.layers)
            kept.append(states)
            return logits, rows["input_ids"][rows["scored"]], torch.nonzero(rows["scored"])[:, 0]

        parts = [batch.forget, batch.require_retain()]
        logits, tokens, rows = one_pass(model, parts, read)
        forget, retain = (TokenLogits(logits[part], tokens[part], own, size) for part, own, size in split_parts(rows, parts))
        return forget, {layer: torch.cat([one[layer] for one in kept])[: len(forget.tokens)] for layer in self.layers}, retain


def _name(context: str, reading: int) -> str:
    """Name the multiplier of a context and a reading."""
    return f"{context} {reading}"
