"""Exposure: the secret's rank among candidate secrets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_controls, require_model
from verify.attacks.extraction._text import secret_of
from verify.data.chats import changed_fields
from verify.data.encoding import Encoder, padding_token_id
from verify.data.records import Record
from verify.models.token_stats import compute_token_statistics
from verify.models.token_table import TokenStatistics
from verify.statistics.extraction import exposure


@dataclass(frozen=True)
class Exposure:
    """Score by exposure: the bits that the model reveals about which candidate is the secret.

        score = log2 |R| - log2 rank of the secret in R, by mean log-probability of its tokens

    Carlini et al. 2019 (arXiv 1802.08232), definition 2. R is the secret and the secrets of up to `candidates` controls, each
    substituted into the record. The figure is meaningful only where the candidates are like the secret, so give controls of the
    same kind. Candidates differ in length, hence the mean per token in place of the whole log-probability.

    Attributes:
        candidates: largest number of other candidates; the score is at most log2(candidates + 1).
        seed: seed of their choice.
    """

    candidates: int = 31
    seed: int = 0

    idea: ClassVar[str] = "rank of the secret among secrets of other records put in its place"
    paper: ClassVar[str] = "Carlini et al. 2019 (arXiv 1802.08232)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"own passes", "controls"})
    cost: ClassVar[float] = 32.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "bits"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], between 0 and log2(candidates + 1).

        Raises:
            InputError: the observation has no model or no controls.
        """
        loaded, controls = require_model(target, "exposure"), require_controls(target, "exposure")
        order = np.random.default_rng(self.seed).permutation(len(controls))
        pool = list(dict.fromkeys(secret_of(controls.records[index]) for index in order))
        encoder = Encoder(loaded.tokenizer, loaded.context_length, "split")
        scores = np.zeros(len(target))
        for index, record in enumerate(target.records):
            own = secret_of(record)
            # Candidates that occur in the record's own text are left out, the secret itself among them.
            others = list(islice((text for text in pool if text not in record.scored_text), self.candidates))
            if not others:
                continue  # no other candidate: exposure within a set of one is 0 bits
            versions = [_with_secret(record, text) for text in (own, *others)]
            statistics = compute_token_statistics(loaded.model, encoder.encode(versions), padding_token_id(loaded.tokenizer))
            # The first version is the record itself.
            likelihoods = [_secret_mean(entry) for entry in statistics]
            scores[index] = exposure(likelihoods[0], likelihoods[1:])
        return scores


def _with_secret(record: Record, text: str) -> Record:
    """Return the record with another secret in place of its own."""
    own = secret_of(record)
    if record.messages:
        turns = tuple((role, content.replace(own, text)) for role, content in record.messages)
        carried = tuple(changed_fields(fields, lambda part: part.replace(own, text)) for fields in record.turn_fields)
        # Nothing replaced: without a named secret, `own` is the text of all scored turns together. The last one takes the text.
        if (turns, carried) == (record.messages, record.turn_fields) and text != own:
            last = max(turn for turn, (role, _) in enumerate(turns) if role == "assistant")
            turns = (*turns[:last], ("assistant", text), *turns[last + 1 :])
            carried = tuple("" if turn == last else fields for turn, fields in enumerate(carried))
        return replace(record, messages=turns, turn_fields=carried, secret=text if record.secret else None)
    return replace(record, completion=record.completion.replace(own, text), secret=text if record.secret else None)


def _secret_mean(entry: TokenStatistics) -> float:
    """Compute the mean log-probability of the secret's tokens, of all scored ones where none is marked, nats per token."""
    chosen = entry.secret if entry.secret.any() else np.ones(len(entry), dtype=bool)
    return float(np.mean(entry.log_probability[chosen], dtype=np.float64))
