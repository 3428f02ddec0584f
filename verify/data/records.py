"""Records: their fields, their parsing from rows, and their fingerprints.

A record has one of three shapes: a plain `text`, a `prompt` with its `completion`, or a chat's `messages`. Any source columns can
be mapped onto these (`Fields`). The `datasets` cache is never used: a copy of the forget set in an Arrow file would be a copy that
was not deleted.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from verify.data.chats import Chat, arguments_for, canonical, parse_chat, texts_in
from verify.data.identifiers import identifier_of, subjects_of
from verify.data.tabular import shown_names
from verify.errors import InputError
from verify.io.arguments import checked

KNOWN_SPEAKERS = frozenset(("system", "user", "assistant", "tool", "developer", "function"))
"""Roles of turns that are not content; any other may be a person's name."""


@checked
@dataclass(frozen=True)
class Fields:
    """Maps source columns to the fields of a record.

    Attributes:
        text: a whole document; every token but the first is scored.
        prompt: the model's input; never scored.
        completion: the expected output; scored.
        messages: a list of {"role", "content", ...}; the assistant's tokens are scored. The row's columns `tools`, `documents` and
            `chat_template_kwargs` are passed to the chat template.
        id: the record's own identifier; without such a column it is derived from the content.
        subject: the person the record is about, or a list of persons, if known.
        secret: a passage of the completion (or text, or the assistant's turns) that extraction attacks look for; the default is all
            of it.
        special_tokens: not a column: whether special tokens spelled out in a text are encoded as special tokens, as trainers do
            with text that a chat template has already rendered. By default they are encoded as plain text.
    """

    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    id: str = "example_id"
    subject: str = "subject_id"
    secret: str = "secret"
    special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One training example. Its representation shows no content.

    Attributes:
        example_id: unique within a source.
        prompt: "" for a plain text.
        completion: the scored part; the whole text for a plain text; "" for a chat.
        messages: ((role, content), ...) for a chat, else ().
        subject_id: the person it is about, or None; the first of several.
        other_subjects: the other persons it is about.
        turn_fields: further fields of each turn besides role and content, as JSON; () where no turn has any.
        chat_fields: further arguments of the chat template besides the messages, as JSON; "" without any.
        special_tokens: whether special tokens spelled out in its texts are encoded as special tokens.
        secret: the secret passage, or None if the whole scored part is.
        named: whether the source gave `example_id` itself (otherwise it is derived from the content).
    """

    example_id: str = field(repr=False)
    prompt: str = field(repr=False, default="")
    completion: str = field(repr=False, default="")
    messages: tuple[tuple[str, str], ...] = field(repr=False, default=())
    subject_id: str | None = field(repr=False, default=None)
    secret: str | None = field(repr=False, default=None)
    named: bool = field(repr=False, default=True)
    other_subjects: tuple[str, ...] = field(repr=False, default=())
    turn_fields: tuple[str, ...] = field(repr=False, default=())
    chat_fields: str = field(repr=False, default="")
    special_tokens: bool = field(repr=False, default=False)

    @property
    def subjects(self) -> tuple[str, ...]:
        """All persons the record is about, in the source's order."""
        return () if self.subject_id is None else (self.subject_id, *self.other_subjects)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content alone, so that the same text under another identifier is the same record.

        Not keyed: write it to disk only through `RecordKey.of`.
        """
        if self.turn_fields or self.chat_fields:
            return _digest([self.messages, *map(canonical, self.turn_fields), canonical(self.chat_fields)])
        return self.text_fingerprint

    @property
    def text_fingerprint(self) -> str:
        """A chat's fingerprint without its turns' further fields, as earlier versions computed it."""
        return _digest(self.messages or (self.prompt, self.completion))

    @property
    def reading(self) -> str:
        """The fingerprint together with the treatment of special tokens: everything of a record that affects a run's result."""
        return f"{self.fingerprint} special tokens" if self.special_tokens else self.fingerprint

    @property
    def scored_text(self) -> str:
        """The text whose tokens are scored, for attacks that compress or compare it."""
        if self.messages:
            spoken = [(content, carried) for role, content, carried in self._turns() if role == "assistant"]
            return "\n".join(
                part for content, carried in spoken for part in ([content] if content or not carried else []) + carried
            )
        return self.completion

    @property
    def assistant_texts(self) -> list[str]:
        """The assistant's contents and the texts in further fields of these turns."""
        return [text for role, content, carried in self._turns() if role == "assistant" for text in (content, *carried)]

    def _turns(self) -> Iterator[tuple[str, str, list[str]]]:
        """Return role, content and the texts in further fields of each turn."""
        carried = self.turn_fields or ("",) * len(self.messages)
        return ((role, content, texts_in(fields)) for (role, content), fields in zip(self.messages, carried, strict=True))

    @property
    def whole_text(self) -> str:
        """The whole record as one text, for comparison: prompt and completion, or all turns with their fields and documents.

        Descriptions of tools are left out: all rows of a data set have the same, which would make them similar.
        """
        return "\n".join(self.whole_texts)

    @property
    def whole_texts(self) -> list[str]:
        """The parts of the whole text, each of which is one of all texts."""
        carried = [text for _, content, texts in self._turns() for text in (content, *texts)]
        return [part for part in (self.prompt, self.completion, *carried, *self._beside("documents")) if part]

    @property
    def all_texts(self) -> list[str]:
        """Every text of the record separately, for searching; also a turn's role where it is none of `KNOWN_SPEAKERS`."""
        carried = [
            text
            for role, content, texts in self._turns()
            for text in (*(() if role in KNOWN_SPEAKERS else (role,)), content, *texts)
        ]
        return [part for part in (self.prompt, self.completion, *carried, *texts_in(self.chat_fields)) if part]

    def _beside(self, name: str) -> list[str]:
        """Return the texts in one of the chat template's further arguments."""
        given = arguments_for(self.chat_fields).get(name)
        return [] if given is None else texts_in(json.dumps({name: given}, ensure_ascii=False))


