"""Neighbourhood attack: the loss relative to that of texts with a few tokens replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities, require_controls, require_model
from verify.data.encoding import Encoded, padding_token_id
from verify.models.token_stats import compute_token_statistics


@dataclass(frozen=True)
class Neighbourhood:
    """Score by how much likelier the record is than its neighbours.

        score = mean_t l_t(text) - mean over neighbours of mean_t l_t(neighbour)

    Mattern et al. 2023 (arXiv 2305.18462), eq. 2. In a neighbour, a share of the scored tokens is replaced. The paper proposes
    replacements with a masked language model; here they are drawn from the controls' tokens, so that no other model is needed and
    no scored record contributes words. Use it where no reference model is available; otherwise prefer `reference`.

    Attributes:
        neighbours: number of neighbours per window.
        share: share of the scored tokens that is replaced; at least one token is.
        seed: RNG seed, combined with the record's hash and the window's tokens: results do not depend on the batch.
    """

    neighbours: int = 8
    share: float = 0.15
    seed: int = 0

    idea: ClassVar[str] = "trained text is likelier than texts that differ in a few tokens"
    paper: ClassVar[str] = "Mattern et al. 2023 (arXiv 2305.18462)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "own passes", "controls"})
    cost: ClassVar[float] = 8.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: the observation has no model or no controls.
        """
        loaded, controls = require_model(target, "neighbourhood"), require_controls(target, "neighbourhood")
        tokens = np.concatenate([window.scored_ids for window in controls.windows])
        made: list[Encoded] = []
        owner: list[int] = []  # the record of each neighbour; as records of their own, neighbours get statistics of their own
        for window in target.windows:
            seed = int(target.records[window.record].fingerprint[:12], 16)
            # The window's tokens are part of the seed, so that the windows of one record differ in their replacements.
            rng = np.random.default_rng([self.seed, seed, int(window.input_ids.sum())])
            made += [self._neighbour(window, tokens, rng, len(made) + number) for number in range(self.neighbours)]
            owner += [window.record] * self.neighbours
        statistics = compute_token_statistics(loaded.model, made, padding_token_id(loaded.tokenizer))
        sums, counts = np.zeros(len(target)), np.zeros(len(target))
        for record, entry in zip(owner, statistics, strict=True):
            sums[record] += np.sum(entry.log_probability, dtype=np.float64)
            counts[record] += len(entry)
        return np.asarray(mean_log_probabilities(target) - sums / counts, dtype=np.float64)

    def _neighbour(self, window: Encoded, tokens: NDArray[np.int32], rng: np.random.Generator, number: int) -> Encoded:
        """Return a copy of the window, as record `number`, with a share of its scored tokens replaced."""
        positions = np.flatnonzero(window.scored)
        chosen = rng.permutation(positions)[: max(1, round(self.share * len(positions)))]
        ids = window.input_ids.copy()
        ids[chosen] = rng.choice(tokens, len(chosen))
        return Encoded(ids, window.scored, window.secret, number)
