"""Inverse greedy extraction: the share of tokens that are the least likely of the vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_model
from verify.data.encoding import collate, padding_token_id
from verify.errors import InputError
from verify.models.log_probabilities import scored_logits
from verify.models.token_stats import BATCH_TOKENS, length_sorted_batches


@dataclass(frozen=True)
class InverseGreedy:
    """Score by the share of tokens among the k least likely of the vocabulary, given the true text before each.

        score = 1/T sum_t [|{v : p(v | x_<t) < p(x_t | x_<t)}| < k]

    Hu et al. 2026 (arXiv 2608.29943), decoding with the least likely token: a method that pushes the probability of the records
    down without bound writes them at the other end of the distribution, where whoever reverses the model reads them. With k = 1
    the first tokens that count without a gap are what inverse greedy decoding writes, as `Verbatim` is for greedy decoding.
    If a record names a secret, only its tokens count. Tokens that nothing was trained on are unlikelier still and hide a
    record from k = 1: where a vocabulary has many of them, raise k and compare with the references, which write the true tokens
    in the upper part of their distributions and score close to 0.

    Attributes:
        lowest: k, at least 1.
    """

    lowest: int = 1

    idea: ClassVar[str] = "share of tokens that are the least likely of all, as over-forgetting leaves them"
    paper: ClassVar[str] = "Hu et al. 2026 (arXiv 2608.29943)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"own passes"})
    cost: ClassVar[float] = 1.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of tokens"

    def __post_init__(self) -> None:
        if self.lowest < 1:
            raise InputError(f"lowest={self.lowest} cannot be used. Give at least 1 token.")

    @torch.inference_mode()
    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: the observation has no model.
        """
        loaded = require_model(target, "inverse_greedy")
        device, pad = next(loaded.model.parameters()).device, padding_token_id(loaded.tokenizer)
        found, counted = np.zeros(len(target)), np.zeros(len(target))
        # `secret` marks every scored token of a record that names none.
        for indices in length_sorted_batches([len(window.input_ids) for window in target.windows], BATCH_TOKENS):
            windows = [target.windows[index] for index in indices]
            batch = {name: values.to(device) for name, values in collate(windows, pad).items()}
            logits, tokens, _ = scored_logits(loaded.model, batch)  # [N, V] and [N], row by row
            below = (logits < logits.gather(-1, tokens[:, None])).sum(-1)  # tokens that are less likely [N]
            ends = np.cumsum([int(window.scored.sum()) for window in windows])[:-1]
            for window, part in zip(windows, np.split((below < self.lowest).cpu().numpy(), ends), strict=True):
                chosen = window.secret[window.scored]
                found[window.record] += part[chosen].sum()
                counted[window.record] += chosen.sum()
        return found / np.maximum(counted, 1)
