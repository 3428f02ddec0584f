"""Window-based comparison: the share of windows in which the model beats the base model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, token_gains
from verify.errors import InputError


@dataclass(frozen=True)
class Wbc:
    """Score by the share of windows of consecutive tokens that are likelier than under the base model, over window sizes.

        score = mean over w in W of 1/(T - w + 1) sum_i [sum_{t in i..i+w-1} delta_t > 0],    delta_t = l_t(target) - l_t(base)

    Chen et al. 2026 (arXiv 2601.02751): each window has one vote, so a few rare tokens with large losses cannot outweigh the
    rest, as they do in a mean. Sizes above T count as T. A window without a difference counts half, so that the score of swapped
    models is 1 minus this one. It saturates where fine-tuning made every text likelier: compare with retrained models. Do not use
    it where the base model was trained on the record too.

    Attributes:
        sizes: W, in tokens; the default is the paper's geometric grid from 2 to 40.
    """

    sizes: tuple[int, ...] = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)

    idea: ClassVar[str] = "share of windows whose loss is below that under the model before fine-tuning"
    paper: ClassVar[str] = "Chen et al. 2026 (arXiv 2601.02751)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "reference model", "reference tokens"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of windows"

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise InputError(f"window sizes {self.sizes} cannot be used. Give at least one, each of at least 1 token.")

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: no reference model was scored.
        """
        return np.array([self._share(gain) for gain in token_gains(target, references, "wbc")])

    def _share(self, gain: NDArray[np.float64]) -> float:
        """Compute the mean share of windows with a positive sum of `gain` [T] over all sizes, O(T) per size."""
        total = np.concatenate([[0.0], np.cumsum(gain)])  # [T + 1]; differences are the sums of windows
        shares = []
        for size in (min(size, len(gain)) for size in self.sizes):
            sums = total[size:] - total[:-size]
            shares.append(float(np.mean((np.sign(sums) + 1) / 2)))
        return float(np.mean(shares))
