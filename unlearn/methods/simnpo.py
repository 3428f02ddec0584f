"""SimNPO: NPO on the mean loss per token, without a reference model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.methods._preference import require_temperature
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import score_both
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class SimNPO(Objective):
    """Treat every forget record as a rejected answer, measured by its mean loss instead of against the former model.

        minimise  -gamma (2/beta) mean log sigmoid(beta l(x) - delta) + alpha l(D_r)

    l is the record's mean negative log-likelihood per token. Fan et al. 2024 (arXiv 2410.07163), eq. 5. Short and long records
    have the same weight, and a record that is already improbable is left alone, whether or not the model was trained on it.

    Do not reuse NPO's beta: there log-probabilities are summed, here they are averaged. Do not use it where records differ much in
    how predictable they are: they all share one delta.

    Attributes:
        beta: inverse temperature.
        delta: margin, nats per token times beta.
        gamma: weight of the forget term.
        alpha: weight of the retain term.
    """

    beta: float = 2.5
    delta: float = 0.0
    gamma: float = 0.1375
    alpha: float = 1.0

    idea: ClassVar[str] = "NPO on the mean loss, without a reference model"
    paper: ClassVar[str] = "Fan et al. 2024 (arXiv 2410.07163)"

    def __post_init__(self) -> None:
        require_temperature(self.beta)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, retain = score_both(model, batch)
        preference = -(2.0 / self.beta) * F.logsigmoid(self.beta * forget.loss - self.delta).mean()
        return self.gamma * preference + self.alpha * retain.loss.mean()
