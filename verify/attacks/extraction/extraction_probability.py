"""Extraction probability: the log-probability of sampling the secret."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verify.attacks.base import Family, Need, Observation


@dataclass(frozen=True)
class ExtractionProbability:
    """Score by the log-probability that one sample at temperature 1, after the true prefix, is the secret passage.

        score = log p_z = sum of l_t over the secret tokens

    Hayes et al. 2024 (arXiv 2410.19482), section 3. Where a record names no secret, its whole scored part is the secret; longer
    passages are then less probable, so compare a record only with itself under other models. The score is the logarithm because
    p_z itself underflows for secrets of a few hundred unlikely tokens.
    """

    idea: ClassVar[str] = "probability that one sample from the model is the secret passage"
    paper: ClassVar[str] = "Hayes et al. 2024 (arXiv 2410.19482)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], <= 0."""
        return np.array(
            [
                np.sum(entry.log_probability, where=entry.secret if entry.secret.any() else True, dtype=np.float64)
                for entry in target.statistics
            ]
        )


def probability_within(log_probability: ArrayLike, queries: int) -> NDArray[np.float64]:
    """Compute the probability that at least one of n = `queries` samples is the secret: 1 - (1 - p_z)^n.

    A record is (n, p)-discoverable (Hayes et al. 2024, definition 3.2) if this is at least p.

    Args:
        log_probability: log p_z, nats, <= 0; any shape.
        queries: n, at least 1.

    Returns:
        the probability, in [0, 1], of the same shape.

    Raises:
        ValueError: n < 1.
    """
    if queries < 1:
        raise ValueError(f"queries is {queries}; it must be at least 1.")
    p_z = np.exp(np.minimum(np.asarray(log_probability, dtype=np.float64), 0.0))
    # expm1 and log1p keep the digits of tiny p_z. log1p(-1) = -inf is correct: a certain secret is found by the first query.
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(queries * np.log1p(-p_z)))
