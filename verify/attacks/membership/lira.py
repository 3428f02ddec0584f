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

        score = -log Pr[a retraining's mean log-probability >= the target's],  predictive t with moderated variances:
        v_i = (d0 s0^2 + (R - 1) s_i^2) / (d0 + R - 1),  d0 + R - 1 degrees of freedom,  prior (d0, s0^2) fitted to all records

    Carlini et al. 2022 (arXiv 2112.03570); Brännvall 2026 (arXiv 2603.11799). The offline form of LiRA, with the t distribution
    of a new draw instead of a Gaussian (with four references a Gaussian's nominal 1 % is 6.4 %) and BaVarIA's conjugate prior on
    the variances, fitted by the moments of their logarithms. It needs at least two references. With two or three the prior
    decides nearly alone, and records are distinguished by their distance more than by their own spread.
    """

    idea: ClassVar[str] = "how far the record stands out from models retrained without it"
    paper: ClassVar[str] = "Carlini et al. 2022 (arXiv 2112.03570); Brännvall 2026 (arXiv 2603.11799)"
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
        without = [mean_log_probabilities(reference) for reference in require_references(references, "lira", self.references)]
        return likelihood_ratio(mean_log_probabilities(target), np.stack(without), variance="moderated")
