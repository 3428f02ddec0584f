"""LiRA, the likelihood-ratio attack against models retrained without the record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities, require_references
from verify.statistics.lira import likelihood_ratio


@dataclass(frozen=True)
class Lira:
    """Score by how unlikely the record's log-probability would be under models that never saw it.

        score = -log Pr[a retraining's mean log-probability >= the target's],  predictive t with N (R - 1) degrees of freedom,
        since the variance is pooled over the N records

    Carlini et al. 2022 (arXiv 2112.03570), the offline form, with the t distribution of a new draw instead of a Gaussian: with
    four references a Gaussian's nominal 1 % is 6.4 %. It needs at least two references and is weak with fewer than eight.
    """

    idea: ClassVar[str] = "how far the record stands out from models retrained without it"
    paper: ClassVar[str] = "Carlini et al. 2022 (arXiv 2112.03570)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "retrained references"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 2
    unit: ClassVar[str] = "nats"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], at least 0.

        Raises:
            InputError: fewer than two retrained references.
        """
        # Pooled over records: with few references a record's own variance has too few degrees of freedom.
        without = [mean_log_probabilities(reference) for reference in require_references(references, "lira", self.references)]
        return likelihood_ratio(mean_log_probabilities(target), np.stack(without), variance="pooled")
