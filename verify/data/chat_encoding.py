"""Encode chats into tokens and the mask of scored tokens, applying the template turn by turn.

The scored tokens are those that an assistant's turn adds after the cue (the template's generation prompt). Usually the tokens up to
the cue are the first tokens of the whole chat, and the rest of the turn is scored. Where a token spans the boundary (an answer that
begins with blank lines merges with the line break of the cue), characters decide: the first token that contains a character of the
answer is scored.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.data.chat_templates import ChatTemplate, Turn
from verify.data.chats import arguments_for, changed_texts, turns_for
from verify.data.records import Record
from verify.errors import InputError

MASK = "\ue000"
"""A private-use character, which no chat template and no special token contains."""

Masked = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]
"""Token ids, whether each is scored, and whether each is secret; each [L]."""


class _Reading(NamedTuple):
    """A rendered chat with its tokens and each token's characters, from `starts` up to but not including `ends` [L]."""

    text: str
    ids: list[int]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class ChatEncoder:
    """Encodes chats for one tokenizer.

    Attributes:
        tokenizer: a fast `transformers` tokenizer.
        special: finds the written form of a special token; None where the tokenizer has none.
    """

    tokenizer: Any
    special: re.Pattern[str] | None

    def encode(self, record: Record, where: str) -> Masked:
        """Encode a chat into token ids with scored and secret tokens.

        Args:
            record: with messages.
            where: the record's name in error messages.

        Raises:
            InputError: there is no template, it refuses the chat or does not render all of it, or it renders an assistant's turn
                differently once others follow.
        """
        if not self.tokenizer.chat_template:
            raise InputError(
                f"{where} is a chat, but the tokenizer has no chat template. "
                "Give prompt and completion instead, or a model with a chat template."
            )
        turns = turns_for(record.messages, record.turn_fields)
        template = ChatTemplate(self.tokenizer, arguments_for(record.chat_fields), where, record.all_texts)
        spelled = not record.special_tokens and spells(self.special, record)
        literal = self.special if spelled else None
        whole = self._read(template, turns, literal, cue=False)
        if not whole.ids:
            raise InputError(f"{where}: the chat template renders nothing of it. Use a tokenizer with another template.")
        if record.turn_fields or record.chat_fields:
            template.require_rendered(turns, whole.text)
        scored, secret = np.zeros(len(whole.ids), dtype=bool), np.zeros(len(whole.ids), dtype=bool)
        for turn, message in enumerate(turns):
            if message["role"] == "assistant":
                chosen, span = self._turn(template, turns, turn, literal, whole)
                scored |= chosen
                for first, end in _occurrences(record.secret, whole.text, span):
                    secret |= chosen & (whole.ends > first) & (whole.starts < end)
        scored[0] = False  # no token before it predicts it
        if record.secret and not secret.any():
            raise InputError(
                f"{where}: the chat template does not show the secret passage in an assistant's turn. Correct the row."
            )
        return np.array(whole.ids, dtype=np.int32), scored, secret & scored

    def _turn(
        self, template: ChatTemplate, turns: Sequence[Turn], turn: int, literal: re.Pattern[str] | None, whole: _Reading
    ) -> tuple[NDArray[np.bool_], tuple[int, int]]:
        """Find the tokens of an assistant's turn, bool [L], and its characters in the whole text."""
        before = self._read(template, turns[:turn], literal, cue=True)
        # Most chats end with the assistant's turn, and to render and tokenize the whole again would be a third of the work.
        after = whole if turn + 1 == len(turns) else self._read(template, turns[: turn + 1], literal, cue=False)
        position = np.arange(len(whole.ids))
        # The usual case: each rendering's tokens begin with those of the shorter one.
        if whole.ids[: len(after.ids)] == after.ids and after.ids[: len(before.ids)] == before.ids:
            chosen = (position >= len(before.ids)) & (position < len(after.ids))
            return chosen, (min(len(before.text), len(whole.text)), min(len(after.text), len(whole.text)))
        plain = self._read(template, turns[:turn], literal, cue=False).text
        first, end = _characters(plain, before.text, after.text, whole.text, turns[turn], self.special)
        if end <= first:
            raise InputError(
                f"{template.where}: this chat template rewrites earlier turns when later ones are added (as templates do that drop "
                f"the reasoning of earlier turns), so the tokens of message {turn + 1} cannot be identified. Give each assistant "
                "turn as a record of its own, or as prompt and completion."
            )
        return (whole.ends > first) & (whole.starts < end), (first, end)

    def _read(self, template: ChatTemplate, turns: Sequence[Turn], literal: re.Pattern[str] | None, cue: bool) -> _Reading:
        """Render and tokenize a chat.

        Args:
            template: template of the tokenizer.
            turns: the messages.
            literal: pattern of special tokens that are to be encoded as plain text; None where no turn spells one out, or where
                they are to be encoded as special tokens.
            cue: whether to end with the template's cue for the assistant.
        """
        if not turns:
            return _Reading("", [], np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        text = template.render(turns, cue)
        pieces = list(self._pieces(template, turns, literal, cue, text))
        ids = [token for piece, _, _ in pieces for token in piece]
        starts = np.array([start for _, offsets, base in pieces for start, _ in _shifted(offsets, base)], dtype=np.int64)
        ends = np.array([end for _, offsets, base in pieces for _, end in _shifted(offsets, base)], dtype=np.int64)
        return _Reading(text, ids, starts, ends)

    def _pieces(
        self, template: ChatTemplate, turns: Sequence[Turn], literal: re.Pattern[str] | None, cue: bool, text: str
    ) -> Iterator[tuple[list[int], list[tuple[int, int]], int]]:
        """Yield token ids, character offsets and first character of each piece of a rendered chat."""
        if literal is None:
            yield self._tokens(text, 0, split=False)
            return
        # A second rendering, in which the special tokens spelled out by the turns are masked, shows which are the template's own.
        masked = [_masked(turn, literal) for turn in turns]
        arguments = {name: changed_texts(value, lambda part: _mask(part, literal)) for name, value in template.arguments.items()}
        own = template.render(masked, cue, arguments)
        if len(own) != len(text):
            raise InputError(
                f"{template.where} spells out a special token of the tokenizer, and the chat template depends on the content, so "
                "it cannot be distinguished from the template's own. Give that chat as prompt and completion, or read special "
                "tokens as such (--read-special-tokens)."
            )
        done = 0
        for found in literal.finditer(own):
            yield self._tokens(text[done : found.start()], done, split=True)
            yield [self.tokenizer.convert_tokens_to_ids(found[0])], [(0, len(found[0]))], found.start()
            done = found.end()
        yield self._tokens(text[done:], done, split=True)

    def _tokens(self, text: str, base: int, split: bool) -> tuple[list[int], list[tuple[int, int]], int]:
        """Tokenize a piece; with `split`, special tokens in it are encoded as plain text."""
        if not text:
            return [], [], base
        how = {"split_special_tokens": True} if split else {"truncation": False}
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False, **how)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"]), base


