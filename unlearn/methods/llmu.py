"""LLMU: gradient ascent, random answers, and a KL term on the retain set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from unlearn.methods._alternatives import instead
from unlearn.training.divergences import kl_to
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_logits
from unlearn.training.stopping import ForgetLossCeiling, StopRule
from verify.data.records import Record
from verify.io.arguments import checked
from verify.models.loading import LoadedModel


@checked
@dataclass(frozen=True)
class LLMU(Objective):
    """Raise the loss of true answers, lower that of mismatched ones, and hold the retain set's distributions.

        minimise  -ascent l(D_f) + mismatch l(x_f, y_random) + alpha KL(p_0 || p on D_r)

    y_random is the completion of a retain record drawn for each forget record. Yao et al. 2023 (arXiv 2310.10683), section 3.

    Do not use it without monitoring utility: it learns wrong answers on purpose.

    Attributes:
        ascent: weight of the ascent.
        mismatch: weight of the random answers.
        alpha: weight of the retain term.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V. (The paper
            stops at 100, far above the loss of a uniform prediction.)
    """

    ascent: float = 0.5
    mismatch: float = 1.0
    alpha: float = 1.0
    ceiling: float | None = None

    idea: ClassVar[str] = "ascent, mismatched answers, and the former distributions on the retain set"
    paper: ClassVar[str] = "Yao et al. 2023 (arXiv 2310.10683)"
    reference: ClassVar[frozenset[str]] = frozenset({"retain_logits"})

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Replace every answer by that of a retain record drawn for it."""
        drawn = np.random.default_rng([seed, 4]).integers(len(retain), size=len(forget))
        return [instead(record, retain[number].scored_text) for record, number in zip(forget, drawn, strict=True)]

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, wrong, retain = token_logits(model, batch.forget, batch.require_alternative(), batch.require_retain())
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.mismatch * wrong.scores().loss.mean() - self.ascent * forget.scores().loss.mean() + self.alpha * kept
