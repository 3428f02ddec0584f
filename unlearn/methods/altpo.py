"""Alternate preference optimization (AltPO): prefer an answer that the model writes itself to the true one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.methods._alternatives import sampled_answers
from unlearn.methods._preference import preference_loss, require_temperature
from unlearn.training.method import Batch, Objective
from verify.data.records import Record
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.loading import LoadedModel


@checked
@dataclass(frozen=True)
class AltPO(Objective):
    """Prefer a plausible other answer, written by the model before unlearning, to the true one.

        minimise  -(2/beta) mean log sigmoid(beta (r(x, other) - r(x, y))) + alpha l(D_r),  r(x, y) = log p(y|x) - log p_0(y|x)

    Mekala et al. 2024 (arXiv 2409.13474), section 3, with NPO's factor. The answers are sampled at rising temperatures
    until one differs from the true answer, since a model that has memorized the record repeats it at temperature 1.

    Do not use it where a made-up answer is worse than none: the model will state falsehoods about the subject.

    Attributes:
        beta: inverse temperature of the preference.
        alpha: weight of the retain term.
        temperature: first sampling temperature; doubled until an answer differs from the true one.
    """

    beta: float = 0.1
    alpha: float = 1.0
    temperature: float = 1.0

    idea: ClassVar[str] = "prefer another answer, written by the model itself, to the true one"
    paper: ClassVar[str] = "Mekala et al. 2024 (arXiv 2409.13474)"
    reference: ClassVar[frozenset[str]] = frozenset({"alternative_log_probability", "forget_log_probability"})

    def __post_init__(self) -> None:
        require_temperature(self.beta)
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature must be a number greater than 0, got {self.temperature}. Leave it out for 1.")

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Sample alternative answers from the model itself.

        Raises:
            InputError: a record has no prompt, or the model writes nothing else.
        """
        return sampled_answers(loaded, forget, self.temperature, seed)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        return preference_loss(model, batch, reference, self.beta, self.alpha)