def _shifted(offsets: Sequence[tuple[int, int]], base: int) -> Iterator[tuple[int, int]]:
    return ((start + base, end + base) for start, end in offsets)


def spells(special: re.Pattern[str] | None, record: Record) -> bool:
    """Return whether a record's text spells out a special token."""
    return special is not None and any(special.search(text) for text in record.all_texts)


def _mask(text: str, literal: re.Pattern[str]) -> str:
    return literal.sub(lambda found: MASK * len(found[0]), text)


def _masked(turn: Turn, literal: re.Pattern[str]) -> Turn:
    """Replace special tokens spelled out in a turn's texts by the same number of private-use characters."""
    return {
        name: value if name == "role" else changed_texts(value, lambda part: _mask(part, literal)) for name, value in turn.items()
    }


def _characters(plain: str, before: str, after: str, whole: str, turn: Turn, special: re.Pattern[str] | None) -> tuple[int, int]:
    """Find the characters of an assistant's turn in the whole text from the texts alone; (0, 0) where that is impossible.

    Args:
        plain: rendering of the turns before it.
        before: the same with the cue.
        after: the same with the turn itself.
        whole: rendering of all turns.
        turn: the assistant's message.
        special: pattern of special tokens.
    """
    kept, cued, end = _common(plain, after), _common(before, after), _common(after, whole)
    # Special tokens that close the last turn (an end of text) may disappear when a turn follows; other text may not.
    closing = plain[kept:] if special is None else special.sub("", plain[kept:])
    if closing.strip():
        return 0, 0
    if cued == len(before) and end == len(after):
        return cued, end
    content = (turn["content"] or "").strip()
    found = after.find(content, cued) if content in after[cued:] else after.find(content, kept)
    if len(turn) > 2 or not content:  # a turn with calls or reasoning: everything it adds, if that can be identified
        return (max(kept, cued), end) if end == len(after) else (0, 0)
    if found < 0 or end < found + len(content):
        return 0, 0
    return max(kept, min(cued, found)), end


def _common(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _occurrences(secret: str | None, text: str, span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Find every occurrence of the secret in a span of a text, verbatim or escaped as in JSON; yield its characters."""
    if not secret:
        return
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {json.dumps(form)[1:-1] for form in list(forms)}  # JSON within JSON
    for form in forms:
        for found in re.finditer(f"(?={re.escape(form)})", text[span[0] : span[1]]):  # a lookahead finds overlapping ones too
            yield span[0] + found.start(), span[0] + found.start() + len(form)
