"""Bad-teacher distillation: an untrained teacher on the forget set, the former model on the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.divergences import kl_to
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_logits
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class BadTeacher(Objective):
    """Distil the forget set from an untrained teacher, the retain set from the model before unlearning.

        loss = [KL(p_random || p on D_f) + KL(p_0 || p on D_r)] / 2

    p_random is a model of the same architecture with one layer and random weights. Chundawat et al. 2023 (arXiv 2205.08096),
    section 4. A batch holds as many forget as retain rows, hence the factor 1/2.

    Do not read its result as never trained: an untrained model's distribution is nearly uniform, a retrained model's is not.
    """

    idea: ClassVar[str] = "distil from an untrained teacher on the forget set, from the former model on the retain set"
    paper: ClassVar[str] = "Chundawat et al. 2023 (arXiv 2205.08096)"
    reference: ClassVar[frozenset[str]] = frozenset({"forget_random_logits", "retain_logits"})

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        forget, retain = token_logits(model, batch.forget, batch.require_retain())
        # Cached teacher logits [N, V], at the same scored tokens as the student's.
        unlearned = forget.per_row(kl_to(forget.logits, reference["forget_random_logits"])).mean()
        kept = retain.per_row(kl_to(retain.logits, reference["retain_logits"])).mean()
        return (unlearned + kept) / 2
