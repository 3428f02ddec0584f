"""ReCaLL: the relative change of the loss behind a never-trained prefix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import (
    Family,
    Need,
    Observation,
    log_probabilities_of,
    mean_log_probabilities,
    require_controls,
    require_model,
)
from verify.data.encoding import Encoder
from verify.data.records import Record
from verify.models.loading import LoadedModel


@dataclass(frozen=True)
class Recall:
    """Score by how little a never-trained prefix changes the record's loss, relative to that loss.

        score = mean_t l_t(text | prefix) / mean_t l_t(text)

    Xie et al. 2024 (arXiv 2406.15968), eq. 2. A prefix of unseen text makes trained text less likely and hardly changes unseen
    text. The prefix is drawn from the controls, never from the scored set, which would leak the labels. Where the context is
    short, shots are dropped from the prefix; the record is never shortened.

    Attributes:
        shots: number of controls in the prefix.
        seed: seed of their choice.
    """

    shots: int = 4
    seed: int = 0

    idea: ClassVar[str] = "an unseen prefix disturbs trained text more than other text"
    paper: ClassVar[str] = "Xie et al. 2024 (arXiv 2406.15968)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "own passes", "controls"})
    cost: ClassVar[float] = 2.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "ratio of losses"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: the observation has no model or no controls.
        """
        loaded, controls = require_model(target, "recall"), require_controls(target, "recall")
        order = np.random.default_rng(self.seed).permutation(len(controls))
        prefixed = []
        for number, record in enumerate(target.records):
            # A control is never its own prefix; the next one takes its place.
            first = order[: self.shots + 1]
            chosen = [index for index in first if not (target.is_its_own_control and index == number)][: self.shots]
            prefixed.append(_fitting(loaded, [controls.records[index] for index in chosen], record))
        conditional = log_probabilities_of(loaded, prefixed)
        # A loss of exactly zero would divide by zero.
        return np.asarray(conditional / np.minimum(mean_log_probabilities(target), -1e-12), dtype=np.float64)


def _fitting(loaded: LoadedModel, shots: Sequence[Record], record: Record) -> Record:
    """Prepend as many shots as the context has room for, without splitting the record into more windows."""
    encoder = Encoder(loaded.tokenizer, loaded.context_length, "split")
    for count in range(len(shots), 0, -1):
        prefix = "\n\n".join(f"{shot.prompt} {shot.scored_text}".strip() for shot in shots[:count])
        candidate = _behind(prefix, record)
        if len(encoder.encode([candidate])) == len(encoder.encode([record])):
            return candidate
    return record


def _behind(prefix: str, record: Record) -> Record:
    """Return the record with the prefix before its prompt, or before the first message of a chat."""
    if record.messages:
        (role, content), *rest = record.messages
        return replace(record, messages=((role, f"{prefix}\n\n{content}"), *rest), secret=None)
    return replace(record, prompt=f"{prefix}\n\n{record.prompt}", secret=None)
