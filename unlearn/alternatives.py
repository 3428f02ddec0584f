"""What a model may say instead of what it is to forget."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from verify.records import Record

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
    """The same prompt with another completion; of a chat, the assistant's last turn is replaced."""
    if not record.messages:
        return replace(record, completion=completion, secret=None)
    last = max(place for place, (role, _) in enumerate(record.messages) if role == "assistant")
    carried = (*record.turn_fields[:last], "") if record.turn_fields else ()
    return replace(record, messages=(*record.messages[:last], ("assistant", completion)), turn_fields=carried, secret=None)


def refusals(forget: Sequence[Record], seed: int) -> list[Record]:
    """Every record with a refusal drawn for it."""
    drawn = np.random.default_rng([seed, 3]).integers(len(REFUSALS), size=len(forget))
    return [instead(record, REFUSALS[number]) for record, number in zip(forget, drawn, strict=True)]
