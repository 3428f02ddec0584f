"""Loss attack: trained records have low loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities


@dataclass(frozen=True)
class Loss:
    """Score by the negative loss of the record.

        score = mean_t l_t

    l_t is the log-probability of token t. Yeom et al. 2018 (arXiv 1709.01604). It cannot distinguish a memorized record from an
    easy one: weak where records differ much in difficulty, strong where they are alike.
    """

    idea: ClassVar[str] = "trained records have a lower loss"
    paper: ClassVar[str] = "Yeom et al. 2018 (arXiv 1709.01604)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N]."""
        return mean_log_probabilities(target)
