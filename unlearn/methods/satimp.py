"""SatImp: gradient ascent with token weights by saturation and importance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import score_tokens
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.log_probabilities import mean_by_row


@checked
@dataclass(frozen=True)
class SatImp(Objective):
    """Ascend on the forget set with tokens weighted by saturation and importance.

        minimise  -mean_t [p_t^beta1 (1 - p_t)^beta2 (-log p_t)] + alpha l(D_r),  no gradient through the weight

    Yang et al. 2025 (arXiv 2505.11953), section 4. The first factor spares tokens that are already forgotten, the second tokens
    that the model predicts in any text.

    Do not use it to remove memorized records: at p_t = 1 the weight is 0, and there is no gradient.

    Attributes:
        beta1: exponent of p_t.
        beta2: exponent of 1 - p_t.
        alpha: weight of the retain term.
    """

    beta1: float = 5.0
    beta2: float = 1.0
    alpha: float = 1.0

    idea: ClassVar[str] = "ascent on tokens between memorized and forgotten"
    paper: ClassVar[str] = "Yang et al. 2025 (arXiv 2505.11953)"

    def __post_init__(self) -> None:
        if min(self.beta1, self.beta2) < 0:
            raise InputError(f"satimp needs --beta1 and --beta2 of at least 0, got {self.beta1} and {self.beta2}.")

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        values, rows, retain = score_tokens(model, batch)
        fixed = values.detach()  # log p_t [N]; 1 - p_t by expm1, exact for p_t near 1
        weight = (self.beta1 * fixed).exp() * (-fixed.expm1()).clamp_min(0) ** self.beta2
        return mean_by_row(weight * values, rows, len(batch.forget["input_ids"])).mean() + self.alpha * retain.loss.mean()
