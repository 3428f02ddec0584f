"""Min-K% Prob: the mean of the smallest token log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_of_smallest


@dataclass(frozen=True)
class MinK:
    """Score by the mean of the smallest K % of token log-probabilities.

        score = mean of the max(1, floor(k T)) smallest l_t

    Shi et al. 2024 (arXiv 2310.16789), eq. 1. Meant for long texts; with fewer than 1/k tokens it is the single smallest l_t.

    Attributes:
        k: share of the tokens that is averaged, in (0, 1].
    """

    k: float = 0.2

    idea: ClassVar[str] = "the least likely tokens of a trained record are less unlikely"
    paper: ClassVar[str] = "Shi et al. 2024 (arXiv 2310.16789)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N]."""
        return np.array([mean_of_smallest(entry.log_probability.astype(np.float64), self.k) for entry in target.statistics])
