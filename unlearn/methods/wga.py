"""Weighted gradient ascent (WGA): tokens weighted by their remaining probability."""

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
class WGA(Objective):
    """Ascend on the forget set with tokens weighted by p^beta, so that forgotten tokens are left alone.

        minimise  -mean_t [p_t^beta (-log p_t)] + alpha l(D_r),  the weight p_t^beta taken as a constant

    Wang et al. 2025 (arXiv 2502.19301), section 4. The weight does what NPO's reference does, token by token and without one.

    Do not expect it to stop at the level of a model that never saw the record: it stops where the token is improbable.

    Attributes:
        beta: exponent of the weight; 0 is plain ascent on the forget term, without its stop rule.
        alpha: weight of the retain term.
    """

    beta: float = 1.0
    alpha: float = 1.0

    idea: ClassVar[str] = "ascent that leaves improbable tokens alone"
    paper: ClassVar[str] = "Wang et al. 2025 (arXiv 2502.19301)"

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise InputError(f"--beta must be 0 or more, got {self.beta}: below 0 a token counts the more the less probable it is.")

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Compute the scalar above, each row weighing the same."""
        values, rows, retain = score_tokens(model, batch)
        weight = (self.beta * values.detach()).exp()
        return mean_by_row(weight * values, rows, len(batch.forget["input_ids"])).mean() + self.alpha * retain.loss.mean()
