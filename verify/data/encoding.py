"""From a record to tokens and the mask of scored tokens. The same code trains and audits.

Two tools that disagree on one token (the last, the first of the answer, the end-of-text) measure different quantities. So the
choice is made here, once, and every statistic inherits it:

- scored are the tokens of the completion (the whole text for a plain text, the assistant's turns for a chat) and the
  end-of-text token that closes it;
- never scored are the prompt, special tokens in front, padding, and a text's very first token if nothing stands before it.

Text is data: a record that spells out "</s>" is encoded as those characters, not as the special token.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from verify.data.records import Record
from verify.errors import InputError

Overflow = Literal["refuse", "split"]

MASK = "\ue000"
"""A character of the private-use area, which no chat template and no special token contains."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One window of one record, as the model sees it.

    Attributes:
        input_ids: token ids, int32 [L].
        scored: whether the token at this place is scored, given all before it, bool [L]; scored[0] is False.
        secret: which scored tokens belong to the secret passage, bool [L]; equal to `scored` where none is named.
        record: index of the record in the list it came from.
    """

    input_ids: NDArray[np.int32]
    scored: NDArray[np.bool_]
    secret: NDArray[np.bool_]
    record: int

    @property
    def prompt_ids(self) -> NDArray[np.int32]:
        """Everything before the first scored token: what generation starts from."""
        return self.input_ids[: int(np.argmax(self.scored))]

    @property
    def scored_ids(self) -> NDArray[np.int32]:
        """The scored tokens."""
        return self.input_ids[self.scored]


@dataclass(frozen=True)
class Encoder:
    """Encodes records for one tokenizer and context length.

    Attributes:
        tokenizer: a fast `transformers` tokenizer (character offsets are needed to find the completion exactly).
        context_length: the most tokens the model can read at once.
        overflow: what to do with a longer record: "refuse" it, or "split" it into windows in which every scored token is
            scored once with at least half a window before it. Nothing is ever truncated.
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
            ids, scored, secret = self._chat(record) if record.messages else self._text(record)
            if not scored.any():
                raise InputError(f"record {index + 1} has no scored token: its completion encodes to nothing. Remove it.")
            if not secret.any():
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
        encoded = self.tokenizer(joined, return_offsets_mapping=True, split_special_tokens=True, truncation=False, verbose=False)
        ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
        starts = [begin for begin, _ in encoded["offset_mapping"]]
        eos = self.tokenizer.eos_token_id
        if eos is not None and (not ids or ids[-1] != eos):
            ids, starts, ends = [*ids, eos], [*starts, 0], [*ends, 0]
        scored = np.array([end > start for end in ends])
        scored[-1] |= eos is not None and ids[-1] == eos
        scored[0] = False
        secret = np.zeros_like(scored)
        if record.secret:
            begin = start + joined[start:].index(record.secret)
            secret = scored & (np.array(ends) > begin) & (np.array(starts) < begin + len(record.secret))
        return np.array(ids, dtype=np.int32), scored, secret

    def _chat(self, record: Record) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Apply the chat template turn by turn; an assistant turn's tokens are those its turn adds after the cue."""
        if not self.tokenizer.chat_template:
            raise InputError(
                "the records are chats, but the tokenizer has no chat template. "
                "Give prompt and completion instead, or a model with a chat template."
            )
        messages = [{"role": role, "content": content} for role, content in record.messages]
        special = self._special_tokens()
        literal = special if special and any(special.search(content) for _, content in record.messages) else None
        whole = self._template(messages, literal, cue=False)
        scored = np.zeros(len(whole), dtype=bool)
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._template(messages[:turn], literal, cue=True)
            after = self._template(messages[: turn + 1], literal, cue=False)
            if whole[: len(after)] != after or after[: len(before)] != before:
                raise InputError(
                    "this chat template rewrites earlier turns when later ones are added, so the assistant's tokens cannot be "
                    "told apart. Give each assistant turn as a record of its own with prompt and completion."
                )
            scored[len(before) : len(after)] = True
        scored[0] = False
        return np.array(whole, dtype=np.int32), scored, np.zeros_like(scored)

    def _special_tokens(self) -> re.Pattern[str] | None:
        """Finds the written form of any special token; the longest first, for one can begin with another."""
        # `all_special_tokens` knows only those with a name; a chat's turn markers often have none.
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        tokens = sorted({*added, *self.tokenizer.all_special_tokens}, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def _template(self, messages: list[dict[str, str]], literal: re.Pattern[str] | None, cue: bool) -> list[int]:
        """Token ids of a rendered chat.

        Args:
            messages: the turns.
            literal: None where no turn spells out a special token; otherwise what finds one.
            cue: whether to end with the template's cue for the assistant.
        """
        if not messages:
            return []
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=cue)
        if literal is None:
            return list(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
        # A second rendering, with what the turns spell out masked, shows which special tokens are the template's own.
        masked = [
            message | {"content": literal.sub(lambda found: MASK * len(found[0]), message["content"])} for message in messages
        ]
        own = self.tokenizer.apply_chat_template(masked, tokenize=False, add_generation_prompt=cue)
        if len(own) != len(text):
            raise InputError(
                "a chat spells out a special token of the tokenizer, and the chat template depends on the content, so the two "
                "cannot be told apart. Give that chat as prompt and completion."
            )
        ids: list[int] = []
        done = 0
        for found in literal.finditer(own):
            ids += self._literal_ids(text[done : found.start()])
            ids.append(self.tokenizer.convert_tokens_to_ids(found[0]))
            done = found.end()
        return ids + self._literal_ids(text[done:])

    def _literal_ids(self, text: str) -> list[int]:
        """Token ids of text in which nothing is a special token."""
        if not text:
            return []
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])

    def _windows(
        self, ids: NDArray[np.int32], scored: NDArray[np.bool_], secret: NDArray[np.bool_], record: int
    ) -> Iterator[Encoded]:
        """Overlapping windows; each token is scored in the first window that holds it."""
        stride = max(1, self.context_length // 2)
        done = 0
        for start in range(0, len(ids), stride):
            end = min(start + self.context_length, len(ids))
            fresh = np.arange(start, end) >= max(done, start + (start > 0))
            if (scored[start:end] & fresh).any():
                yield Encoded(ids[start:end], scored[start:end] & fresh, secret[start:end] & fresh, record)
            done = end
            if end == len(ids):
                return


def _join(prompt: str, completion: str) -> tuple[str, int]:
    """The joined text and where its completion begins: one space is put between the two if neither brings white space."""
    if prompt and not prompt[-1].isspace() and not completion[0].isspace():
        return f"{prompt} {completion}", len(prompt)
    return prompt + completion, len(prompt)


def collate(windows: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad windows on the right into one batch.

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
    """A token id to pad with; padding is masked out everywhere, so any id of the vocabulary will do."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return int(tokenizer.eos_token_id or 0)
