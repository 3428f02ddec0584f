"""Exact memorization: teacher-forced greedy accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation


@dataclass(frozen=True)
class ExactMemorization:
    """Score by the share of scored tokens that are the model's top choice, given the true text before them.

        score = 1/T sum_t [argmax p(. | x_<t) = x_t]

    Tirumala et al. 2022 (arXiv 2205.10770), section 2; called memorization accuracy by Jang et al. 2022 (arXiv 2210.01504).
    Any language model predicts common tokens, so a value is informative only in comparison with models that never saw the record.
    """

    idea: ClassVar[str] = "share of tokens that greedy decoding would choose, given the true text before each"
    paper: ClassVar[str] = "Tirumala et al. 2022 (arXiv 2205.10770)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of tokens"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1]."""
        return np.array([np.mean(entry.greedy, dtype=np.float64) for entry in target.statistics])
