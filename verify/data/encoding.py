"""Encode records into tokens and the mask of scored tokens; the same code trains and audits.

Two tools that disagree on one token (the last, the first of the answer, the end-of-text) measure different quantities. The choice
is therefore made here, once, for training and all statistics:

- scored: the tokens of the completion (the whole text for a plain text, the assistant's turns for a chat) and the end-of-text token
  that closes it;
- never scored: the prompt, leading special tokens, padding, and the very first token, which nothing predicts.

Text is data: a record that spells out "</s>" is encoded as those characters, not as the special token, unless the record asks for
it (`Record.special_tokens`).
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from verify.data.chat_encoding import ChatEncoder, spells
from verify.data.records import Record
from verify.errors import InputError

Overflow = Literal["refuse", "split"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One window of one record, as the model sees it.

    Attributes:
        input_ids: token ids, int32 [L].
        scored: whether the token at this position is scored, given all before it, bool [L]; scored[0] is False.
        secret: whether it is a scored token of the secret passage, bool [L]; equal to `scored` where the record names no secret.
        record: index of the record in the list it came from.
    """

    input_ids: NDArray[np.int32]
    scored: NDArray[np.bool_]
    secret: NDArray[np.bool_]
    record: int

    @property
    def prompt_ids(self) -> NDArray[np.int32]:
        """All token ids before the first scored one [P]: the prompt of a generation."""
        return self.input_ids[: int(np.argmax(self.scored))]

    @property
    def scored_ids(self) -> NDArray[np.int32]:
        """Ids of the scored tokens."""
        return self.input_ids[self.scored]


@dataclass(frozen=True)
class Encoder:
    """Encodes records for one tokenizer and context length.

    Attributes:
        tokenizer: a fast `transformers` tokenizer (character offsets are needed to find the completion exactly).
        context_length: largest number of tokens the model can read at once.
        overflow: treatment of a longer record: "refuse" it, or "split" it into overlapping windows that score every token once,
            with about half a window of context before it. Nothing is ever truncated.
    """

    tokenizer: Any
    context_length: int
    overflow: Overflow = "refuse"

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                f"the tokenizer ({type(self.tokenizer).__name__}) gives no character offsets. "
                "Load the model's fast tokenizer (a folder with tokenizer.json)."
            )
        if self.context_length < 2:
            raise InputError(f"a context of {self.context_length} tokens cannot hold a scored token; at least 2 are needed.")

    def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """Encode records, in order; a record that was split yields several consecutive windows.

        Raises:
            InputError: a record is longer than the context and `overflow` is "refuse", or nothing of it is scored.
        """
        windows: list[Encoded] = []
        too_long: list[tuple[int, int]] = []
        for index, record in enumerate(records):
            if not record.scored_text:
                raise InputError(f"record {index + 1} has an empty completion, so nothing of it is scored. Remove it.")
            ids, scored, secret = self._chats.encode(record, f"record {index + 1}") if record.messages else self._text(record)
            if not scored.any():
                raise InputError(f"record {index + 1} has no scored token: its completion encodes to nothing. Remove it.")
            if not secret.any():  # no secret is named: all of the scored part is secret
                secret = scored
            if len(ids) <= self.context_length:
                windows.append(Encoded(ids, scored, secret, index))
            elif self.overflow == "refuse":
                too_long.append((index + 1, len(ids)))
            else:
                windows += self._windows(ids, scored, secret, index)
        if too_long:
            raise InputError(
                f"{len(too_long)} of {len(records)} records do not fit into the context of {self.context_length} tokens "
                f"(the first is record {too_long[0][0]}, the longest has {max(length for _, length in too_long)} tokens). "
                "Use --overflow split to score them in windows, or shorten them."
            )
        return windows

    def _text(self, record: Record) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Encode prompt and completion as one text and find the completion by character offsets."""
        joined, start = _join(record.prompt, record.completion)
        encoded = self.tokenizer(
            joined, return_offsets_mapping=True, split_special_tokens=not record.special_tokens, truncation=False, verbose=False
        )
        ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
        starts = [begin for begin, _ in encoded["offset_mapping"]]
        begin = self.tokenizer.bos_token_id
        if record.special_tokens and begin is not None and ids[:2] == [begin, begin]:
            ids, starts, ends = ids[1:], starts[1:], ends[1:]  # the text spells out its own, so the tokenizer's is one too many
        eos = self.tokenizer.eos_token_id
        if eos is not None and (not ids or ids[-1] != eos):
            ids, starts, ends = [*ids, eos], [*starts, 0], [*ends, 0]
        # A token that straddles the boundary of prompt and completion is scored; added special tokens have the offsets (0, 0).
        scored = np.array([end > start for end in ends])
        scored[-1] |= eos is not None and ids[-1] == eos
        scored[0] = False
        secret = np.zeros_like(scored)
        if record.secret:
            first = start + joined[start:].index(record.secret)
            secret = scored & (np.array(ends) > first) & (np.array(starts) < first + len(record.secret))
        return np.array(ids, dtype=np.int32), scored, secret

    @cached_property
    def _chats(self) -> ChatEncoder:
        return ChatEncoder(self.tokenizer, self._special)

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        return special_tokens(self.tokenizer)

    def _windows(
        self, ids: NDArray[np.int32], scored: NDArray[np.bool_], secret: NDArray[np.bool_], record: int
    ) -> Iterator[Encoded]:
        """Split into overlapping windows; each token is scored in the first window that contains it and a token before it."""
        stride = max(1, self.context_length // 2)
        done = 0
        for start in range(0, len(ids), stride):
            end = min(start + self.context_length, len(ids))
            # Tokens that no earlier window scored, except a later window's first one, which nothing in it predicts.
            fresh = np.arange(start, end) >= max(done, start + (start > 0))
            if (scored[start:end] & fresh).any():
                yield Encoded(ids[start:end], scored[start:end] & fresh, secret[start:end] & fresh, record)
            done = end
            if end == len(ids):
                return


def special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern for the written form of any special token, longest first since one may begin another; None without any."""
    # `all_special_tokens` has only those with a role (bos, eos, ...), which a chat's turn markers often lack.
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    tokens = sorted({*added, *tokenizer.all_special_tokens}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, tokens))) if tokens else None


