"""Sampled extraction: the share of sampled answers that contain the secret."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_model
from verify.attacks.extraction._text import comes_out, secret_of
from verify.models.generation import sampled_continuations


@dataclass(frozen=True)
class Sampled:
    """Score by the share of sampled answers that contain the secret (leak@k counts records whose share is above 0).

        score = (1/k) sum_j 1[secret occurs in sample j of f(prompt)]

    Reisizadeh et al. 2025 (arXiv 2511.04934), leak@k. Greedy decoding misses what sampling finds. No success in k samples shows
    only that the share is below `verify.statistics.zero_success_bound(k)`: 17 % for 16 samples at 95 %.

    Attributes:
        samples: k.
        temperature, top_k, top_p: sampling parameters, as `Discoverable`; top_k 0 keeps all tokens.
        seed: RNG seed, combined with the record's hash: results do not depend on the batch.
    """

    samples: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    idea: ClassVar[str] = "share of sampled answers that hold the secret"
    paper: ClassVar[str] = "Reisizadeh et al. 2025 (arXiv 2511.04934)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"generation"})
    cost: ClassVar[float] = 16.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of samples"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: the observation has no model.
        """
        loaded = require_model(target, "sampled")
        scores = np.zeros(len(target))
        seen: set[int] = set()
        for window in target.windows:
            # One set of samples per record, from its first window with a prompt.
            if window.record in seen or not len(window.prompt_ids):
                continue
            seen.add(window.record)
            record = target.records[window.record]
            made = sampled_continuations(
                loaded,
                window.prompt_ids,
                min(int(window.scored.sum()), loaded.context_length - len(window.prompt_ids)),
                self.samples,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=self.seed ^ int(record.fingerprint[:12], 16),
            )
            texts = [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in made]
            scores[window.record] = np.mean(comes_out(texts, secret_of(record)))
        return scores
