"""Extraction strength: the shortest prefix after which the model completes the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation


@dataclass(frozen=True)
class ExtractionStrength:
    """Score by one minus the shortest prefix, as a share of the text, after which greedy decoding yields the rest.

        score = 1 - k/T,  k = min {k : argmax p(. | x_<t) = x_t for all t > k}

    1 if no prefix is needed, 0 if the last token is wrong. Carlini et al. 2021 (arXiv 2012.07805); as a metric of unlearning
    Wang et al. 2025 (arXiv 2406.09179), eq. 4. One wrong token near the end hides everything before it.
    """

    idea: ClassVar[str] = "shortest prefix after which greedy decoding gives the rest"
    paper: ClassVar[str] = "Wang et al. 2025 (arXiv 2406.09179)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of tokens"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1]."""
        return np.array([_correct_suffix(entry.greedy) / len(entry) for entry in target.statistics])


def _correct_suffix(greedy: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of correct tokens that reaches the end: T - k."""
    wrong = np.flatnonzero(~greedy)  # greedy is bool [T]
    return len(greedy) - (int(wrong[-1]) + 1 if len(wrong) else 0)
