"""Strict reading of request heads, in front of the HTTP parser: what two programs could read in two ways is refused.

A proxy and a server that disagree about where a request ends can be made to take one caller's bytes for another's request (request
smuggling). RFC 9112 lets a server refuse each of these: a length beside a transfer coding, two lengths, a bare line feed at the end
of a line, a header folded over two lines. The parser itself would read them in one of the possible ways.
"""

LARGEST_HEAD = 16 << 10
"""Size limit of a request line with its headers, in bytes, also where all of it arrives at once."""

LONGEST_LENGTH = 18
"""Largest number of digits of a Content-Length."""

MOST_LINES = 10_000
"""Largest number of line ends in a chunked body: each chunk has two, and takes the parser as long if it holds one byte as if it
holds a thousand."""


class HeadCheck:
    """State of one connection: how much of a head or a body has been read.

    Attributes:
        final: no further request may follow on this connection, as the end of a chunked body is for the parser to find; only its
            lines are counted here.
    """

    def __init__(self) -> None:
        self.final = False
        self._line = bytearray()
        self._lines = self._size = self._body = 0
        self._length: int | None = None
        self._chunked = False

    def admits(self, data: bytes) -> bool:
        """Read further bytes; return whether every head in them is unambiguous so far, and no body is cut into countless chunks."""
        place = 0
        while place < len(data) and not self.final:
            if self._body:
                passed = min(self._body, len(data) - place)
                self._body, place = self._body - passed, place + passed
                continue
            end = data.find(b"\n", place) + 1 or len(data)
            self._line += data[place:end]
            self._size, place = self._size + end - place, end
            if self._size > LARGEST_HEAD:
                return False
            if self._line.endswith(b"\n") and not self._take():
                return False
        self._lines += data.count(b"\n", place)  # of a chunked body: elsewhere nothing is left
        return not self.final or self._lines <= MOST_LINES

    def _take(self) -> bool:
        """Take the line that was read; return whether it is unambiguous."""
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            return False
        if line == b"\r\n":
            return self._end()
        self._lines += 1
        return self._lines == 1 or self._header(line[:-2])

    def _header(self, line: bytes) -> bool:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            return False  # among them a folded header, which begins with a space
        if name.lower() == b"content-length":
            digits = value.strip()
            if self._length is not None or not digits.isdigit() or len(digits) > LONGEST_LENGTH:
                return False
            self._length = int(digits)
        if name.lower() == b"transfer-encoding":
            if self._chunked or value.strip().lower() != b"chunked":
                return False
            self._chunked = True
        return True

    def _end(self) -> bool:
        """Take the end of a head; return whether there was one, and one way to find the end of its body."""
        if not self._lines or (self._chunked and self._length is not None):
            return False
        self.final, self._body = self._chunked, self._length or 0
        self._lines, self._size, self._length, self._chunked = 0, 0, None, False
        return True
