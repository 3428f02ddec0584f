"""UNDIAL: self-distillation with the true token's logit reduced."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.training.divergences import cross_entropy_to
from unlearn.training.method import Batch, Cost, Objective
from unlearn.training.scored_batch import token_logits
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class UNDIAL(Objective):
    """Distil the model's own former distribution with the true token's logit reduced.

        minimise  mean_t CE(softmax(z_0 - beta 1[x_t]), p_t)

    z_0 are the logits before unlearning, at scored tokens only. Dong et al. 2024 (arXiv 2402.10052), section 3. The target is a
    fixed distribution, so training converges instead of diverging.

    Do not expect it to protect utility: it uses no retain set, and with all weights trained the model drifts; use --lora.

    Attributes:
        beta: reduction of the true token's logit.
    """

    beta: float = 10.0

    idea: ClassVar[str] = "distil the model's own distribution with the true token's logit reduced"
    paper: ClassVar[str] = "Dong et al. 2024 (arXiv 2402.10052)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain = False
    reference: ClassVar[frozenset[str]] = frozenset({"forget_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4, "epochs": 10.0, "batch_size": 8}

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        (forget,) = token_logits(model, batch.forget)
        former = reference["forget_logits"].to(forget.logits)
        # z_0 - beta at the true token, z_0 elsewhere [N, V].
        lowered = former.scatter_add(-1, forget.tokens[:, None], former.new_full((len(former), 1), -self.beta))
        return forget.per_row(cross_entropy_to(forget.logits, lowered.softmax(-1))).mean()