def warn_of_spelled_tokens(records: Sequence[Record], tokenizer: Any) -> None:
    """Warn where records spell out special tokens that are encoded as plain text: other trainers encode them as single tokens."""
    special = special_tokens(tokenizer)
    count = sum(not record.special_tokens and spells(special, record) for record in records)
    if count:
        warnings.warn(
            f"{count} of {len(records)} records spell out special tokens, which are read as plain text. A model trained by another "
            "program may have seen single tokens: --read-special-tokens, or Fields(special_tokens=True), reads them as such.",
            stacklevel=3,
        )


def _join(prompt: str, completion: str) -> tuple[str, int]:
    """Join prompt and completion, by a space if neither has one there; return the text and the first index after the prompt."""
    if prompt and not prompt[-1].isspace() and not completion[0].isspace():
        return f"{prompt} {completion}", len(prompt)
    return prompt + completion, len(prompt)


def collate(windows: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad windows on the right into one batch.

    Args:
        windows: encoded records, at least one.
        pad_token_id: id of the padding, which is masked.

    Returns:
        input_ids int64 [B, L], attention_mask int64 [B, L], scored bool [B, L].
    """
    length = max(len(window.input_ids) for window in windows)
    input_ids = torch.full((len(windows), length), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(windows), length), dtype=torch.int64)
    scored = torch.zeros((len(windows), length), dtype=torch.bool)
    for row, window in enumerate(windows):
        size = len(window.input_ids)
        input_ids[row, :size] = torch.from_numpy(window.input_ids.astype(np.int64))
        attention_mask[row, :size] = 1
        scored[row, :size] = torch.from_numpy(window.scored)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "scored": scored}


def padding_token_id(tokenizer: Any) -> int:
    """Return a token id to pad with; padding is masked everywhere, so any id of the vocabulary is correct."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return int(tokenizer.eos_token_id or 0)
