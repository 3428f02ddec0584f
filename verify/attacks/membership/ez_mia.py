"""Error-zone attack: directional imbalance of the gains over the base model where the model's top choice is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, token_gains


@dataclass(frozen=True)
class EzMia:
    """Score by how one-sided the gains over the base model are among the tokens that greedy decoding gets wrong.

        score = sum_E delta_t / sum_E |delta_t| = (P - M) / (P + M),    delta_t = l_t(target) - l_t(base),
        E = {t : argmax p(. | x_<t) != x_t},  P and M the sums of the positive and of the negative delta_t, without their signs

    Ilić et al. 2026 (arXiv 2601.12104), the Error Zone score. The paper ranks by P / M, of which this is an increasing function
    that stays finite at M = 0; there, and for a record with fewer than two wrong tokens, the published code gives 0, the score
    of a record that lost everything. Here a record without a wrong token, which is as well memorized as can be, scores 1.
    With few wrong tokens the score is coarse: use it on texts of dozens of tokens, and where the model is not right everywhere.
    Do not use it where the base model was trained on the record too.
    """

    idea: ClassVar[str] = "tokens that the model gets wrong are still likelier than under the model before fine-tuning"
    paper: ClassVar[str] = "Ilić et al. 2026 (arXiv 2601.12104)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "reference model", "reference tokens"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "imbalance of gains, -1 to 1"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [-1, 1].

        Raises:
            InputError: no reference model was scored.
        """
        gains = token_gains(target, references, "ez_mia")
        return np.array([_imbalance(gain, entry.greedy) for gain, entry in zip(gains, target.statistics, strict=True)])


def _imbalance(gain: NDArray[np.float64], greedy: NDArray[np.bool_]) -> float:
    """Compute the imbalance over the tokens that are not `greedy`, both [T]; 0 where none of them changed."""
    wrong = gain[~greedy]
    if not len(wrong):
        return 1.0
    total = float(np.abs(wrong).sum())
    return float(wrong.sum()) / total if total else 0.0
