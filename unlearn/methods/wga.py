"""Ascent in which a token counts by how probable it still is."""

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
class WGA:
    """Weighted gradient ascent: tokens that are already forgotten are not pushed any further.

        minimise  -mean_t [p_t^beta (-log p_t)] + alpha l(D_r),  the weight p_t^beta taken as a constant

    Wang et al. 2025 (arXiv 2502.19301), section 4. The weight does what NPO's reference does, token by token and without one.

    Do not expect it to stop at the level of a model that never saw the record: it stops where the token is improbable.

    Attributes:
        beta: exponent of the weight; 0 is plain ascent on the forget term, without its stop rule.
        alpha: weight of the retain term.
    """

    beta: float = 1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise InputError(f"--beta must be 0 or more, got {self.beta}: below 0 a token counts the more the less probable it is.")

    idea: ClassVar[str] = "ascent that leaves improbable tokens alone"
    paper: ClassVar[str] = "Wang et al. 2025 (arXiv 2502.19301)"
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
        weight = (self.beta * values.detach()).exp()
        return mean_by_row(weight * values, rows, len(batch.forget["input_ids"])).mean() + self.alpha * retain.loss.mean()
