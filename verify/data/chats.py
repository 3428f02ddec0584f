"""Chats: the turns of a record with their further fields.

A turn has a role and a content, and often more: tool calls, reasoning, names. Whatever a chat template renders of these is training
data, so they are kept, searched and scored like the content. They are stored as JSON text in the source's order (`turn_fields`, one
per turn), as are the row's further arguments of the template (`chat_fields`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from verify.data.identifiers import is_blank
from verify.errors import InputError
from verify.io.strict_json import parse_json

ROW_FIELDS = ("tools", "documents", "chat_template_kwargs")
"""Columns besides the messages that `apply_chat_template` passes to a template."""
FORMER = ("functions", "function_call")
"""Columns of an earlier convention, which `apply_chat_template` does not pass to templates."""
OWN_ARGUMENTS = ("conversation", "messages", "tools", "documents", "tokenize", "add_generation_prompt", "continue_final_message")
"""Arguments of `apply_chat_template` that only this project may set."""
PART_KINDS = ("image", "image_url", "audio", "audio_url", "input_audio", "video", "video_url", "file")

Turns = tuple[tuple[str, str], ...]


class Chat(NamedTuple):
    """A chat as a record holds it; see `verify.data.records.Record`."""

    messages: Turns
    turn_fields: tuple[str, ...]
    chat_fields: str


def parse_chat(messages: Any, row: Mapping[str, Any], where: str) -> Chat:
    """Parse the messages of a row and the row's further arguments of the template.

    Args:
        messages: the list of messages.
        row: the whole row, for the columns besides the messages.
        where: the row's name in error messages.

    Raises:
        InputError: it is not a list of messages, a field cannot be stored (the message gives its name, never its value), or no
            assistant turn has anything to score.
    """
    if isinstance(messages, str | Mapping) or not hasattr(messages, "__iter__"):
        raise _no_messages(where)
    turns = [_parse_turn(message, f"{where}, message {number}") for number, message in enumerate(messages, 1)]
    spoken: Turns = tuple((role, content) for role, content, _ in turns)
    carried = tuple(fields for _, _, fields in turns)
    if not any(role == "assistant" and (content.strip() or fields) for role, content, fields in turns):
        raise InputError(f"{where}: no assistant message with content, so there is nothing to score. Remove the row.")
    return Chat(spoken, carried if any(carried) else (), _row_fields(row, where))


def _no_messages(where: str) -> InputError:
    return InputError(f'{where}: messages must be a list of {{"role": ..., "content": ...}}.')


def _parse_turn(message: Any, where: str) -> tuple[str, str, str]:
    """Parse a message into role, text and the JSON of its further fields, "" where it has none."""
    if not isinstance(message, Mapping) or message.get("role") is None:
        raise _no_messages(where)
    content = message.get("content")
    fields = {str(name): value for name, value in message.items() if name not in ("role", "content") and not is_blank(value)}
    if content is None and fields:
        fields = {"content": None, **fields}  # templates distinguish a null content from an empty one
        content = ""
    elif isinstance(content, list | tuple):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise InputError(f"{where}: a message's content must be text.")
    return str(message["role"]), content, _as_json(fields, where) if fields else ""


def _part(part: Any, where: str) -> str:
    """Return the text of one part of a content given in parts."""
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        further = [name for name, value in part.items() if name not in ("type", "text") and not is_blank(value)]
        if not further:
            return str(part["text"])
        raise InputError(f"{where}: a part of its content has the field {further[0]!r}, which text models do not read. Remove it.")
    kind = part.get("type") if isinstance(part, Mapping) else None
    named = f"of the type {kind!r}" if kind in PART_KINDS else "without a text"
    raise InputError(f'{where}: content: a part is {named}. Parts must be {{"type": "text", "text": ...}}; remove the others.')


def _row_fields(row: Mapping[str, Any], where: str) -> str:
    """Return the row's further arguments of the template as JSON; "" without any."""
    if former := next((name for name in FORMER if not is_blank(row.get(name))), None):
        raise InputError(
            f"{where}: chat templates do not receive the column {former!r}. Give its content as 'tools', or remove it."
        )
    found: dict[str, Any] = {}
    for name in ROW_FIELDS:
        if not is_blank(value := row.get(name)):
            found[name] = _from_text(value, name, where)
    switches = found.get("chat_template_kwargs", {})
    if not isinstance(switches, Mapping) or any(
        not isinstance(name, str) or name in OWN_ARGUMENTS or name.startswith("return_") for name in switches
    ):
        raise InputError(
            f"{where}: 'chat_template_kwargs' must be an object of named values without {', '.join(OWN_ARGUMENTS)}. Correct it."
        )
    return _as_json(found, where) if found else ""


def _from_text(value: Any, name: str, where: str) -> Any:
    """Parse a column's value, which may be written as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: {name!r} is text, but no JSON. Give a list or object, or its JSON.") from None


def _as_json(fields: Mapping[str, Any], where: str) -> str:
    """Return fields as JSON; an error names the first field that cannot be represented."""
    for name, value in fields.items():
        try:
            json.dumps(value, allow_nan=False, default=_plain)
        except (TypeError, ValueError, RecursionError):
            raise InputError(
                f"{where}: the field {name!r} has a value that JSON cannot hold (NaN, a date, ...). Remove it, or give text."
            ) from None
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError


def canonical(fields: str) -> str:
    """Return JSON text in canonical form, independent of key order."""
    return json.dumps(json.loads(fields), ensure_ascii=False, sort_keys=True) if fields else ""


def texts_in(fields: str) -> list[str]:
    """Return every text and number in JSON fields once, including nested field names and JSON within texts."""
    return list(dict.fromkeys(text for value in _fields(fields).values() for text in _texts(value) if text.strip()))


def _fields(fields: str) -> dict[str, Any]:
    return dict(json.loads(fields)) if fields else {}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield from _texts_of_json(value)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield name
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _texts_of_json(text: str) -> Iterator[str]:
    """Return the texts within a text that is itself JSON, as call arguments often are."""
    if text.strip()[:1] not in ("{", "["):
        return
    try:
        # Names and values in one list: of a name that is given twice, both values are searched.
        inner = json.loads(text, object_pairs_hook=lambda pairs: [part for pair in pairs for part in pair])
    except (ValueError, RecursionError):
        return
    yield from _texts(inner)


def turns_for(messages: Turns, turn_fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the messages as a chat template receives them, with all their fields."""
    carried = turn_fields or [""] * len(messages)
    return [
        {"role": role, "content": content, **_fields(fields)} for (role, content), fields in zip(messages, carried, strict=True)
    ]


def arguments_for(chat_fields: str) -> dict[str, Any]:
    """Return the keyword arguments of `apply_chat_template` besides the messages."""
    found = _fields(chat_fields)
    return {**found.pop("chat_template_kwargs", {}), **found}


def changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Apply a change to every text in a nested value, including nested field names."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): changed_texts(entry, change) for name, entry in value.items()}
    return [changed_texts(entry, change) for entry in value] if isinstance(value, list) else value


def changed_fields(fields: str, change: Callable[[str], str]) -> str:
    """Apply a change to every text value in JSON fields, but not to field names, by which templates access them."""

    def values(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: values(entry) for name, entry in value.items()}
        return [values(entry) for entry in value] if isinstance(value, list) else change(value) if isinstance(value, str) else value

    return json.dumps(values(_fields(fields)), ensure_ascii=False) if fields else ""
