"""Direct preference optimization: a refusal is the answer preferred to the true one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.alternatives import refusals
from unlearn.methods._preference import preference_loss, require_temperature
from unlearn.methods.base import Batch, Cost
from verify.arguments import checked
from verify.models import LoadedModel
from verify.records import Record


@checked
@dataclass(frozen=True)
class DPO:
    """Prefer a refusal to the true answer, both measured against the model before unlearning.

        minimise  -(2/beta) mean log sigmoid(beta (r(x, refusal) - r(x, y))) + alpha l(D_r),  r(x, y) = log p(y|x) - log p_0(y|x)

    log p is the summed log-probability of the completion. Rafailov et al. 2023 (arXiv 2305.18290), eq. 7, with refusals as in
    TOFU (Maini et al. 2024, arXiv 2401.06121, section 4) and NPO's factor.

    Do not take a refusal for forgetting: the answer may be as probable as before behind it, and the model learns to refuse others.

    Attributes:
        beta: inverse temperature.
        alpha: weight of the retain term.
    """

    beta: float = 0.1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.beta)

    idea: ClassVar[str] = "prefer a refusal to the true answer"
    paper: ClassVar[str] = "Rafailov et al. 2023 (arXiv 2305.18290); Maini et al. 2024 (arXiv 2401.06121)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"alternative_log_probability", "forget_log_probability"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Refusals."""
        return refusals(forget, seed)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        return preference_loss(model, batch, reference, self.beta, self.alpha)
