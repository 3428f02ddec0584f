"""Early-stopping rules for objectives without a lower bound."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import nn

from verify.attacks.extraction.extraction_likelihood import ExtractionLikelihood
from verify.data.encoding import Encoded, Encoder, padding_token_id
from verify.data.records import Record
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import vocabulary_size
from verify.models.token_stats import compute_token_statistics

EXTRACTION_RECORDS = 32
"""Maximum number of records of a set that are continued for its extraction likelihood."""


@dataclass(frozen=True)
class Memory:
    """How well a model remembers a set of records, from one teacher-forced pass.

    Attributes:
        loss: mean over records of their loss, nats per token.
        accuracy: memorization accuracy: share of all scored tokens that are the model's first choice.
        extraction: computes the extraction likelihood EL_10; called only when it decides, since it takes generations. None
            if generation is not available.
    """

    loss: float
    accuracy: float
    extraction: Callable[[], float] | None = None


@runtime_checkable
class StopRule(Protocol):
    """Protocol of a stop rule, evaluated every `check_every` optimizer steps (0: at the end of every epoch).

    Attributes:
        reads_unseen: whether it compares with the holdout set.
    """

    reads_unseen: ClassVar[bool]

    @property
    def check_every(self) -> int:
        """Optimizer steps between two checks; 0 checks at the end of every epoch."""
        ...

    def reason(self, forget: Memory, unseen: Memory | None, vocabulary: int) -> str | None:
        """Return why to stop now, or None to continue.

        Args:
            forget: the model as it is, on the forget set.
            unseen: the model before unlearning, on the holdout set; None where none was given.
            vocabulary: V, so that log V is the loss of a model that knows nothing.
        """
        ...


@dataclass(frozen=True)
class ForgetLossCeiling:
    """Stop once the forget set's mean loss reaches a ceiling.

    Attributes:
        ceiling: nats per token; None means log V, the loss of a model that knows nothing.
        check_every: optimizer steps between two checks; 0 checks at the end of every epoch.
    """

    ceiling: float | None = None
    check_every: int = 0

    reads_unseen: ClassVar[bool] = False

    def reason(self, forget: Memory, unseen: Memory | None, vocabulary: int) -> str | None:
        """See `StopRule`."""
        ceiling = math.log(vocabulary) if self.ceiling is None else self.ceiling
        return f"the forget loss {forget.loss:.3f} reached the ceiling {ceiling:.3f}" if forget.loss >= ceiling else None


@dataclass(frozen=True)
class MemorizationBelowUnseen:
    """Stop once the forget set is remembered no better than text never seen (Jang et al. 2023, section 3).

    Both the memorization accuracy (one teacher-forced pass) and the extraction likelihood EL_10 (generations, so computed only once
    the accuracy is low enough) must be at most their means on unseen text. Without a holdout set the rule stops at log V.

    Attributes:
        check_every: optimizer steps between two checks; 0 checks at the end of every epoch.
    """

    check_every: int = 1

    reads_unseen: ClassVar[bool] = True

    def reason(self, forget: Memory, unseen: Memory | None, vocabulary: int) -> str | None:
        """See `StopRule`."""
        if unseen is None:
            return ForgetLossCeiling().reason(forget, unseen, vocabulary)
        if forget.accuracy > unseen.accuracy:
            return None
        reason = f"the forget set's memorization accuracy {forget.accuracy:.3f} fell to that of unseen text, {unseen.accuracy:.3f}"
        if forget.extraction is None or unseen.extraction is None:
            return reason
        here, there = forget.extraction(), unseen.extraction()
        return f"{reason}, and its extraction likelihood {here:.3f} to {there:.3f}" if here <= there else None


def stop_check(
    loaded: LoadedModel, rule: StopRule | None, forget: Sequence[Encoded], holdout: Sequence[Record] | None, encoder: Encoder
) -> Callable[[], str | None] | None:
    """Build the stop check, and compute what the rule needs from the model before unlearning.

    Args:
        loaded: the model before unlearning.
        rule: the stop rule; None returns None.
        forget: windows of the forget set.
        holdout: never-trained records.
        encoder: the run's encoder.
    """
    if rule is None:
        return None
    pad = padding_token_id(loaded.tokenizer)
    unseen = None
    if holdout and rule.reads_unseen:
        windows = encoder.encode(holdout)
        level = extraction_likelihood(loaded, windows)  # of the model as it is now, before the first step
        unseen = dataclasses.replace(memory_of(loaded.model, windows, pad), extraction=lambda: level)
    vocabulary = vocabulary_size(loaded.model)
    # Wrappers used in training share the model's layers, so each call sees the current weights.
    return lambda: rule.reason(
        dataclasses.replace(memory_of(loaded.model, forget, pad), extraction=lambda: extraction_likelihood(loaded, forget)),
        unseen,
        vocabulary,
    )


def memory_of(model: nn.Module, windows: Sequence[Encoded], pad_token_id: int) -> Memory:
    """Compute loss and memorization accuracy of a set in one teacher-forced pass in evaluation mode."""
    statistics = compute_token_statistics(model, windows, pad_token_id)
    # Accuracy is over all tokens of the set (a long record counts more), the loss a mean over records.
    right, total = sum(int(entry.greedy.sum()) for entry in statistics), sum(len(entry) for entry in statistics)
    return Memory(float(np.mean([entry.loss for entry in statistics])), right / total)


def extraction_likelihood(loaded: LoadedModel, windows: Sequence[Encoded]) -> float:
    """Compute EL_10 of a set (Jang et al. 2023, eq. 4), averaged over at most `EXTRACTION_RECORDS` evenly spaced windows."""
    count = min(EXTRACTION_RECORDS, len(windows))
    chosen = [windows[index] for index in np.unique(np.linspace(0, len(windows) - 1, count).astype(int))]
    numbered = [Encoded(window.input_ids, window.scored, window.secret, row) for row, window in enumerate(chosen)]
    training = loaded.model.training
    loaded.model.eval()
    try:
        return float(ExtractionLikelihood().of_windows(loaded, numbered, len(numbered)).mean())
    finally:
        loaded.model.train(training)
