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

        minimise  mean_t CE(softmax(z with z_true = -infinity), p_t),  no gradient through the target

    Yang 2025 (CE-U, arXiv 2503.01224). With the target q the gradient of the logits is p - q: it vanishes once the true token has
    no probability left, where the gradient of ascent grows without bound.

    Do not run it long: it drives the probability of every token of the record to zero, common words included, and no retain term
    holds the rest of the model.
    """

    idea: ClassVar[str] = "train towards the model's own distribution without the true token"
    paper: ClassVar[str] = "Yang 2025 (arXiv 2503.01224)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain = False

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        (forget,) = token_logits(model, batch.forget)
        # The target is the model's own current distribution [N, V], renormalized without the true token.
        target = without_token(forget.logits, forget.tokens)
        return forget.per_row(cross_entropy_to(forget.logits, target)).mean()
