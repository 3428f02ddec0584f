"""Reference attack: the loss relative to that under models that never saw the record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities
from verify.errors import InputError


@dataclass(frozen=True)
class Reference:
    """Score by how much likelier the record is than under reference models, such as the model before fine-tuning.

        score = mean_t l_t(target) - mean_r mean_t l_t(reference r)

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2, and Mireshghallah et al. 2022 (arXiv 2203.03929). The usual choice for
    fine-tuned models. Do not use it where a reference model was trained on the record too.
    """

    idea: ClassVar[str] = "trained records have a lower loss than under a model that never saw them"
    paper: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "reference model"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: no reference model was scored.
        """
        if not references:
            raise InputError("the reference attack needs the model before fine-tuning. Give it with --base DIR.")
        for reference in references:
            assert len(reference) == len(target), "references are scored on the target's records"
        calibration = np.mean([mean_log_probabilities(reference) for reference in references], axis=0)
        return np.asarray(mean_log_probabilities(target) - calibration, dtype=np.float64)
