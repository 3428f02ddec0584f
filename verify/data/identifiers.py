"""Identifiers of records and persons as text, from any type a data set stores them in.

A whole number is the same identifier in every numeric type: 12, 12.0 and numpy.int64(12) are "12". A value that is no certain
identifier (NaN, a blank, a nested object) is refused: as text it would become a name that no request ever gives.
"""

import ast
import math
import numbers
import uuid
from collections.abc import Mapping, Set
from decimal import Decimal
from typing import Any

from verify.errors import InputError
from verify.io.strict_json import parse_json

EXACT = 2**53
"""Floating-point numbers from this one on may have lost digits."""


def identifier_of(value: Any, column: str, where: str) -> str | None:
    """Return one identifier as text, or None where the source gives none.

    Args:
        value: as the source has it.
        column: name of its column in error messages.
        where: the row's name in error messages.

    Raises:
        InputError: the value is no certain identifier; the message gives its type, never the value.
    """
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        if not any(letter.isprintable() and not letter.isspace() for letter in value):
            raise InputError(f"{where}: {column!r} is blank. Give an identifier, or leave the value out (null).")
        return value
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, bool) and isinstance(value, numbers.Real | Decimal):
        return _number(value, column, where)
    raise InputError(f"{where}: {column!r} is {type(value).__name__}, which is no identifier. Give text or a whole number.")


def subjects_of(value: Any, column: str, where: str) -> tuple[str, ...]:
    """Return the persons a record is about: none, one, or those of a list, each once.

    A list may also be written as text, `["a", "b"]`, as CSV files have it.

    Raises:
        InputError: as `identifier_of`.
    """
    value = _plain(value)
    if isinstance(value, str):
        value = _list_in(value)
    if isinstance(value, list | tuple | Set):
        entries = sorted(value, key=str) if isinstance(value, Set) else value
        found = [identifier_of(entry, column, where) for entry in entries]
        if None in found:
            raise InputError(f"{where}: the list in {column!r} has an empty entry. Give one identifier for each person.")
        return tuple(dict.fromkeys(name for name in found if name is not None))
    found_one = identifier_of(value, column, where)
    return () if found_one is None else (found_one,)


def _plain(value: Any) -> Any:
    """Convert a numpy scalar to its Python value and a 1-d array to a list; return everything else unchanged."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist") and getattr(value, "ndim", 0) <= 1:
        return str(value) if isinstance(value, str) else value.tolist()
    return value


def _list_in(text: str) -> Any:
    """Parse a list written as text in JSON or Python; return the text itself if it is none."""
    if not (text.strip().startswith("[") and text.strip().endswith("]")):
        return text
    for read in (parse_json, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found:
            return found
    return text


def _number(value: Any, column: str, where: str) -> str:
    """Return a number as text, a whole one without decimals."""
    if not math.isfinite(value):
        raise InputError(
            f"{where}: {column!r} is {'NaN' if math.isnan(value) else 'infinite'}, which names nobody. "
            "Give an identifier, or leave the value out (null)."
        )
    if value != int(value):
        return str(value)
    if not isinstance(value, numbers.Integral | Decimal) and abs(value) >= EXACT:
        raise InputError(f"{where}: {column!r} is a floating-point number too large to be exact. Store identifiers as text.")
    return str(int(value))


def is_blank(value: Any) -> bool:
    """Return whether a value is absent, or an empty text, list or object."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)
