"""Ascent, random answers, and the former distribution on normal data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from unlearn.alternatives import instead
from unlearn.distributions import kl_to
from unlearn.methods.base import Batch, Cost, token_logits
from unlearn.stopping import ForgetLossCeiling, StopRule
from verify.arguments import checked
from verify.models import LoadedModel
from verify.records import Record


@checked
@dataclass(frozen=True)
class LLMU:
    """Raise the loss of the true answers, lower that of answers to other questions, hold the distributions of the retain set.

        minimise  -ascent l(D_f) + mismatch l(x_f, y_random) + alpha KL(p_0 || p on D_r)

    y_random is the completion of a retain record drawn for each forget record. Yao et al. 2023 (arXiv 2310.10683), section 3.

    Do not use it without watching utility: it learns wrong answers on purpose.

    Attributes:
        ascent: weight of the ascent.
        mismatch: weight of the random answers.
        alpha: weight of the retain term.
        ceiling: stop once an epoch's mean forget loss reaches this many nats per token; None means log V. (The paper
            stops at 100, beyond what a model that knows nothing has.)
    """

    ascent: float = 0.5
    mismatch: float = 1.0
    alpha: float = 1.0
    ceiling: float | None = None

    idea: ClassVar[str] = "ascent, random answers, and former distributions on the rest"
    paper: ClassVar[str] = "Yao et al. 2023 (arXiv 2310.10683)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> StopRule:
        """Stop at the ceiling."""
        return ForgetLossCeiling(self.ceiling)

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Answers to other questions, drawn from the retain set."""
        drawn = np.random.default_rng([seed, 4]).integers(len(retain), size=len(forget))
        return [instead(record, retain[number].scored_text) for record, number in zip(forget, drawn, strict=True)]

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        assert batch.alternative is not None, "the trainer makes alternatives"
        forget, wrong, retain = token_logits(model, batch.forget, batch.alternative, batch.retain)
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return self.mismatch * wrong.scores().loss.mean() - self.ascent * forget.scores().loss.mean() + self.alpha * kept
