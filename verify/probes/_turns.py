"""Ask for a record at the end of a longer chat, of which the last answer alone is scored."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from verify.data.encoding import Encoded, Encoder, padding_token_id
from verify.data.records import Record
from verify.data.rewordings import question
from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.models.token_stats import compute_token_statistics
from verify.probes.base import Array, ProbeNotRunError

Turns = tuple[tuple[str, str], ...]
"""Turns of a chat: role and content."""
ANY_LENGTH = 1 << 30


def losses_after(loaded: LoadedModel, records: Sequence[Record], before: Callable[[str], Turns]) -> Array:
    """Compute mean losses of the records' answers at the end of a longer chat.

    Args:
        loaded: the model.
        records: records with a question [N].
        before: from a record's question to the turns in front of its last question; the question itself follows unless the last of
            these turns is already the user's.

    Returns:
        nats per token [N].

    Raises:
        ProbeNotRunError: there is no chat template, it refuses the chat, a record has no question, or a chat is too long.
    """
    if not loaded.tokenizer.chat_template:
        raise ProbeNotRunError("the tokenizer has no chat template")
    if without := sum(not question(record).strip() for record in records):
        raise ProbeNotRunError(f"{without} of {len(records)} records are plain texts, which ask nothing")
    encoder = Encoder(loaded.tokenizer, ANY_LENGTH)
    windows = []
    for index, record in enumerate(records):
        turns = before(question(record))
        try:
            [window] = encoder.encode([_chat(record, turns)])
        except InputError as error:
            raise ProbeNotRunError(f"the chat template does not take the longer chat: {error}") from None
        inserted = sum(role == "assistant" for role, _ in turns)
        windows.append(_without_first_answers(window, inserted, index))
    if long := sum(len(window.input_ids) > loaded.context_length for window in windows):
        raise ProbeNotRunError(f"{long} of {len(records)} chats are longer than the context of {loaded.context_length} tokens")
    return -compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer)).means


def _chat(record: Record, before: Turns) -> Record:
    """Return the record as a chat, with turns in front of its first question or in its place."""
    own = record.messages or (("user", record.prompt), ("assistant", record.completion))
    fields = record.turn_fields or ("",) * len(own)
    start = next(turn for turn, (role, _) in enumerate(own) if role == "user")
    # Where the last turn in front is the user's, it takes the place of the record's first question.
    rest = start + (before[-1][0] == "user")
    return replace(
        record,
        prompt="",
        completion="",
        messages=(*own[:start], *before, *own[rest:]),
        turn_fields=(*fields[:start], *("" for _ in before), *fields[rest:]) if record.turn_fields else (),
        secret=None,
    )


def _without_first_answers(window: Encoded, count: int, record: int) -> Encoded:
    """Return the window without the scores of its first answers, each of which is one run of scored tokens."""
    starts = np.flatnonzero(window.scored & ~np.roll(window.scored, 1))
    scored = window.scored.copy()
    scored[: starts[count]] = False
    return Encoded(window.input_ids, scored, scored, record)
