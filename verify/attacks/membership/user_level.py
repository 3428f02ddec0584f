"""User-level inference: the reference attack averaged over a person's records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation
from verify.attacks.membership.reference import Reference
from verify.data.subjects import subject_groups
from verify.statistics.lira import user_level


@dataclass(frozen=True)
class UserLevel:
    """Score by the mean, over all of a person's records, of how much likelier each is than under reference models.

        score = mean over the subject's records of [mean_t l_t(target) - mean_r mean_t l_t(reference r)]

    Kandpal et al. 2024 (arXiv 2310.09266), eq. 2. Every record of a person gets the person's score; a record without a subject
    is a person of its own. One person's records are not independent observations: compute its AUC over persons, not records.
    """

    idea: ClassVar[str] = "all records of a trained person together are likelier than under other models"
    paper: ClassVar[str] = "Kandpal et al. 2024 (arXiv 2310.09266)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "reference model"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: no reference model was scored.
        """
        scores = Reference().score(target, references)
        groups = subject_groups(target.records, lambda _: "")
        owners = [f"subject {group}" if group else f"record {number}" for number, group in enumerate(groups)]
        names, means = user_level(scores, owners)
        mean_of = dict(zip(names, means, strict=True))
        return np.array([mean_of[owner] for owner in owners])
