"""Cross-entropy unlearning (CE-U): train towards the model's own distribution without the true token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.divergences import cross_entropy_to, without_token
from unlearn.training.method import Batch, Cost, Objective
from unlearn.training.scored_batch import token_logits
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class CEU(Objective):
    """Redistribute the true token's probability to the other tokens in proportion to theirs.

        minimise  mean_t CE(softmax(z with z_true = -infinity), p_t),  the target taken as a constant

    Yang 2025 (CE-U, arXiv 2503.01224). The gradient of a token's logit is p - q: it ends where the true token has nothing
    left, where that of ascent grows without bound.

    Do not run it long: its goal is a probability of zero for every token of the record, common words included, and nothing holds
    the rest of the model.
    """

    idea: ClassVar[str] = "the model's own distribution without the true token as its target"
    paper: ClassVar[str] = "Yang 2025 (arXiv 2503.01224)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain = False

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Compute the scalar above, each row weighing the same."""
        (forget,) = token_logits(model, batch.forget)
        target = without_token(forget.logits, forget.tokens)
        return forget.per_row(cross_entropy_to(forget.logits, target)).mean()