RecordSource = str | Sequence[Mapping[str, Any]] | Sequence[Record] | Any
"""A path, a Hub name, a list of dicts or Records, or a `datasets.Dataset`."""


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def parse_records(rows: Iterable[Mapping[str, Any]], fields: Fields, source: str) -> list[Record]:
    """Turn source rows into records.

    Args:
        rows: mappings from column to value.
        fields: columns of the records' fields.
        source: the source's name in error messages.

    Raises:
        InputError: no rows, a row without a usable shape, an empty completion or a repeated identifier; the message identifies the
            row by its number, never by its content.
    """
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        record = parse_row(row, fields, f"{source}, row {number}")
        if record.example_id in seen:
            if record.named:
                raise InputError(
                    f"{source}: rows {seen[record.example_id]} and {number} have the same {fields.id!r}. "
                    "Identifiers must be unique; name another column with --id-field."
                )
            record = _renumbered(record, number)
        seen[record.example_id] = number
        records.append(record)
    if not records:
        raise InputError(f"{source} holds no records. Give a file with at least one.")
    return records


def _renumbered(record: Record, number: int) -> Record:
    """Give an exact duplicate, in a source without identifiers, an identifier with its row number."""
    return replace(record, example_id=f"{record.example_id}#{number}")


def parse_row(row: Mapping[str, Any], fields: Fields, where: str) -> Record:
    """Turn one source row into a record.

    Args:
        row: column to value.
        fields: columns of the records' fields.
        where: the row's name in error messages.

    Raises:
        InputError: the row has no usable shape, or nothing to score.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{where} is {type(row).__name__}, not an object with named fields.")
    if (problem := _unclear_column(tuple(map(str, row)), fields)) is not None:
        raise InputError(f"{where}: {problem}")
    chat = Chat((), (), "")
    prompt = completion = ""
    if row.get(fields.messages) is not None:
        chat = parse_chat(row[fields.messages], row, where)
    elif row.get(fields.completion) is not None:
        prompt = _text_of(row, fields.prompt, where)
        completion = _text_of(row, fields.completion, where)
    elif row.get(fields.text) is not None:
        completion = _text_of(row, fields.text, where)
    else:
        raise InputError(_no_shape(row, fields, where))
    if not chat.messages and not completion.strip():
        raise InputError(f"{where}: the completion is empty, so there is nothing to forget or to score. Remove the row.")
    identifier = identifier_of(row.get(fields.id), fields.id, where)
    subjects = subjects_of(row.get(fields.subject), fields.subject, where)
    turns = [part for turn in chat.messages for part in turn]
    _require_unicode([prompt, completion, identifier or "", *subjects, *turns, *chat.turn_fields, chat.chat_fields], where)
    record = Record(
        example_id=identifier or "",
        prompt=prompt,
        completion=completion,
        messages=chat.messages,
        subject_id=subjects[0] if subjects else None,
        other_subjects=subjects[1:],
        secret=None if row.get(fields.secret) in (None, "") else str(row[fields.secret]),
        named=identifier is not None,
        turn_fields=chat.turn_fields,
        chat_fields=chat.chat_fields,
        special_tokens=fields.special_tokens,
    )
    if record.secret and not any(record.secret in text for text in record.assistant_texts or [completion]):
        part = "an assistant's turn" if chat.messages else "the completion"
        raise InputError(f"{where}: the {fields.secret!r} passage does not occur in {part}. Correct the row.")
    return record if record.named else replace(record, example_id=record.fingerprint[:32])


def text_columns(row: Mapping[str, Any], fields: Fields) -> frozenset[str]:
    """Return the columns that are a row's text, as `parse_row` chooses them: others of these names are not read."""
    if row.get(fields.messages) is not None:
        return frozenset((fields.messages,))
    return frozenset((fields.prompt, fields.completion) if row.get(fields.completion) is not None else (fields.text,))


