"""First and last names that a row, or an object within it, gives in two columns, as one name.

No value of such a row is the person's name, so a search that compares values one by one would not find them.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from verify.data.likeness import foldings
from verify.io.strict_json import parse_every

_GIVEN = frozenset({"firstname", "givenname", "givennames", "forename", "fname", "vorname", "vornamen", "prenom", "nombre"})
_FAMILY = frozenset(
    {"lastname", "surname", "familyname", "lname", "nachname", "familienname", "nomdefamille", "apellido", "apellidos"}
)
_FAMILY_BESIDE_GIVEN = frozenset({"nom", "name"})
_MIDDLE = frozenset({"middlename", "secondname", "zweitername"})
_ENDS = {
    end: part
    for part, ends in (("given", _GIVEN), ("middle", _MIDDLE), ("family", _FAMILY), ("family", _FAMILY_BESIDE_GIVEN))
    for end in sorted(ends, key=len, reverse=True)
}
"""Ends of the names of columns, folded and without separators, and the part of a name that they hold; the sure ones first."""
_SHORT = {"first": "given", "given": "given", "middle": "middle", "last": "family", "family": "family"} | {
    "namefirst": "given",
    "namelast": "family",
}
"""Whole names of columns that may hold something else: they are used only beside one another, and link nobody."""
OF_SHORT = "(short)"
_BYTES_OF_UUID = 16
_MAY_BE_JSON = re.compile(r"\s*[{\[]")


def full_names(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield first and last name that the columns of one object hold, as one name, also with a middle one, each after whose it is.

    It is whose the column's name says: `customer` for `customer_last_name`, "" for `last_name`.
    """
    held: dict[str, dict[str, list[str]]] = {}
    for column, value in row.items():
        if (part := _part(str(column))) is not None:
            held.setdefault(part[0], {}).setdefault(part[1], []).extend(texts_of(value))
    for whose, parts in held.items():
        if "given" in parts and "family" in parts:
            given = parts["given"]
            firsts = dict.fromkeys((*given, " ".join(given), " ".join((*given, *parts.get("middle", ())))))
            yield from ((whose, f"{first} {last}") for last in parts["family"] for first in firsts if first)


def names_in(values: Iterable[Any]) -> Iterator[str]:
    """Yield the full names of all objects among some values, at any depth."""
    yield from (name for one in objects_in(values) for _, name in full_names(one))


def names_written(texts: Iterable[str]) -> Iterator[str]:
    """Yield the full names of all objects in texts that are JSON, as the arguments of a tool call often are."""
    left: list[Any] = [text for text in texts if _MAY_BE_JSON.match(text)]
    while left:
        value = left.pop()
        if isinstance(value, str):
            try:
                left += [parse_every(value)] if _MAY_BE_JSON.match(value) else ()
            except (ValueError, RecursionError):
                continue
        elif isinstance(value, Mapping):
            yield from (name for _, name in full_names(value))
            left += value.values()
        elif isinstance(value, list):
            left += value


def objects_in(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield all objects among some values, at any depth."""
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            yield value
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value


def texts_of(value: Any) -> Iterator[str]:
    """Yield a text, number, date or binary value as text, or those of a list."""
    if isinstance(value, str):
        yield from filter(None, (value.strip(),))
    elif isinstance(value, int | Decimal | uuid.UUID) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, date | time | bytes):
        yield from filter(None, (plain_text(value).strip(),))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts_of(entry) if not isinstance(entry, list | tuple) else ()


def plain_text(value: date | time | bytes) -> str:
    """Return a date as ISO 8601 writes it, and a binary value as its UTF-8 text.

    Bytes that are no UTF-8 are read one by one as Windows-1252, so that no identifier is passed over. Sixteen that are no printable
    text may be a UUID.
    """
    if not isinstance(value, bytes):
        return value.isoformat()
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("cp1252", "replace")
    return f"{uuid.UUID(bytes=value)} {text}" if len(value) == _BYTES_OF_UUID and not text.isprintable() else text


@lru_cache(maxsize=1 << 12)
def folded(name: str) -> str:
    """Return the name of a column without case, accents and separators."""
    return "".join(letter for letter in foldings(name)[0] if letter.isalnum())


@lru_cache(maxsize=1 << 12)
def _part(column: str) -> tuple[str, str] | None:
    """Return whose name a column holds a part of, "" for the row's own, and which part; None for other columns."""
    name = folded(column)
    if name in _SHORT:
        return OF_SHORT, _SHORT[name]
    return next(((name.removesuffix(end), part) for end, part in _ENDS.items() if name.endswith(end)), None)
