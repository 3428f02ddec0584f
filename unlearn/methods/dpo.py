"""Direct preference optimization (DPO): prefer a refusal to the true answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.methods._alternatives import refusals
from unlearn.methods._preference import preference_loss, require_temperature
from unlearn.training.method import Batch, Objective
from verify.data.records import Record
from verify.io.arguments import checked
from verify.models.loading import LoadedModel


@checked
@dataclass(frozen=True)
class DPO(Objective):
    """Prefer a refusal to the true answer, both measured against the model before unlearning.

        minimise  -(2/beta) mean log sigmoid(beta (r(x, refusal) - r(x, y))) + alpha l(D_r),  r(x, y) = log p(y|x) - log p_0(y|x)

    log p is the summed log-probability of the completion. Rafailov et al. 2023 (arXiv 2305.18290), eq. 7, with refusals as in
    TOFU (Maini et al. 2024, arXiv 2401.06121, section 4) and NPO's factor.

    Do not mistake a refusal for forgetting: behind it the answer may be as probable as before, and the model learns to refuse other
    questions too.

    Attributes:
        beta: inverse temperature.
        alpha: weight of the retain term.
    """

    beta: float = 0.1
    alpha: float = 1.0

    idea: ClassVar[str] = "prefer a refusal to the true answer"
    paper: ClassVar[str] = "Rafailov et al. 2023 (arXiv 2305.18290); Maini et al. 2024 (arXiv 2401.06121)"
    reference: ClassVar[frozenset[str]] = frozenset({"alternative_log_probability", "forget_log_probability"})

    def __post_init__(self) -> None:
        require_temperature(self.beta)

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Draw a refusal for every forget record."""
        return refusals(forget, seed)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        return preference_loss(model, batch, reference, self.beta, self.alpha)
