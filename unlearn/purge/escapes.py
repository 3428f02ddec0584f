"""Undoing of the escapes of JSON and HTML, as common libraries write them.

One text has many escaped forms: .NET and Jackson write `\\u041A` with capitals, .NET an apostrophe as `\\u0027`, PHP a slash as
`\\/`, Go `<` as `\\u003c`, Jinja and Django an apostrophe as `&#39;`, others `&ouml;`. They cannot be listed, so they are undone.

All content is undone in the fastest way. Where in the original a part of it stood is computed only where something is found.
"""

import html
import re
from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

LONGEST = 16
"""Largest number of bytes that stand for one character in an escaped text: a pair of surrogates, escaped twice."""
DEEPEST = 2
"""How often escapes are undone: a JSON message in a line of JSON, or HTML in JSON, has two layers."""
# Each begins with a plain character, for which the search is fast.
_JSON = re.compile(rb"""\\(?:[\\/"'bfnrt]|u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*)""")
_RUNS = re.compile(rb"\\u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*")
_NUMBER = rb"\#(?:[0-9]{1,7}|[xX][0-9a-fA-F]{1,6});"
_HTML = re.compile(rb"&(?:" + _NUMBER + rb"(?:&" + _NUMBER + rb")*|[A-Za-z][A-Za-z0-9]{1,30};)")
_ONLY_OTHERS = re.compile(rb"&(?!(?:amp;(?!\#|[A-Za-z][A-Za-z0-9]{1,30};)|lt;|gt;|quot;|\#x27;))(?:\#|[A-Za-z][A-Za-z0-9]{1,30};)")
"""Escapes of HTML other than Python's, whose forms are searched for as they are."""
_SINGLE = {b"\\/": b"/", b'\\"': b'"', b"\\'": b"'", b"\\n": b"\n", b"\\t": b"\t", b"\\r": b"\r", b"\\b": b"\b", b"\\f": b"\f"}
_USUAL = {b"&lt;": b"<", b"&gt;": b">", b"&quot;": b'"', b"&#39;": b"'", b"&#x27;": b"'", b"&#34;": b'"', b"&nbsp;": b"\xc2\xa0"}
_KEPT = b"\xff"
"""Stands for an escaped backslash or ampersand until the others are undone; no UTF-8 has this byte."""
_IS_CAPITAL, _IS_PLAIN = np.zeros((2, 256), dtype=bool)
_IS_CAPITAL[list(b"ABCDEF")] = True
_IS_PLAIN[list(b"234567")] = True
"""First digits of the characters of ASCII, which Python does not escape by number."""


def unescaped(data: bytes) -> bytes | None:
    """Undo one layer of escapes of JSON, then of HTML; None where there are none but those that Python writes."""
    slashes = b"\\" in data
    if not (slashes and _of_others(data)) and (b"&" not in data or (_HTML if slashes else _ONLY_OTHERS).search(data) is None):
        return None
    return without_html(without_json(data))


def _of_others(data: bytes) -> bool:
    """Return whether a content has escapes of JSON as Python does not write them."""
    codes = np.frombuffer(data + bytes(6), dtype=np.uint8)
    places = np.flatnonzero(codes == ord("\\"))
    after = codes[places + 1]
    if (after == ord("/")).any():
        return True
    places = places[after == ord("u")]
    if any(_IS_CAPITAL[codes[places + offset]].any() for offset in range(2, 6)):
        return True
    return bool(((codes[places + 2] == ord("0")) & (codes[places + 3] == ord("0")) & _IS_PLAIN[codes[places + 4]]).any())


def without_json(data: bytes) -> bytes:
    """Undo one layer of the escapes of JSON."""
    return _undone(data, b"\\", b"\\\\", _SINGLE, _RUNS) if b"\\" in data else data


def without_html(data: bytes) -> bytes:
    """Undo one layer of the escapes of HTML."""
    return _undone(data, b"&", b"&amp;", _USUAL, _HTML) if b"&" in data else data


def _undone(data: bytes, mark: bytes, escaped_mark: bytes, common: Mapping[bytes, bytes], others: re.Pattern[bytes]) -> bytes:
    """Replace the common escapes and the others; the mark that begins them stands for itself where it is escaped."""
    data = data.replace(escaped_mark, _KEPT)
    for escape, put in common.items():
        data = data.replace(escape, put)
    return others.sub(_replaced, data).replace(_KEPT, mark)


def _replaced(match: re.Match[bytes]) -> bytes:
    return _replacement(match[0])


@lru_cache(maxsize=1 << 16)
def _replacement(escape: bytes) -> bytes:
    """Return what an escape, or a run of numbered ones, stands for, as UTF-8."""
    if escape.startswith(b"&"):
        return html.unescape(escape.decode("ascii")).encode("utf-8", "surrogatepass")
    if escape.startswith(b"\\u"):
        units = bytes.fromhex(escape.replace(b"\\u", b"").decode("ascii"))
        return units.decode("utf-16-be", "replace").encode()
    return _SINGLE.get(escape, b"\\")


class _Layer(NamedTuple):
    """Where the replacements in an undone content begin and end, and the escapes that they stand for in the original."""

    starts: list[int]
    ends: list[int]
    spans: list[tuple[int, int]]

    def place(self, position: int) -> tuple[int, int]:
        """Return the interval of the original that one byte stands for, with the whole escape."""
        number = bisect_right(self.starts, position) - 1
        if number < 0:
            return position, position + 1
        if position < self.ends[number]:
            return self.spans[number]
        place = self.spans[number][1] + position - self.ends[number]
        return place, place + 1


class Places:
    """Where the parts of an unescaped content stood in the original."""

    def __init__(self, data: bytes) -> None:
        """Undo one layer of a content again, noting the places of all escapes."""
        self._layers = []
        for escapes, undo in ((_JSON, without_json), (_HTML, without_html)):
            self._layers.append(_noted(data, escapes))
            data = undo(data)

    def original(self, first: int, end: int) -> tuple[int, int]:
        """Return the interval of the original that an interval of the unescaped content stands for, with whole escapes."""
        for layer in reversed(self._layers):
            first, end = layer.place(first)[0], layer.place(end - 1)[1]
        return first, end


def _noted(data: bytes, escapes: re.Pattern[bytes]) -> _Layer:
    found = _Layer([], [], [])
    shift = 0
    for match in escapes.finditer(data):
        first, end = match.span()
        size = len(_replacement(match[0]))
        found.starts.append(first + shift)
        found.ends.append(first + shift + size)
        found.spans.append((first, end))
        shift += size - (end - first)
    return found