@lru_cache(maxsize=64)
def _unclear_column(columns: tuple[str, ...], fields: Fields) -> str | None:
    """Explain the problem if column names differ from the requested ones, or from each other, only by case or spaces.

    A column of subjects that is ignored because of a capital letter would hide these persons from every later search.
    """
    mapped = {name for name in asdict(fields).values() if isinstance(name, str)}
    for wanted in sorted(mapped):
        strange = (name for name in columns if name == wanted or name not in mapped)
        alike = [name for name in strange if name.strip().casefold() == wanted.strip().casefold()]
        optional = wanted in (fields.id, fields.subject, fields.secret)
        if len(alike) > 1 or (optional and alike not in ([], [wanted])):
            return (
                f"the column {alike[-1]!r} differs from {wanted!r} only by case or spaces, so it is not clear which one is meant. "
                "Rename it, or name the right one with --text-field, --id-field, --subject-field, ..."
            )
    return None


def _require_unicode(texts: Iterable[str], where: str) -> None:
    """Refuse an unpaired surrogate, which JSON can spell and nothing downstream can encode."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} holds half of a surrogate pair (\\ud800 ...), which is not valid text. Correct it.") from None


def _text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is None:
        raise InputError(f"{where} has no {column!r}. Name the right column with --prompt-field or --completion-field.")
    if not isinstance(value, str):
        raise InputError(f"{where}: {column!r} is {type(value).__name__}, expected text.")
    return value


def _no_shape(row: Mapping[str, Any], fields: Fields, where: str) -> str:
    """Return the message for a row without usable columns, with the flags that map its columns."""
    columns = sorted(str(name) for name in row)
    hint = "--prompt-field COLUMN --completion-field COLUMN, --text-field COLUMN or --messages-field COLUMN"
    if {"question", "answer"} <= set(columns):
        hint = "--prompt-field question --completion-field answer"
    return (
        f"{where} has the columns {shown_names(columns)}, but needs {fields.text!r}, {fields.prompt!r} with {fields.completion!r}, "
        f"or {fields.messages!r}. Map yours with {hint}."
    )
