"""DC-PDD: the loss calibrated by token frequency."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_controls
from verify.errors import InputError


@dataclass(frozen=True)
class DcPdd:
    """Score by the cross entropy between the model's token probabilities and token frequencies in other text.

        score = mean over first occurrences t of min(p_t log(1 / f_t), a)

    p_t is the model's probability of the token, f_t its smoothed frequency among the controls. Zhang et al. 2024
    (arXiv 2409.14781), eq. 4. A high probability is stronger evidence for a rare token than for a common one. It needs controls of
    the same kind, enough of them to estimate which tokens are common.

    Attributes:
        ceiling: a, the largest contribution of one token.
    """

    ceiling: float = 1.0

    idea: ClassVar[str] = "high probability of rare tokens marks trained text"
    paper: ClassVar[str] = "Zhang et al. 2024 (arXiv 2409.14781)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"own passes", "controls"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: there are no controls, or the tokens were not kept.
        """
        controls = require_controls(target, "dc_pdd")
        if not target.windows or not controls.windows:
            raise InputError("dc_pdd needs the model itself, not only its statistics.")
        seen = np.concatenate([window.scored_ids for window in controls.windows])
        counts = np.bincount(seen, minlength=int(max(window.input_ids.max() for window in target.windows)) + 1)
        texts: list[list[NDArray[Any]]] = [[] for _ in range(len(target))]
        for window in target.windows:
            texts[window.record].append(window.scored_ids)
        scores = np.zeros(len(target))
        for record, entry in enumerate(target.statistics):
            # Add-one smoothing; a control is subtracted from its own counts. The vocabulary of the denominator is cut at the
            # largest token id seen, and only the record's own tokens are looked up.
            text = np.concatenate(texts[record])
            tokens, first, times = np.unique(text, return_index=True, return_counts=True)
            own, length = (times, len(text)) if target.is_its_own_control else (0, 0)
            frequency = (counts[tokens] - own + 1) / (len(seen) - length + len(counts))
            # If a token occurs several times, only the first occurrence counts.
            likely = np.exp(entry.log_probability[first].astype(np.float64))
            scores[record] = np.minimum(likely * -np.log(frequency), self.ceiling).mean()
        return scores
