"""Negative preference optimization: ascent that slows down as a record is forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.methods._preference import require_temperature
from unlearn.methods.base import Batch, Cost, score_both, score_forget
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class NPO:
    """Treat every forget record as a rejected answer, measured against the model before unlearning.

        minimise  -(2/beta) mean log sigmoid(-beta (log p(y|x) - log p_0(y|x))) + alpha l(D_r)

    log p is the summed log-probability of the completion, p_0 that of the model before unlearning (computed once and cached).
    Zhang et al. 2024 (arXiv 2404.05868), eq. 3. The gradient is that of ascent times 2 p^beta / (p^beta + p_0^beta), which
    fades as p falls below p_0; beta -> 0 gives gradient ascent.

    Do not expect it to reach the level of a model that never saw the records: it fades relative to p_0, which knows nothing of
    that level, and over-forgets when run long.

    Attributes:
        beta: inverse temperature; the published value belongs to summed log-probabilities.
        alpha: weight of the retain term; 0 leaves the retain set out.
    """

    beta: float = 0.1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.beta)
        # Said by each instance: without its term the retain set is neither demanded nor read.
        object.__setattr__(self, "needs_retain", self.alpha != 0)

    idea: ClassVar[str] = "ascent that fades as a record falls below its former probability"
    paper: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.05868)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"forget_log_probability"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below by zero, so none is needed."""
        return None

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        forget, retain = score_both(model, batch) if self.alpha else (score_forget(model, batch), None)
        log_ratio = forget.log_probability - reference["forget_log_probability"]
        preference = -(2.0 / self.beta) * F.logsigmoid(-self.beta * log_ratio).mean()
        return preference if retain is None else preference + self.alpha * retain.loss.mean()
