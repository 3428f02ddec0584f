"""Chats: the turns of a record with everything they carry beside their text.

A turn has a role and a content, and often more: calls of tools, reasoning, names. What a chat template would render of it is
training data, so it is kept, searched and scored as the content is. It is held as JSON text in the order in which the source gives
it (`turn_fields`, one per turn), as is what the row gives to the template beside its messages (`chat_fields`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from verify.errors import InputError
from verify.identifiers import is_blank
from verify.strict_json import parse_json

ROW_FIELDS = ("tools", "documents", "chat_template_kwargs")
"""Columns beside the messages that `apply_chat_template` hands to a template."""
FORMER = ("functions", "function_call")
"""Columns of an earlier convention, which no template is handed."""
OWN_ARGUMENTS = ("conversation", "messages", "tools", "documents", "tokenize", "add_generation_prompt", "continue_final_message")
"""Arguments of `apply_chat_template` that are this project's to give."""
PART_KINDS = ("image", "image_url", "audio", "audio_url", "input_audio", "video", "video_url", "file")

Turns = tuple[tuple[str, str], ...]


class Chat(NamedTuple):
    """A chat as a record holds it; see `verify.records.Record`."""

    messages: Turns
    turn_fields: tuple[str, ...]
    chat_fields: str


def parse_chat(messages: Any, row: Mapping[str, Any], where: str) -> Chat:
    """Read the messages of a row, and what stands beside them for the template.

    Raises:
        InputError: it is not a list of messages, a field cannot be kept (its name is given, never its value), or no assistant
            turn holds anything to score.
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
    """Role, text and JSON of the further fields of one message; "" where it has none."""
    if not isinstance(message, Mapping) or message.get("role") is None:
        raise _no_messages(where)
    content = message.get("content")
    fields = {str(name): value for name, value in message.items() if name not in ("role", "content") and not is_blank(value)}
    if content is None and fields:
        fields = {"content": None, **fields}  # a template may ask whether there is a text
        content = ""
    elif isinstance(content, list | tuple):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise InputError(f"{where}: a message's content must be text.")
    return str(message["role"]), content, _as_json(fields, where) if fields else ""


def _part(part: Any, where: str) -> str:
    """The text of one part of a content that is given in parts."""
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        further = [name for name, value in part.items() if name not in ("type", "text") and not is_blank(value)]
        if not further:
            return str(part["text"])
        raise InputError(f"{where}: a part of its content has the field {further[0]!r}, which no text model reads. Remove it.")
    kind = part.get("type") if isinstance(part, Mapping) else None
    named = f"of the type {kind!r}" if kind in PART_KINDS else "without a text"
    raise InputError(f'{where}: content: a part is {named}. Parts must be {{"type": "text", "text": ...}}; remove the others.')


def _row_fields(row: Mapping[str, Any], where: str) -> str:
    if former := next((name for name in FORMER if not is_blank(row.get(name))), None):
        raise InputError(f"{where}: no chat template is handed the column {former!r}. Give its content as 'tools', or remove it.")
    found: dict[str, Any] = {}
    for name in ROW_FIELDS:
        if not is_blank(value := row.get(name)):
            found[name] = _from_text(value, name, where)
    switches = found.get("chat_template_kwargs", {})
    if not isinstance(switches, Mapping) or any(name in OWN_ARGUMENTS or name.startswith("return_") for name in switches):
        raise InputError(f"{where}: 'chat_template_kwargs' must be an object without {', '.join(OWN_ARGUMENTS)}. Correct it.")
    return _as_json(found, where) if found else ""


def _from_text(value: Any, name: str, where: str) -> Any:
    """A column's value, which may be written as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: {name!r} is text, but no JSON. Give a list or object, or its JSON.") from None


def _as_json(fields: Mapping[str, Any], where: str) -> str:
    for name, value in fields.items():
        try:
            json.dumps(value, allow_nan=False, default=_plain)
        except (TypeError, ValueError, RecursionError):
            raise InputError(
                f"{where}: the field {name!r} holds something that JSON cannot hold (NaN, a date, ...). Remove it, or give text."
            ) from None
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError


def canonical(fields: str) -> str:
    """JSON text in one form, whatever the order of its names."""
    return json.dumps(json.loads(fields), ensure_ascii=False, sort_keys=True) if fields else ""


def texts_in(fields: str) -> list[str]:
    """Every text and number in JSON fields, names of nested fields and JSON within texts included; each once."""
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
    """The texts within a text that is JSON itself, as the arguments of calls often are."""
    if text.strip()[:1] not in ("{", "["):
        return
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return
    yield from _texts(inner)


def turns_for(messages: Turns, turn_fields: Sequence[str]) -> list[dict[str, Any]]:
    """The messages as a chat template is handed them."""
    carried = turn_fields or [""] * len(messages)
    return [
        {"role": role, "content": content, **_fields(fields)} for (role, content), fields in zip(messages, carried, strict=True)
    ]


def arguments_for(chat_fields: str) -> dict[str, Any]:
    """What a chat template is handed beside the messages, as keyword arguments of `apply_chat_template`."""
    found = _fields(chat_fields)
    return {**found.pop("chat_template_kwargs", {}), **found}


def changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A nested value with every text in it changed, and the names of nested fields too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): changed_texts(entry, change) for name, entry in value.items()}
    return [changed_texts(entry, change) for entry in value] if isinstance(value, list) else value


def changed_fields(fields: str, change: Callable[[str], str]) -> str:
    """JSON fields with every text that is a value changed; names stay, as templates look for them."""

    def values(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: values(entry) for name, entry in value.items()}
        return [values(entry) for entry in value] if isinstance(value, list) else change(value) if isinstance(value, str) else value

    return json.dumps(values(_fields(fields)), ensure_ascii=False) if fields else ""
