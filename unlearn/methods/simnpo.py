"""NPO without a reference model, on the mean loss per token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.methods._preference import require_temperature
from unlearn.methods.base import Batch, Cost, score_both
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class SimNPO:
    """Treat every forget record as a rejected answer, by its mean loss rather than against a reference.

        minimise  -gamma (2/beta) mean log sigmoid(beta l(x) - delta) + alpha l(D_r)

    l is the record's mean negative log-likelihood per token. Fan et al. 2024 (arXiv 2410.07163), eq. 5. Short and long records
    weigh alike, and a record that is unlikely already is left alone, whether or not the model was trained on it.

    Do not take over NPO's beta: there log-probabilities are summed, here they are averaged. Do not use it where records differ much
    in how predictable they are: one delta serves them all.

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

    def __post_init__(self) -> None:
        require_temperature(self.beta)

    idea: ClassVar[str] = "NPO on the mean loss, without a reference model"
    paper: ClassVar[str] = "Fan et al. 2024 (arXiv 2410.07163)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        forget, retain = score_both(model, batch)
        preference = -(2.0 / self.beta) * F.logsigmoid(self.beta * forget.loss - self.delta).mean()
        return self.gamma * preference + self.alpha * retain.loss.mean()
