"""Extraction likelihood (EL_n): n-gram overlap of generated continuations with the true text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_model
from verify.data.encoding import Encoded
from verify.models.generation import greedy_continuations
from verify.models.loading import LoadedModel


@dataclass(frozen=True)
class ExtractionLikelihood:
    """Score by the mean n-gram overlap of the model's continuation of a prefix with the true rest, over prefixes.

        score = mean over prefixes t of |n-grams of f(x_<t) that occur in x_>=t| / |n-grams of f(x_<t)|

    Jang et al. 2023 (arXiv 2210.01504), eq. 4 (EL_n). The paper's mean is over all prefixes, one generation per token; here it is
    estimated from `prefixes` of them, evenly spaced over the scored part. Where fewer than n tokens are left, the n-grams are as
    long as the rest.

    Attributes:
        n: length of the n-grams, in tokens.
        prefixes: number of prefixes per window.
    """

    n: int = 10
    prefixes: int = 4

    idea: ClassVar[str] = "overlap of n-grams between continuations and the true text"
    paper: ClassVar[str] = "Jang et al. 2023 (arXiv 2210.01504)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"generation"})
    cost: ClassVar[float] = 4.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of n-grams"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: the observation has no model.
        """
        loaded = require_model(target, "extraction_likelihood")
        return self.of_windows(loaded, target.windows, len(target))

    def of_windows(self, loaded: LoadedModel, windows: Sequence[Encoded], records: int) -> NDArray[np.float64]:
        """Score encoded records.

        Args:
            loaded: the model.
            windows: encoded records; `Encoded.record` gives each window's record.
            records: number of records.

        Returns:
            float64 [records]; 0 for a record without a window to continue.
        """
        prompts, truths, owner = [], [], []
        for window in windows:
            positions = np.flatnonzero(window.scored)
            # Of prefixes + 1 evenly spaced points the last, the text's last token, is dropped.
            for begin in np.unique(positions[np.linspace(0, len(positions) - 1, self.prefixes + 1).astype(int)[:-1]]):
                if begin > 0:
                    prompts.append(window.input_ids[:begin])
                    truths.append(window.input_ids[begin : positions[-1] + 1].tolist())
                    owner.append(window.record)
        made = greedy_continuations(loaded, prompts, [len(truth) for truth in truths])
        sums, counts = np.zeros(records), np.zeros(records)
        for record, written, truth in zip(owner, made, truths, strict=True):
            sums[record] += overlap(written, truth, self.n)
            counts[record] += 1
        return sums / np.maximum(counts, 1)


def overlap(made: Sequence[int], truth: Sequence[int], n: int) -> float:
    """Compute the share of n-grams of `made` that occur in `truth`; n is at most the shorter length; 0 where either is empty."""
    size = min(n, len(made), len(truth))
    if not size:
        return 0.0
    grams = [tuple(made[start : start + size]) for start in range(len(made) - size + 1)]
    known = {tuple(truth[start : start + size]) for start in range(len(truth) - size + 1)}
    return sum(gram in known for gram in grams) / len(grams)
