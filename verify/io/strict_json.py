"""Strict JSON: the only JSON reader of this project, which refuses ambiguous text that the standard library accepts.

RFC 8259 does not define the meaning of an object with a repeated name; Python silently keeps the last value and drops the others. A
dropped value is neither searched nor forgotten, and a signed statement could be read in two ways.
"""

import json
import re
from itertools import count
from typing import Any, NoReturn


class NotStrictError(ValueError):
    """Error for ambiguous JSON: a name given twice in one object, or NaN and infinity, which JSON does not have.

    Attributes:
        reason: what is wrong, without any value and without the name.
        name: the repeated name, or None. It may be a person's name: show it only where names are not content.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.name = reason, name


def parse_json(text: str | bytes, *, constants: bool = False) -> Any:
    """Parse JSON text.

    Args:
        text: UTF-8 if given as bytes.
        constants: whether NaN and infinity are accepted, which Python writes and some models' configurations contain.

    Raises:
        NotStrictError: an object gives one name twice, or a constant that JSON does not have.
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object, parse_constant=float if constants else _refuse_constant)


def parse_every(text: str) -> Any:
    """Parse JSON text to search it: of a name that an object gives twice, the values come as one list, and none is dropped.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_every_value)


def ambiguous_entry(text: str) -> tuple[int, Any]:
    """Return the first entry of a JSON list that `parse_json` refuses: its number from 1, and the entry as Python reads it.

    Args:
        text: a list with an ambiguous entry. An entry that is also no whole JSON is returned as None.
    """
    strict, lenient = json.JSONDecoder(object_pairs_hook=_object), json.JSONDecoder()
    between, position = re.compile(r"[\s,]*"), text.index("[") + 1
    for number in count(1):
        position = between.match(text, position).end()  # type: ignore[union-attr]
        try:
            _, position = strict.raw_decode(text, position)
        except NotStrictError:
            try:
                return number, lenient.raw_decode(text, position)[0]
            except (ValueError, RecursionError):
                return number, None
    raise AssertionError("count() does not end")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise NotStrictError("an object gives the same name twice", name)
    return found


def _every_value(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    every: dict[str, list[Any]] = {}
    for name, value in pairs:
        every.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in every.items()}


def _refuse_constant(_: str) -> NoReturn:
    raise NotStrictError("it holds NaN or infinity, which JSON does not have")
