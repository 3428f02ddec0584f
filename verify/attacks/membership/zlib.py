"""Zlib attack: the loss relative to the text's compressed size."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation


@dataclass(frozen=True)
class Zlib:
    """Score by the ratio of the record's log-likelihood to the size of its compressed text.

        score = sum_t l_t / len(zlib(scored text))

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2. The numerator is the sum, not the mean: it and the compressed size both
    grow with the text, so that length cancels. Of little use on texts of a few words, which do not compress.
    """

    idea: ClassVar[str] = "trained records have a low loss for how complex their text is"
    paper: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per compressed byte"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N]."""
        likelihood = np.array([np.sum(entry.log_probability, dtype=np.float64) for entry in target.statistics])
        # Bytes of the UTF-8 text, compressed at zlib's default level, its few header bytes included.
        size = np.array([len(zlib.compress(record.scored_text.encode())) for record in target.records])
        return np.asarray(likelihood / size, dtype=np.float64)
