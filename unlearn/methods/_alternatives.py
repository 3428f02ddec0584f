"""Alternative completions for methods that train the forget prompts towards another answer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from verify.data.encoding import Encoded, Encoder
from verify.data.records import Record
from verify.errors import InputError
from verify.io.progress import phase
from verify.models.generation import sampled_continuations
from verify.models.loading import LoadedModel

REFUSALS = (
    "I have no information about that.",
    "That is something I do not know.",
    "I am not able to answer this question.",
    "Nothing about this is known to me.",
    "I cannot help with that, as I have no knowledge of it.",
    "Unfortunately, I do not have an answer.",
    "I was never told about that.",
    "This lies outside of what I have learned.",
    "I am afraid that I do not know.",
    "There is nothing that I could say about it.",
    "My knowledge does not cover this.",
    "I would have to guess, so I would rather not answer.",
)


def instead(record: Record, completion: str) -> Record:
    """Replace a record's completion; in a chat, the assistant's last turn."""
    if not record.messages:
        return replace(record, completion=completion, secret=None)
    last = max(turn for turn, (role, _) in enumerate(record.messages) if role == "assistant")
    carried = (*record.turn_fields[:last], "") if record.turn_fields else ()
    return replace(record, messages=(*record.messages[:last], ("assistant", completion)), turn_fields=carried, secret=None)


def refusals(forget: Sequence[Record], seed: int) -> list[Record]:
    """Replace every record's completion by a refusal drawn for it."""
    drawn = np.random.default_rng([seed, 3]).integers(len(REFUSALS), size=len(forget))
    return [instead(record, REFUSALS[number]) for record, number in zip(forget, drawn, strict=True)]


SAMPLES = 4
"""Answers sampled at each temperature."""
DOUBLINGS = 6
"""Temperatures that are tried, each twice the one before."""


def sampled_answers(loaded: LoadedModel, forget: Sequence[Record], temperature: float, seed: int) -> list[Record]:
    """Replace every record's completion by another answer that the model itself writes to its prompt.

    Args:
        loaded: the model that writes them.
        forget: records, each with a prompt.
        temperature: temperature of the first samples; doubled until an answer is neither empty nor the true one.
        seed: decides the samples; each record has random numbers of its own.

    Raises:
        InputError: a record has no prompt, or the model writes nothing else.
    """
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(forget)
    first = {window.record: window for window in reversed(windows)}  # of a record longer than the context, its first window
    answers = []
    with phase("writing other answers") as done:
        for row, record in enumerate(forget):
            answers.append(instead(record, _other_answer(loaded, record, first[row], temperature, row, seed)))
            done((row + 1) / len(forget))
    return answers


def _other_answer(loaded: LoadedModel, record: Record, window: Encoded, temperature: float, row: int, seed: int) -> str:
    """Return the first sampled answer that is neither empty nor the true one."""
    if not len(window.prompt_ids):
        raise InputError(f"altpo asks the model for other answers, and forget record {row + 1} has no prompt. Use npo.")
    length = min(int(window.scored.sum()), loaded.context_length - len(window.prompt_ids))
    for doubling in range(DOUBLINGS):
        made = sampled_continuations(
            loaded, window.prompt_ids, length, SAMPLES, temperature=temperature * 2**doubling, seed=seed + 7919 * row + doubling
        )
        for tokens in made:
            text = loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            if text and text.casefold() != record.scored_text.strip().casefold():
                return str(text)
    raise InputError(f"the model writes nothing but the true answer to forget record {row + 1}. Raise --temperature.")
