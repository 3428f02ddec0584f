"""Dataset inference: a linear classifier over all statistics of the forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_of_smallest, two_sides
from verify.attacks.membership._fitted import cross_fitted
from verify.models.token_table import TokenStatistics


@dataclass(frozen=True)
class DatasetInference:
    """Score by a linear classifier over pass statistics, fitted on some records and applied to the others.

        score = w . features(record),  w fitted on the other folds to separate the set from the controls

    Maini et al. 2024 (arXiv 2406.06443), section 5. Weak signals add up over a set. The classifier learns any difference between
    set and controls, including one of the texts themselves: do not read it alone unless the controls are like the set (see the
    blind baseline); otherwise compare with the same attack on retrained models. Folds are assigned by subject, so that no person's
    records are both fitted and scored.
    """

    idea: ClassVar[str] = "a learned combination of all signals, out of fold"
    paper: ClassVar[str] = "Maini et al. 2024 (arXiv 2406.06443)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "controls"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "log odds"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: there are no controls.
        """
        members, controls = two_sides(target, "dataset_inference")
        return cross_fitted(target, members, controls, _features(members), _features(controls))


def _features(observation: Observation) -> NDArray[np.float64]:
    """Compute the features of all records [N, 10]."""
    return np.array([_signals(entry) for entry in observation.statistics])


def _signals(entry: TokenStatistics) -> list[float]:
    """Extract features [10]: mean, spread, three Min-K% and three Min-K%++, greedy accuracy, negative mean log rank."""
    log_probability = entry.log_probability.astype(np.float64)
    # As in min_k_plus_plus: standardized within each position's distribution, with the same floor of 1e-3 nats.
    standard = (log_probability - entry.mean) / np.maximum(entry.deviation, 1e-3)
    shares = (0.1, 0.2, 0.4)
    return [
        float(log_probability.mean()),
        float(log_probability.std()),
        *(mean_of_smallest(log_probability, share) for share in shares),
        *(mean_of_smallest(standard, share) for share in shares),
        float(entry.greedy.mean()),
        float(-np.log1p(entry.rank).mean()),
    ]
