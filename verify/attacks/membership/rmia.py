"""RMIA: pairwise likelihood ratios against a population of never-trained records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities, require_controls, require_references
from verify.statistics.population_ratio import rmia


@dataclass(frozen=True)
class Rmia:
    """Score by the share of never-trained records that training made likelier by a smaller factor than this record.

        score = Pr_z[(p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma],  p(.) = mean over retrained references

    Zarifzadeh et al. 2024 (arXiv 2312.03262), eq. 2, on mean token log-probabilities; z are the controls. Robust with a single
    reference. The controls must be like the records, or it measures their difference.

    Attributes:
        gamma: factor by which a record's ratio must exceed a control's, > 0.
    """

    gamma: float = 1.0

    idea: ClassVar[str] = "training raised the record's probability more than that of most never-trained records"
    paper: ClassVar[str] = "Zarifzadeh et al. 2024 (arXiv 2312.03262)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "retrained references", "controls"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 1
    unit: ClassVar[str] = "share of controls"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: no retrained reference or no controls.
        """
        controls, references = require_controls(target, "rmia"), require_references(references, "rmia", self.references)
        populations = [require_controls(reference, "rmia") for reference in references]
        # The references' own controls: the same never-trained records, scored by each reference.
        share = rmia(
            mean_log_probabilities(target),
            np.stack([mean_log_probabilities(reference) for reference in references]),
            mean_log_probabilities(controls),
            np.stack([mean_log_probabilities(population) for population in populations]),
            self.gamma,
        )
        if not target.is_its_own_control or len(controls) < 2:
            return share
        # A control is taken out of its own population; its ratio to itself is 1, so it was counted if gamma <= 1.
        return np.asarray((share * len(controls) - (self.gamma <= 1)) / (len(controls) - 1), dtype=np.float64)
