"""(n, p)-discoverable extraction under temperature, top-k and top-p sampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.attacks.base import Family, Need, Observation, require_model
from verify.attacks.extraction.extraction_probability import probability_within
from verify.data.encoding import collate, padding_token_id
from verify.errors import InputError
from verify.models.log_probabilities import scored_logits

BATCH = 8


@dataclass(frozen=True)
class Discoverable:
    """Score by the probability that at least one of n samples is the secret passage, under temperature, top-k and top-p.

        score = 1 - (1 - p_z)^n,  p_z = product over the secret's tokens of their probability after the truncation

    Hayes et al. 2024 (arXiv 2410.19482), definition 3.2: the record is (n, p)-discoverable where the score is at least p. A secret
    token removed by the truncation makes the score 0: under these settings no number of samples finds the secret.

    Attributes:
        queries: n, at least 1.
        temperature: divisor of the logits, > 0.
        top_k: number of most probable tokens sampled from; 0 keeps all.
        top_p: of those, the smallest set of most probable tokens that reaches this mass, in (0, 1].
    """

    queries: int = 1000
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 1.0

    idea: ClassVar[str] = "probability that n samples under top-k and top-p hold the secret"
    paper: ClassVar[str] = "Hayes et al. 2024 (arXiv 2410.19482)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"own passes"})
    cost: ClassVar[float] = 1.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of tries"

    def __post_init__(self) -> None:
        if self.queries < 1 or self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"queries={self.queries}, temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p} cannot be used. "
                "Give queries of at least 1, a temperature above 0, top_k of at least 0 and top_p in (0, 1]."
            )

    @torch.inference_mode()
    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: the observation has no model.
        """
        loaded = require_model(target, "discoverable")
        device, pad = next(loaded.model.parameters()).device, padding_token_id(loaded.tokenizer)
        # Records with a marked secret; in the others every scored token counts.
        named = {window.record for window in target.windows if (window.secret & window.scored).any()}
        total = np.zeros(len(target))
        order = sorted(target.windows, key=lambda window: len(window.input_ids))
        for start in range(0, len(order), BATCH):
            windows = order[start : start + BATCH]
            batch = {name: values.to(device) for name, values in collate(windows, pad).items()}
            logits, tokens, _ = scored_logits(loaded.model, batch)  # [N, V] and [N], N scored tokens of the batch, row by row
            values = self.truncated(logits.float()).gather(-1, tokens[:, None])[:, 0].double().cpu().numpy()
            ends = np.cumsum([int(window.scored.sum()) for window in windows])
            for window, part in zip(windows, np.split(values, ends[:-1]), strict=True):
                # A record whose secret is marked counts its secret tokens only, in all its windows.
                counted = window.secret[window.scored] if window.record in named else True
                total[window.record] += np.sum(part, where=counted)
        return probability_within(total, self.queries)

    def truncated(self, logits: Tensor) -> Tensor:
        """Compute log-probabilities [N, V] after temperature, top-k and top-p; -inf for tokens that are cut off.

        Top-k comes first, then top-p of the rest, as in `transformers`.
        """
        scaled = logits / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:
            kept = scaled.topk(self.top_k, dim=-1)
            scaled = torch.full_like(scaled, -torch.inf).scatter(-1, kept.indices, kept.values)
        if self.top_p < 1:
            ordered, tokens = scaled.sort(dim=-1, descending=True)
            probability = ordered.softmax(-1)
            beyond = probability.cumsum(-1) - probability >= self.top_p  # the token that reaches the mass stays
            scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, tokens, beyond), -torch.inf)
        return scaled.log_softmax(-1)
