"""Min-K%++: Min-K% over log-probabilities standardized within each position's distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_of_smallest
from verify.models.token_table import TokenStatistics


@dataclass(frozen=True)
class MinKPlusPlus:
    """Score by the mean of the smallest K % of standardized token log-probabilities.

        z_t = (l_t - mu_t) / max(sigma_t, minimum_deviation)
        score = mean of the max(1, floor(k T)) smallest z_t

    Zhang et al. 2024 (arXiv 2404.02936), eq. 3 and 4; mu_t and sigma_t are the mean and standard deviation of log p under p.
    The paper does not clamp sigma_t. Where the model is certain (top probability above about 1 - 1e-8), sigma_t falls below the
    resolution of float32 log-probabilities, and one wrong token would outweigh the rest of the text.

    Attributes:
        k: share of the tokens that is averaged, in (0, 1].
        minimum_deviation: lower limit of sigma_t in the division, nats.
    """

    k: float = 0.2
    minimum_deviation: float = 1e-3

    idea: ClassVar[str] = "the tokens of a trained record are near the mode of their distribution"
    paper: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.02936)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "standard deviations"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N]."""
        return np.array([mean_of_smallest(self._standardized(entry), self.k) for entry in target.statistics])

    def _standardized(self, entry: TokenStatistics) -> NDArray[np.float64]:
        """Compute z_t of the T scored tokens [T]."""
        surprise = entry.log_probability.astype(np.float64) - entry.mean.astype(np.float64)
        return np.asarray(surprise / np.maximum(entry.deviation.astype(np.float64), self.minimum_deviation))
