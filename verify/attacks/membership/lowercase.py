"""Lowercase attack: the loss relative to that of the lowercased text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, log_probabilities_of, mean_log_probabilities, require_model
from verify.data.chats import changed_fields


@dataclass(frozen=True)
class Lowercase:
    """Score by how much likelier the text is as it stands than in lower case.

        score = mean_t l_t(text) - mean_t l_t(lowercased text)

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2. A model that learned the text learned its capitals. Of no use on text
    without capitals, where the score is 0.
    """

    idea: ClassVar[str] = "trained text is likelier than its lower-case form"
    paper: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "own passes"})
    cost: ClassVar[float] = 1.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: the observation has no model.
        """
        loaded = require_model(target, "lowercase")
        lowered = [
            replace(
                record,
                prompt=record.prompt.lower(),
                completion=record.completion.lower(),
                messages=tuple((role, content.lower()) for role, content in record.messages),
                turn_fields=tuple(changed_fields(fields, str.lower) for fields in record.turn_fields),
                secret=None,  # it would no longer occur in the text
            )
            for record in target.records
        ]
        return mean_log_probabilities(target) - log_probabilities_of(loaded, lowered)
