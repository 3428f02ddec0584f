"""The record against the population, pair by pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities, require_controls, require_references
from verify.statistics.population_ratio import rmia


@dataclass(frozen=True)
class Rmia:
    """Share of never-trained records that the record beats in how much training raised its probability.

        score = Pr_z[(p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma],  p(.) = mean over retrained references

    Zarifzadeh et al. 2024 (arXiv 2312.03262), eq. 2, on mean token probabilities. Robust with a single reference; it needs a
    population like the records, or it measures that difference.

    Attributes:
        gamma: factor by which to beat.
    """

    gamma: float = 1.0

    idea: ClassVar[str] = "training raised the record more than most never-trained records"
    paper: ClassVar[str] = "Zarifzadeh et al. 2024 (arXiv 2312.03262)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "retrained references", "controls"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 1
    unit: ClassVar[str] = "share of controls"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """The score above, float64 [N], in [0, 1].

        Raises:
            InputError: no retrained reference or no controls.
        """
        controls, references = require_controls(target, "rmia"), require_references(references, "rmia", self.references)
        populations = [require_controls(reference, "rmia") for reference in references]
        share = rmia(
            mean_log_probabilities(target),
            np.stack([mean_log_probabilities(reference) for reference in references]),
            mean_log_probabilities(controls),
            np.stack([mean_log_probabilities(population) for population in populations]),
            self.gamma,
        )
        if not target.is_its_own_control or len(controls) < 2:
            return share
        # A control does not compete with itself: it is taken out of the population, where it counted if gamma <= 1.
        return np.asarray((share * len(controls) - (self.gamma <= 1)) / (len(controls) - 1), dtype=np.float64)
