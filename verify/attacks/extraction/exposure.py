"""The secret's rank among secrets that could stand in its place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_controls, require_model
from verify.attacks.extraction._text import secret_of
from verify.chats import changed_fields
from verify.encoding import Encoder, padding_token_id
from verify.records import Record
from verify.statistics.extraction import exposure
from verify.token_stats import TokenStatistics, compute_token_statistics


@dataclass(frozen=True)
class Exposure:
    """How many bits the model gives away about which of the candidates is the secret.

        score = log2 |R| - log2 rank of the secret in R, by mean log-probability of its tokens

    Carlini et al. 2019 (arXiv 1802.08232), definition 2. R is the secret with the secrets of `candidates` controls in its place;
    it is the candidates' likeness to the secret that makes the figure mean something, so give controls of the same kind. The
    mean per token stands for the perplexity, since candidates differ in length.

    Attributes:
        candidates: how many others at most; the score cannot exceed log2 of one more.
        seed: which.
    """

    candidates: int = 31
    seed: int = 0

    idea: ClassVar[str] = "rank of the secret among others in its place"
    paper: ClassVar[str] = "Carlini et al. 2019 (arXiv 1802.08232)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"own passes", "controls"})
    cost: ClassVar[float] = 32.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "bits"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """The score above, float64 [N], between 0 and log2(candidates + 1).

        Raises:
            InputError: the observation has no model or no controls.
        """
        loaded, controls = require_model(target, "exposure"), require_controls(target, "exposure")
        order = np.random.default_rng(self.seed).permutation(len(controls))
        pool = [secret_of(controls.records[index]) for index in order]
        encoder = Encoder(loaded.tokenizer, loaded.context_length, "split")
        scores = np.zeros(len(target))
        for index, record in enumerate(target.records):
            own = secret_of(record)
            # A candidate that the record says elsewhere would be scored there.
            others = [text for text in dict.fromkeys(pool) if text not in record.scored_text][: self.candidates]
            if not others:
                continue  # no other secret is known: nothing can be given away among one
            versions = [_with_secret(record, text) for text in (own, *others)]
            statistics = compute_token_statistics(loaded.model, encoder.encode(versions), padding_token_id(loaded.tokenizer))
            likelihoods = [_secret_mean(entry) for entry in statistics]
            scores[index] = exposure(likelihoods[0], likelihoods[1:])
        return scores


def _with_secret(record: Record, text: str) -> Record:
    """The record with another secret in the place of its own."""
    own = secret_of(record)
    if record.messages:
        turns = tuple((role, content.replace(own, text)) for role, content in record.messages)
        carried = tuple(changed_fields(fields, lambda part: part.replace(own, text)) for fields in record.turn_fields)
        if (turns, carried) == (record.messages, record.turn_fields) and text != own:  # the whole of the scored turns is the secret
            last = max(place for place, (role, _) in enumerate(turns) if role == "assistant")
            turns = (*turns[:last], ("assistant", text), *turns[last + 1 :])
            carried = tuple("" if place == last else fields for place, fields in enumerate(carried))
        return replace(record, messages=turns, turn_fields=carried, secret=text if record.secret else None)
    return replace(record, completion=record.completion.replace(own, text), secret=text if record.secret else None)


def _secret_mean(entry: TokenStatistics) -> float:
    chosen = entry.secret if entry.secret.any() else np.ones(len(entry), dtype=bool)
    return float(np.mean(entry.log_probability[chosen], dtype=np.float64))
