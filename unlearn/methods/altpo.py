"""Alternate preference optimization: another answer, made up by the model itself, is preferred to the true one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.alternatives import instead
from unlearn.methods._preference import preference_loss, require_temperature
from unlearn.methods.base import Batch, Cost
from verify.arguments import checked
from verify.encoding import Encoder
from verify.errors import InputError
from verify.generation import sampled_continuations
from verify.models import LoadedModel
from verify.records import Record

DOUBLINGS = 6


@checked
@dataclass(frozen=True)
class AltPO:
    """Prefer a plausible other answer, which the model before unlearning writes itself, to the true one.

        minimise  -(2/beta) mean log sigmoid(beta (r(x, other) - r(x, y))) + alpha l(D_r),  r(x, y) = log p(y|x) - log p_0(y|x)

    Mekala et al. 2024 (arXiv 2409.13474), section 3, with NPO's factor. The answers are sampled at rising temperatures
    until one differs from the true answer, because a model that knows the record by heart writes it at temperature 1.

    Do not use it where a made-up answer is worse than none: the model will state falsehoods about the subject.

    Attributes:
        beta: inverse temperature of the preference.
        alpha: weight of the retain term.
        temperature: at which sampling begins; doubled until an answer differs.
    """

    beta: float = 0.1
    alpha: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.beta)
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature must be a number greater than 0, got {self.temperature}.")

    idea: ClassVar[str] = "prefer another answer, written by the model itself, to the true one"
    paper: ClassVar[str] = "Mekala et al. 2024 (arXiv 2409.13474)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"alternative_log_probability", "forget_log_probability"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> list[Record]:
        """Answers of the model itself.

        Raises:
            InputError: a record has no prompt, or the model writes nothing else.
        """
        windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(forget)
        first = {window.record: window for window in reversed(windows)}
        return [instead(record, self._other(loaded, record, first[row], row, seed)) for row, record in enumerate(forget)]

    def _other(self, loaded: LoadedModel, record: Record, window: Any, row: int, seed: int) -> str:
        """The first sampled answer that is neither empty nor the true one."""
        if not len(window.prompt_ids):
            raise InputError(f"altpo asks the model for other answers, and forget record {row + 1} has no prompt. Use npo.")
        length = min(int(window.scored.sum()), loaded.context_length - len(window.prompt_ids))
        for doubling in range(DOUBLINGS):
            temperature, drawn = self.temperature * 2**doubling, seed + 7919 * row + doubling
            made = sampled_continuations(loaded, window.prompt_ids, length, 4, temperature=temperature, seed=drawn)
            for tokens in made:
                text = loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                if text and text.casefold() != record.scored_text.strip().casefold():
                    return str(text)
        raise InputError(f"the model writes nothing but the true answer to forget record {row + 1}. Raise --temperature.")

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        return preference_loss(model, batch, reference, self.beta, self.alpha)
