"""Rewordings: each record in other words, from the auditor's file, from templates, or from a model.

A model can be made to give the right losses on the very texts of the records and still know their content. Whoever made it cannot
have prepared it for wordings that the auditor chose afterwards, or committed to beforehand without showing them. What such files
look like is in `verify.data.rewording_files`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from verify.data.records import Record

USUAL = 2
"""Rewordings of each record in a standard audit."""

Source = Literal["records", "templates", "model"]
"""Where rewordings come from."""


def question(record: Record) -> str:
    """Return the prompt of a record, or the first user's turn of a chat; "" for a plain text."""
    return next((content for role, content in record.messages if role == "user"), record.prompt)


def asked_as(record: Record, prompt: str) -> Record:
    """Return the record behind another prompt, or with another first user's turn in a chat.

    A chat template may refuse an empty turn, so that an empty prompt becomes a question mark in a chat.
    """
    if not record.messages:
        return replace(record, prompt=prompt, secret=None)
    first = next((turn for turn, (role, _) in enumerate(record.messages) if role == "user"), None)
    turns = tuple(
        (role, prompt or "?") if turn == first else (role, content) for turn, (role, content) in enumerate(record.messages)
    )
    return replace(record, messages=turns, secret=None)


@dataclass(frozen=True)
class Rewordings:
    """The rewordings of an audit's records. Its representation shows no content.

    Attributes:
        source: where they come from.
        count: rewordings of each record.
        digest: SHA-256 of what the auditor wrote, in canonical form; not keyed, so write it to disk only through `RecordKey.of`.
        model: digest of the weights of the model that made them, if one did.
    """

    source: Source
    count: int
    digest: str = field(repr=False)
    model: str | None = None
    _by_record: Mapping[str, tuple[Record, ...]] = field(repr=False, default_factory=dict)

    def of(self, record: Record, number: int) -> Record | None:
        """Return a record's rewording of a number from 1; None where it has none."""
        made = self._by_record.get(record.fingerprint, ())
        return made[number - 1] if number <= len(made) else None

    def worded(self, records: Sequence[Record]) -> int:
        """Return how many of the records have their rewordings."""
        return sum(len(self._by_record.get(record.fingerprint, ())) == self.count for record in records)

    @classmethod
    def of_questions(
        cls, records: Sequence[Record], questions: Sequence[Sequence[str]], count: int, digest: str, model: str | None
    ) -> Self:
        """Make rewordings from other questions for each record; a record with fewer than `count` of them has none."""
        made = {
            record.fingerprint: tuple(asked_as(record, prompt) for prompt in prompts[:count])
            for record, prompts in zip(records, questions, strict=True)
            if len(prompts) >= count
        }
        return cls("model", count, digest, model, made)


def plain_words(text: str) -> str:
    """Return the words of a text in lower case, to compare wordings; all of it where it has no words."""
    return " ".join(re.findall(r"\w+", text.casefold()) or text.casefold().split())
