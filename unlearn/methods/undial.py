"""Self-distillation in which the true token has been talked down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.distributions import cross_entropy_to
from unlearn.methods.base import Batch, Cost, token_logits
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class UNDIAL:
    """Teach the model its own former distribution with the true token's logit lowered.

        minimise  mean_t CE(softmax(z_0 - beta 1[x_t]), p_t)

    z_0 are the logits before unlearning, at scored tokens only. Dong et al. 2024 (arXiv 2402.10052), section 3. The target is a
    fixed distribution, so training converges instead of running away.

    Do not expect utility to be measured by it: no retain set takes part, and with all weights trained it drifts; use --lora.

    Attributes:
        beta: how far the true token's logit is lowered.
    """

    beta: float = 10.0

    idea: ClassVar[str] = "distil the model's own distribution with the true token talked down"
    paper: ClassVar[str] = "Dong et al. 2024 (arXiv 2402.10052)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain: ClassVar[bool] = False
    reference: ClassVar[frozenset[str]] = frozenset({"forget_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        (forget,) = token_logits(model, batch.forget)
        former = reference["forget_logits"].to(forget.logits)
        lowered = former.scatter_add(-1, forget.tokens[:, None], former.new_full((len(former), 1), -self.beta))
        return forget.per_row(cross_entropy_to(forget.logits, lowered.softmax(-1))).mean()
