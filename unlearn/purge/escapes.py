"""Undoing of the escapes of JSON and HTML, in any of the ways in which libraries write them.

One text has many escaped forms: .NET and Jackson write `\\u041A` with capitals, .NET an apostrophe as `\\u0027`, PHP a slash as
`\\/`, Go `<` as `\\u003c`, Jinja and Django an apostrophe as `&#39;`, others `&ouml;`. They cannot be listed, so they are undone.
"""

import html
import re
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

LONGEST = 16
"""Largest number of bytes that stand for one character in an escaped text: a pair of surrogates, escaped twice."""
DEEPEST = 2
"""How often escapes are undone: a JSON message in a line of JSON, or HTML in JSON, has two layers."""
_UNUSUAL = re.compile(rb"[\\&](?:u00[0-7]|u[0-9a-fA-F]{0,3}[A-F]|/|#|[A-Za-z][A-Za-z0-9]{1,30};)")
"""What some library escapes otherwise than Python, whose forms are searched for as they are."""
_ESCAPE = re.compile(
    rb"""(?:\\u[0-9a-fA-F]{4})+|\\[\\/"'bfnrt]|&(?:\#[0-9]{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"""
)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class Unescaped(NamedTuple):
    """A piece of content without its escapes.

    Attributes:
        data: the content.
        starts: where in it a replacement begins.
        ends: where that replacement ends.
        spans: the first byte of the escape in the original content, and the byte after its last.
    """

    data: bytes
    starts: list[int]
    ends: list[int]
    spans: list[tuple[int, int]]

    def original(self, first: int, end: int) -> tuple[int, int]:
        """Return the interval of the original content that an interval of this one stands for, with whole escapes."""
        return self._place(first)[0], self._place(end - 1)[1]

    def _place(self, position: int) -> tuple[int, int]:
        number = bisect_right(self.starts, position) - 1
        if number < 0:
            return position, position + 1
        if position < self.ends[number]:
            return self.spans[number]
        place = self.spans[number][1] + position - self.ends[number]
        return place, place + 1


def unescaped(data: bytes) -> Unescaped | None:
    """Undo one layer of escapes of JSON and HTML; None where there are none but those that Python writes."""
    return undo(data) if (b"\\" in data or b"&" in data) and _UNUSUAL.search(data) else None


def undo(data: bytes) -> Unescaped:
    """Undo one layer of all escapes of JSON and HTML."""
    pieces: list[bytes] = []
    found = Unescaped(b"", [], [], [])
    position = length = 0
    for match in _ESCAPE.finditer(data):
        first, end = match.span()
        put = _replacement(match[0])
        pieces += data[position:first], put
        length += first - position
        found.starts.append(length)
        length += len(put)
        found.ends.append(length)
        found.spans.append((first, end))
        position = end
    return found._replace(data=b"".join((*pieces, data[position:])))


@lru_cache(maxsize=1 << 16)
def _replacement(escape: bytes) -> bytes:
    """Return what an escape, or a run of `\\u....`, stands for, as UTF-8."""
    if escape.startswith(b"&"):
        return html.unescape(escape.decode("ascii")).encode("utf-8", "surrogatepass")
    if escape.startswith(b"\\u"):
        return (
            bytes.fromhex(escape.replace(b"\\u", b"").decode("ascii"))
            .decode("utf-16-be", "surrogatepass")
            .encode("utf-8", "surrogatepass")
        )
    return _LETTERS.get(escape[1:], escape[1:])
