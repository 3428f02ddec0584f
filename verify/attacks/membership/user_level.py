"""The person behind the records: faint traces add up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation
from verify.attacks.membership.reference import Reference
from verify.statistics.lira import user_level
from verify.subjects import people_of


@dataclass(frozen=True)
class UserLevel:
    """The mean over all of a person's records of how much likelier each is than under reference models.

        score = mean over the subject's records of [mean_t l_t(target) - mean_r mean_t l_t(reference r)]

    Kandpal et al. 2024 (arXiv 2310.09266), eq. 2. Every record of a person gets the person's score; a record without a subject
    stands for itself. Records of one person are no independent observations: read its AUC by people, not by records.
    """

    idea: ClassVar[str] = "a person is known where their records together are likelier than elsewhere"
    paper: ClassVar[str] = "Kandpal et al. 2024 (arXiv 2310.09266)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "reference model"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """The score above, float64 [N].

        Raises:
            InputError: no reference model was scored.
        """
        scores = Reference().score(target, references)
        groups = people_of(target.records, lambda _: "")
        people = [f"subject {group}" if group else f"record {place}" for place, group in enumerate(groups)]
        names, means = user_level(scores, people)
        of = dict(zip(names, means, strict=True))
        return np.array([of[person] for person in people])
