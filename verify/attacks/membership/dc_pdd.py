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

    f_t is the smoothed frequency of the token among the controls. Zhang et al. 2024 (arXiv 2409.14781), eq. 4. A high
    probability says more for a rare token than for a common one. It needs controls of the same kind, enough of them to know
    which tokens are common.

    Attributes:
        ceiling: a, what one token may add at most.
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
        seen = np.concatenate([window.input_ids[window.scored] for window in controls.windows])
        counts = np.bincount(seen, minlength=int(max(window.input_ids.max() for window in target.windows)) + 1)
        texts: list[list[NDArray[Any]]] = [[] for _ in range(len(target))]
        for window in target.windows:
            texts[window.record].append(window.input_ids[window.scored])
        scores = np.zeros(len(target))
        for record, entry in enumerate(target.statistics):
            # Add-one smoothing, without the record itself; only its tokens are looked up, as a vocabulary is far larger.
            text = np.concatenate(texts[record])
            tokens, first, times = np.unique(text, return_index=True, return_counts=True)
            own, length = (times, len(text)) if target.is_its_own_control else (0, 0)
            frequency = (counts[tokens] - own + 1) / (len(seen) - length + len(counts))
            likely = np.exp(entry.log_probability[first].astype(np.float64))
            scores[record] = np.minimum(likely * -np.log(frequency), self.ceiling).mean()
        return scores
