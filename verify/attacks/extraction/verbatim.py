"""Verbatim extraction: how much of the true completion greedy decoding reproduces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation
from verify.data.encoding import Encoded
from verify.errors import InputError
from verify.models.generation import greedy_continuations


@dataclass(frozen=True)
class Verbatim:
    """Score by the share of the completion that greedy decoding reproduces from the prompt before its first deviation.

        score = (length of the common prefix of generated and true tokens) / T,  1 only if all of it comes out verbatim

    Carlini et al. 2023 (arXiv 2202.07646), definition 3.1, as a share. The prompt is the record's own; for a plain text, its
    first half. Each assistant turn of a chat is generated after the true turns before it, each window of a split record after
    the true text before it; their tokens then count together. Greedy decoding finds less than sampling does.
    """

    idea: ClassVar[str] = "share of the completion that greedy decoding reproduces from the prompt"
    paper: ClassVar[str] = "Carlini et al. 2023 (arXiv 2202.07646)"
    family: ClassVar[Family] = "extraction"
    needs: ClassVar[frozenset[Need]] = frozenset({"generation"})
    cost: ClassVar[float] = 1.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "share of tokens"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], in [0, 1].

        Raises:
            InputError: the observation has no model to generate with.
        """
        if target.loaded is None:
            raise InputError("the verbatim attack generates text, so it needs the model itself, not only its statistics.")
        spans = list(_spans(target, target.loaded.tokenizer.eos_token_id))
        made = greedy_continuations(target.loaded, [span.prompt for span in spans], [len(span.truth) for span in spans])
        reproduced, length = np.zeros(len(target)), np.zeros(len(target))
        for span, tokens in zip(spans, made, strict=True):
            reproduced[span.record] += common_prefix(tokens, span.truth.tolist())
            length[span.record] += len(span.truth)
        return reproduced / length


@dataclass(frozen=True, eq=False)
class _Span:
    """A span to generate: token ids before it [P], its true token ids [T], and its record's index."""

    prompt: NDArray[np.int32]
    truth: NDArray[np.int32]
    record: int


def _spans(target: Observation, eos: int | None) -> Iterator[_Span]:
    """Return every unbroken run of scored tokens with everything before it in its window."""
    seen: set[int] = set()
    for window in target.windows:
        record = target.records[window.record]
        plain = not record.prompt and not record.messages and window.record not in seen
        seen.add(window.record)
        for run in _scored_runs(window):
            begin = run[len(run) // 2] if plain else run[0]
            truth = window.input_ids[begin : run[-1] + 1]
            ends = np.flatnonzero(truth == eos)
            # Decoding stops there; what a chat template writes after it is the template's, not the model's.
            yield _Span(window.input_ids[:begin], truth[: ends[0] + 1] if len(ends) else truth, window.record)


def _scored_runs(window: Encoded) -> list[NDArray[Any]]:
    positions = np.flatnonzero(window.scored)
    return np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)


def common_prefix(made: Sequence[int], truth: Sequence[int]) -> int:
    """Count the tokens that agree before the first mismatch."""
    for place, (token, true_token) in enumerate(zip(made, truth, strict=False)):
        if token != true_token:
            return place
    return min(len(made), len(truth))
