"""Bounded on both sides: Jensen-Shannon divergence to a refusal, and to what was on the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.alternatives import refusals
from unlearn.distributions import jensen_shannon_to, jensen_shannon_to_token
from unlearn.methods.base import Batch, Cost, token_logits
from verify.arguments import checked
from verify.models import LoadedModel
from verify.records import Record
from verify.scoring import target_log_probabilities


@checked
@dataclass(frozen=True)
class JensUn:
    """Answer forget prompts with a refusal, retain prompts as before, both by a divergence that cannot exceed log 2.

        loss = gamma mean_t JSD(1[refusal_t], p_t) on D_f + alpha mean_t JSD(p_0, p) on D_r

    Singh et al. 2025 (JensUn, arXiv 2509.02820), section 4. Bounded terms of one kind balance each other over a long training.

    Do not take a refusal for forgetting: the true answer's own probability, given its first words, is not touched directly.

    Attributes:
        gamma: weight of the forget term.
        alpha: weight of the retain term.
    """

    gamma: float = 1.0
    alpha: float = 1.0

    idea: ClassVar[str] = "Jensen-Shannon divergence to a refusal, and to the former answers on the rest"
    paper: ClassVar[str] = "Singh et al. 2025 (arXiv 2509.02820)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"retain_logits"})
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
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        assert batch.alternative is not None, "the trainer makes alternatives"
        refusal, retain = token_logits(model, batch.alternative, batch.retain)
        said = target_log_probabilities(refusal.logits, refusal.tokens)
        forgotten = refusal.per_row(jensen_shannon_to_token(said)).mean()
        kept = retain.per_row(jensen_shannon_to(retain.logits, reference["retain_logits"])).mean()
        return self.gamma * forgotten + self.alpha * kept
