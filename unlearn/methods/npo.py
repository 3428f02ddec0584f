"""Negative preference optimization (NPO): ascent that slows down as a record is forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.methods._preference import require_temperature
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import score_both, score_forget
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class NPO(Objective):
    """Treat every forget record as a rejected answer, measured against the model before unlearning.

        minimise  -(2/beta) mean log sigmoid(-beta (log p(y|x) - log p_0(y|x))) + alpha l(D_r)

    log p is the summed log-probability of the completion, p_0 that of the model before unlearning (computed once and cached).
    Zhang et al. 2024 (arXiv 2404.05868), eq. 3. The gradient is that of ascent times 2 p^beta / (p^beta + p_0^beta), which
    fades as p falls below p_0; beta -> 0 gives gradient ascent.

    Do not expect it to reach the level of a model that never saw the records: it fades relative to p_0, which has no information
    about that level, and over-forgets when run long.

    Attributes:
        beta: inverse temperature; the published value assumes summed log-probabilities.
        alpha: weight of the retain term; with 0 the retain set is not used.
    """

    beta: float = 0.1
    alpha: float = 1.0

    idea: ClassVar[str] = "ascent that fades as a record falls below its former probability"
    paper: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.05868)"
    reference: ClassVar[frozenset[str]] = frozenset({"forget_log_probability"})

    def __post_init__(self) -> None:
        require_temperature(self.beta)

    @property
    def needs_retain(self) -> bool:
        """Per instance: with alpha = 0 the retain set is not needed."""
        return self.alpha != 0

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, retain = score_both(model, batch) if self.alpha else (score_forget(model, batch), None)
        log_ratio = forget.log_probability - reference["forget_log_probability"]  # log p - log p_0 of every row [B]
        preference = -(2.0 / self.beta) * F.logsigmoid(-self.beta * log_ratio).mean()
        return preference if retain is None else preference + self.alpha * retain.loss.mean()
