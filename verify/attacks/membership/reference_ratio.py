"""Reference-ratio attack: the loss as a share of that under reference models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities
from verify.errors import InputError


@dataclass(frozen=True)
class ReferenceRatio:
    """Score by the relative reduction of the loss against reference models.

        score = 1 - mean_t l_t(target) / mean_r mean_t l_t(reference r)

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2, in the ratio form. Unlike the difference, it weights easy and hard texts
    alike. Do not use it where a reference model was trained on the record too.
    """

    idea: ClassVar[str] = "the loss of trained records is a smaller share of that under a model that never saw them"
    paper: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "reference model"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "ratio of losses"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], at most 1.

        Raises:
            InputError: no reference model was scored.
        """
        if not references:
            raise InputError("the reference_ratio attack needs the model before fine-tuning. Give it with --base DIR.")
        calibration = np.mean([mean_log_probabilities(reference) for reference in references], axis=0)
        # A loss of exactly zero under every reference would divide by zero.
        return np.asarray(1.0 - mean_log_probabilities(target) / np.minimum(calibration, -1e-12), dtype=np.float64)
