"""Two teachers: one that knows nothing for the forget set, the former model for the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.distributions import kl_to
from unlearn.methods.base import Batch, Cost, token_logits
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class BadTeacher:
    """Learn the forget set's distributions from an incompetent teacher, the retain set's from the model before unlearning.

        loss = [KL(p_random || p on D_f) + KL(p_0 || p on D_r)] / 2

    p_random is a model of the same kind with one layer and random weights. Chundawat et al. 2023 (arXiv 2205.08096), section 4; as
    many forget as retain rows.

    Do not read its result as never trained: an untrained model's distribution is nearly uniform, a retrained model's is not.
    """

    idea: ClassVar[str] = "an incompetent teacher for the forget set, the former model for the rest"
    paper: ClassVar[str] = "Chundawat et al. 2023 (arXiv 2205.08096)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"forget_random_logits", "retain_logits"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        forget, retain = token_logits(model, batch.forget, batch.retain)
        unlearned = forget.per_row(kl_to(forget.logits, reference["forget_random_logits"])).mean()
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return (unlearned + kept) / 2
