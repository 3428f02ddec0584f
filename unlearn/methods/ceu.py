"""Cross-entropy unlearning: the model's own distribution, with the true token left out, is its target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.distributions import cross_entropy_to, without_token
from unlearn.methods.base import Batch, Cost, token_logits
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class CEU:
    """Let the probability of the true token go to the others, in proportion to what they have.

        minimise  mean_t CE(softmax(z with z_true = -infinity), p_t),  the target taken as a constant

    Yang 2025 (CE-U, arXiv 2503.01224). The gradient of a token's logit is p - q: it ends where the true token has nothing
    left, where that of ascent grows without bound.

    Do not run it long: its goal is a probability of zero for every token of the record, common words included, and nothing holds
    the rest of the model.
    """

    idea: ClassVar[str] = "the model's own distribution without the true token as its target"
    paper: ClassVar[str] = "Yang 2025 (arXiv 2503.01224)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain: ClassVar[bool] = False
    reference: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        (forget,) = token_logits(model, batch.forget)
        target = without_token(forget.logits, forget.tokens)
        return forget.per_row(cross_entropy_to(forget.logits, target)).mean()
