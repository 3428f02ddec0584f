"""Ascent in which a token counts by how far it is from both ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.methods.base import Batch, Cost, score_tokens
from verify.arguments import checked
from verify.errors import InputError
from verify.scoring import mean_by_row


@checked
@dataclass(frozen=True)
class SatImp:
    """Saturation and importance together decide what a token counts in the ascent.

        minimise  -mean_t [p_t^beta1 (1 - p_t)^beta2 (-log p_t)] + alpha l(D_r),  the weight taken as a constant

    Yang et al. 2025 (arXiv 2505.11953), section 4. The first factor spares what is forgotten already, the second what the model
    would say of anything.

    Do not use it to remove records that are known by heart: with p_t at 1 the weight is 0, and nothing moves.

    Attributes:
        beta1: exponent of p_t.
        beta2: exponent of 1 - p_t.
        alpha: weight of the retain term.
    """

    beta1: float = 5.0
    beta2: float = 1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if min(self.beta1, self.beta2) < 0:
            raise InputError(f"satimp needs --beta1 and --beta2 of at least 0, got {self.beta1} and {self.beta2}.")

    idea: ClassVar[str] = "ascent on tokens between known by heart and forgotten"
    paper: ClassVar[str] = "Yang et al. 2025 (arXiv 2505.11953)"
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
        values, rows, retain = score_tokens(model, batch)
        assert retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        fixed = values.detach()
        weight = (self.beta1 * fixed).exp() * (-fixed.expm1()).clamp_min(0) ** self.beta2
        return mean_by_row(weight * values, rows, len(batch.forget["input_ids"])).mean() + self.alpha * retain.loss.mean()
