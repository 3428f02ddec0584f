"""JensUn: bounded Jensen-Shannon divergences to a refusal and to the former retain distributions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.methods._alternatives import refusals
from unlearn.training.divergences import jensen_shannon_to, jensen_shannon_to_token
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_logits
from verify.data.records import Record
from verify.io.arguments import checked
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import target_log_probabilities


@checked
@dataclass(frozen=True)
class JensUn(Objective):
    """Train forget prompts towards a refusal and retain prompts towards their former answers, each term at most log 2.

        loss = gamma mean_t JSD(1[refusal_t], p_t) on D_f + alpha mean_t JSD(p_0, p) on D_r

    Singh et al. 2025 (JensUn, arXiv 2509.02820), section 4. Both terms are bounded by log 2, so that neither dominates over a
    long training.

    Do not mistake a refusal for forgetting: the true answer's probability, given its first words, is not lowered directly.

    Attributes:
        gamma: weight of the forget term.
        alpha: weight of the retain term.
    """

    gamma: float = 1.0
    alpha: float = 1.0

    idea: ClassVar[str] = "Jensen-Shannon divergence to a refusal, and to the former distributions on the retain set"
    paper: ClassVar[str] = "Singh et al. 2025 (arXiv 2509.02820)"
    reference: ClassVar[frozenset[str]] = frozenset({"retain_logits"})

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Draw a refusal for every forget record."""
        return refusals(forget, seed)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        refusal, retain = token_logits(model, batch.require_alternative(), batch.require_retain())
        # A one-hot target: its divergence follows from the refusal tokens' log-probabilities [N] alone.
        target = target_log_probabilities(refusal.logits, refusal.tokens)
        forgotten = refusal.per_row(jensen_shannon_to_token(target)).mean()
        kept = retain.per_row(jensen_shannon_to(retain.logits, reference["retain_logits"])).mean()
        return self.gamma * forgotten + self.alpha * kept
