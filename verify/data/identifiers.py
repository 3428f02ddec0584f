"""Identifiers of records and persons as text, from any type a data set stores them in.

A whole number is the same identifier in every numeric type: 12, 12.0 and numpy.int64(12) are "12". A value that is no certain
identifier (NaN, a blank, a nested object) is refused: as text it would become a name that no request ever gives.
"""

import ast
import io
import math
import numbers
import re
import tokenize
import uuid
from collections.abc import Mapping, Set
from decimal import Decimal
from typing import Any

from verify.errors import InputError
from verify.io.strict_json import parse_json

EXACT = 2**53
"""Floating-point numbers of 64 bits from this one on may have lost digits."""
EXACT_OF = {"float16": 2**11, "float32": 2**24}
"""The same for narrower types."""
LONGEST_NUMBER = 1000
"""Largest number of digits of a whole number that is an identifier."""
BRACKETS = ("[]", "()", "{}")
NOBODY = ("nan", "none", "null", "na", "nat")
"""Words that stand for an absent value and name nobody, in lower case."""
_ONE_NAME = re.compile(r"\[[\w-]+\]|\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")


def identifier_of(value: Any, column: str, where: str) -> str | None:
    """Return one identifier as text, or None where the source gives none.

    Args:
        value: as the source has it.
        column: name of its column in error messages.
        where: the row's name in error messages.

    Raises:
        InputError: the value is no certain identifier; the message gives its type, never the value.
    """
    exact = EXACT_OF.get(str(getattr(value, "dtype", "")), EXACT)
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
        return _number(value, column, where, exact)
    raise InputError(f"{where}: {column!r} is {type(value).__name__}, which is no identifier. Give text or a whole number.")


def subjects_of(value: Any, column: str, where: str) -> tuple[str, ...]:
    """Return the persons a record is about: none, one, or those of a list, each once.

    A list may also be written as text, `["a", "b"]`, as CSV files have it.

    Raises:
        InputError: as `identifier_of`, or a text in brackets is no list.
    """
    value = _plain(value)
    if isinstance(value, str):
        value = _list_in(value, column, where)
    if isinstance(value, list | tuple | Set):
        entries = sorted(value, key=str) if isinstance(value, Set) else value
        found = [identifier_of(entry, column, where) for entry in entries]
        if None in found:
            raise InputError(f"{where}: the list in {column!r} has an empty entry. Give one identifier for each person.")
        return tuple(dict.fromkeys(name for name in found if name is not None))
    found_one = identifier_of(value, column, where)
    return () if found_one is None else (found_one,)


def _plain(value: Any) -> Any:
    """Convert a numpy scalar to its Python value and a 1-d array to a list of its scalars; return everything else unchanged."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist") and getattr(value, "ndim", 0) <= 1:
        if getattr(value, "ndim", 0) == 1:
            return list(value)
        return str(value) if isinstance(value, str) else value.tolist()
    return value


def _list_in(text: str, column: str, where: str) -> Any:
    """Parse a list written as text in JSON or Python; return text without brackets, one word in [] and a UUID in {} unchanged."""
    inner = text.strip()
    if len(inner) < 2 or inner[0] + inner[-1] not in BRACKETS:
        return text
    for read in (parse_json, _literal):
        try:
            found = read(inner)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple):
            return found
    if _ONE_NAME.fullmatch(inner) and inner[1:-1].casefold() not in NOBODY:
        return text
    raise InputError(
        f"{where}: {column!r} is text in brackets, but no list that can be read for certain. "
        'Write a list as JSON (["a", "b"]), and one identifier without brackets.'
    )


def _literal(text: str) -> Any:
    """Parse a Python literal; refuse one with adjacent strings, which Python joins ("['a' 'b']", as numpy writes an array)."""
    found = ast.literal_eval(text)
    try:
        strings = sum(token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError:
        raise ValueError from None
    if isinstance(found, list | tuple) and strings != sum(isinstance(entry, str | bytes) for entry in found):
        raise ValueError
    return found


def _number(value: Any, column: str, where: str, exact: int) -> str:
    """Return a number as text, a whole one without decimals."""
    whole: Any = value if isinstance(value, numbers.Integral) else None
    if whole is None:
        decimal = isinstance(value, Decimal)
        if not (isinstance(value, numbers.Rational) or (value.is_finite() if decimal else math.isfinite(value))):
            raise InputError(
                f"{where}: {column!r} is {'NaN' if (value.is_nan() if decimal else math.isnan(value)) else 'infinite'}, "
                "which names nobody. Give an identifier, or leave the value out (null)."
            )
        if not (decimal and value.adjusted() >= LONGEST_NUMBER):
            if value != int(value):
                return str(value)
            whole = int(value)
            if not isinstance(value, numbers.Rational | Decimal) and abs(value) >= exact:
                raise InputError(
                    f"{where}: {column!r} is a floating-point number too large to be exact. Store identifiers as text."
                )
    if whole is None or abs(int(whole)) >= 10**LONGEST_NUMBER:
        raise InputError(f"{where}: {column!r} is a number of more than {LONGEST_NUMBER} digits. Store identifiers as text.")
    return str(int(whole))


def is_blank(value: Any) -> bool:
    """Return whether a value is absent, or an empty text, list or object."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)
