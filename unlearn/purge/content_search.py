"""Multi-pattern search for deleted text in byte streams, in bounded memory.

A record's text is cut into windows of 48 characters, one every 24, the last one flush with the end; a shorter text is one window.
So every passage of 71 characters contains a whole window, and a whole text is covered from end to end. Each window is searched for
as UTF-8, as JSON, CSV and HTML escape it, in UTF-16 and UTF-32, in Latin-1, and encoded in Base64, in hexadecimal and with percent
signs; where JSON or HTML is escaped otherwise than Python does it, the escapes are undone (`unlearn.purge.escapes`). A window that
also occurs in a retained text (a question asked about everybody) identifies nobody and is left out.

To search for thousands of windows in one pass, each is represented by an anchor, its rarest 24 bytes (12 for a short window). numpy
hashes the first eight bytes at every position of the stream, the last eight only where that hash is known, and where both match the
window itself is compared.
"""

import base64
import html
import json
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from urllib.parse import quote, quote_plus

import numpy as np
from numpy.typing import NDArray

from unlearn.purge.escapes import DEEPEST, LONGEST, Places, unescaped, without_html, without_json
from verify.data.records import Record

WINDOW, STRIDE = 48, 24
SHORTEST = 12
"""Least length of a text in characters; a shorter one, such as a first name, occurs in too many files to identify a residue."""
FEWEST_LETTERS = 4
"""Least number of distinct characters in a window; a row of dashes is not personal data."""
BATCH = 2000
"""Number of retained texts that are searched at once."""
WORD = 8
DISTANCES = (4, 16)
"""Distance in bytes from the first word of an anchor to its second, for short patterns and for others."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio as a 64-bit fraction: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_SECOND = np.uint64(0xC2B2AE3D27D4EB4F)  # any other odd number
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_COMMON = b" etaoinshrdlucm\x00"

Interval = tuple[int, int]
"""Offsets of the first byte of a match and of the byte after its last."""


@dataclass(frozen=True)
class _Anchored:
    """A pattern and the offset of its anchor."""

    pattern: bytes
    offset: int


class ContentSearch:
    """Searches byte streams for deleted texts, which it never reveals."""

    def __init__(self, records: Iterable[Record], retained: Iterable[Record] = ()) -> None:
        """Prepare a search for the texts of records.

        Args:
            records: the deleted records. Prompts are searched for only if `retained` shows which of them other records share.
            retained: the other training records, read one at a time; windows that also occur in one of these are left out.
        """
        others = iter(retained)
        first = next(others, None)
        windows = [_windows_of_record(record, with_prompts=first is not None) for record in records]
        every = {window for own in windows for window in own}
        self._set_patterns(every)
        if first is not None and every:
            shared = self._found_in(chain((first,), others))
            every = {window for window in every if shared.isdisjoint(normal_forms(window))}
            self._set_patterns(every)
        self._windows = [own & every for own in windows]
        self.unsearched = sum(not own for own in self._windows)
        """Number of records that are not searched for: too short, or all of their windows occur in retained records."""

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def __repr__(self) -> str:
        return f"ContentSearch(<{len(self._patterns)} hidden>)"

    def holds(self, content: bytes | str) -> bool:
        """Return whether a piece of content contains deleted text."""
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        return next(self._finds(data), None) is not None

    def found_in(self, chunks: Iterable[bytes]) -> bool:
        """Return whether a stream contains deleted text; reads no further than the first match."""
        return next(self.intervals(chunks), None) is not None

    def intervals(self, chunks: Iterable[bytes]) -> Iterator[Interval]:
        """Return all intervals of a stream with deleted text; they may overlap, and are in no order.

        Args:
            chunks: the stream in pieces of any size; one piece and the longest pattern are in memory at a time.
        """
        overlap = self._longest - 1
        tail, start = b"", 0
        for chunk in chunks:
            data = tail + chunk
            for first, end, _ in self._finds(data):
                if end > len(tail):  # else the previous chunk yielded it
                    yield start + first, start + end
            start += max(0, len(data) - overlap)
            tail = data[-overlap:] if overlap > 0 else b""

    def _found_in(self, retained: Iterable[Record]) -> set[str]:
        """Return the windows that occur in retained texts; many texts are searched at once."""
        found: set[str] = set()
        texts = (text.encode() for record in retained for text in _texts(record, with_prompts=True))
        while batch := b"\x00".join(islice(texts, BATCH)):
            found.update(pattern.decode(errors="replace") for _, _, pattern in self._finds(batch))
        return found

    def _set_patterns(self, windows: Iterable[str]) -> None:
        """Build the lookup tables: anchor keys to patterns, sorted keys by distance, and a bit table of first words."""
        patterns = {form for window in windows for form in spellings(window)}
        self._longest = max((WINDOW * LONGEST, *map(len, patterns))) if patterns else 1
        self._patterns: dict[int, list[_Anchored]] = {}
        keys: dict[int, set[int]] = {distance: set() for distance in DISTANCES}
        first_words = []
        for pattern in patterns:
            distance = max(apart for apart in DISTANCES if apart + WORD <= len(pattern))
            offset = _rarest(pattern, distance + WORD)
            first, second = (np.frombuffer(pattern, "<u8", 1, offset + apart) for apart in (0, distance))
            key = int(_key(first, second)[0])
            self._patterns.setdefault(key, []).append(_Anchored(pattern, offset))
            keys[distance].add(key)
            first_words.append(first[0])
        self._keys = {distance: np.array(sorted(own), dtype=np.uint64) for distance, own in keys.items() if own}
        # At most one entry in 64 is set, so that few positions without a match pass the first test.
        bits = min(26, max(16, int(np.ceil(np.log2(64 * max(1, len(first_words)))))))
        self._shift = np.uint64(64 - bits)
        self._known = np.zeros(1 << bits, dtype=bool)
        self._known[(np.array(first_words, dtype=np.uint64) * _MULTIPLIER) >> self._shift] = True

    def _finds(self, data: bytes, layers: int = DEEPEST) -> Iterator[tuple[int, int, bytes]]:
        """Yield the intervals with deleted text, each with the pattern; first as it stands, then with its escapes undone."""
        for position, key in self._candidates(data):
            for entry in self._patterns[key]:
                first = position - entry.offset
                if first >= 0 and data.startswith(entry.pattern, first):
                    yield first, first + len(entry.pattern), entry.pattern
        if layers and self._patterns and (plain := unescaped(data)) is not None:
            places = None
            for first, end, pattern in self._finds(plain, layers - 1):
                places = places or Places(data)
                yield *places.original(first, end), pattern

    def _candidates(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the offsets of candidate anchors and their keys, one word alignment after the other."""
        for shift in range(WORD if self._patterns else 0):
            words = _words(data, shift)
            hashed = words * _MULTIPLIER
            hashed >>= self._shift
            likely = np.flatnonzero(self._known[hashed.view(np.int64)])
            for distance, known in self._keys.items() if len(likely) else ():
                seconds = _words(data, shift + distance)
                inside = likely[likely < len(seconds)]
                keys = _key(words[inside], seconds[inside])
                spots = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                for chosen in np.flatnonzero(known[spots] == keys):
                    yield int(inside[chosen]) * WORD + shift, int(keys[chosen])


class NotingSearch(ContentSearch):
    """Searches all of a content and notes which records it holds text of, where a `ContentSearch` ends at the first match.

    It always answers that nothing was found, so that the caller reads on to the end.
    """

    def __init__(self, search: ContentSearch) -> None:
        """Copy the patterns of a search for the same records."""
        vars(self).update(vars(search))
        self.found: set[int] = set()
        """Places in that search's `records` of those of which text was found."""

    @cached_property
    def _owners(self) -> dict[bytes, set[int]]:
        """Places of the records by the byte patterns of their texts; as large as the search, so made when something is found."""
        owners: dict[bytes, set[int]] = {}
        for number, own in enumerate(self._windows):
            for form in {form for window in own for form in spellings(window)}:
                owners.setdefault(form, set()).add(number)
        return owners

    def holds(self, content: bytes | str) -> bool:
        """Note the records of which a piece of content holds text; return False."""
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        for _, _, pattern in self._finds(data):
            self.found |= self._owners[pattern]
        return False

    def found_in(self, chunks: Iterable[bytes]) -> bool:
        """Note the records of which a stream holds text; return False."""
        overlap, tail = self._longest - 1, b""
        for chunk in chunks:
            data = tail + chunk
            self.holds(data)
            tail = data[-overlap:] if overlap > 0 else b""
        return False


def _words(data: bytes, offset: int) -> NDArray[np.uint64]:
    """View bytes from an offset on as little-endian 64-bit words."""
    return np.frombuffer(data, dtype="<u8", count=max(0, (len(data) - offset) // WORD), offset=min(offset, len(data)))


def _key(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Combine both words of each anchor into one key; a collision costs one comparison of bytes."""
    return first * _MULTIPLIER ^ second * _SECOND


def windows_of(text: str) -> list[str]:
    """Return the windows of a text; none where it is too short or too uniform to identify anybody."""
    text = text.strip()
    if len(text) < SHORTEST:
        return []
    last = max(0, len(text) - WINDOW)
    starts = [*range(0, last, STRIDE), last]
    found = [text[start : start + WINDOW] for start in starts]
    return [window for window in found if len(set(window)) >= FEWEST_LETTERS]


def _windows_of_record(record: Record, with_prompts: bool) -> set[str]:
    return {window for text in _texts(record, with_prompts) for window in windows_of(text)}


def spellings(window: str) -> set[bytes]:
    """Return the byte spellings of a window by Unicode normalization form, encoding, and JSON, CSV and HTML escaping.

    A form that is too short to be searched for is left out.
    """
    found = {pattern for form in normal_forms(window) for pattern in _encoded(form)}
    return {pattern for pattern in found if len(pattern) >= min(DISTANCES) + WORD}


def _in_other_alphabets(window: str) -> set[bytes]:
    """Return a window in Base64, hexadecimal and percent encoding.

    In Base64 it has three alignments; characters that also encode a part of its neighbours are left out.
    """
    text = window.encode("utf-8", "surrogatepass")
    found = {text.hex().encode(), text.hex().upper().encode()}
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + text)
        inner = encoded[-(-offset * 8 // 6) : (offset + len(text)) * 8 // 6]
        found |= {inner, inner.translate(_URL_SAFE)}
    escaped = (quote(text, safe=""), quote(text), quote_plus(text))
    return found | {one.encode() for one in escaped}


def normal_forms(window: str) -> tuple[str, ...]:
    """Return a window as it is, composed (NFC) and decomposed (NFD): canonically equivalent texts are the same text."""
    if window.isascii():
        return (window,)
    return tuple(dict.fromkeys((window, unicodedata.normalize("NFC", window), unicodedata.normalize("NFD", window))))


def _encoded(window: str) -> set[bytes]:
    escaped, open_json = json.dumps(window)[1:-1], json.dumps(window, ensure_ascii=False)[1:-1]
    twice = json.dumps(escaped)[1:-1]  # JSON within JSON: an output in a notebook, a message in a log line
    forms = (window, escaped, open_json, twice, window.replace('"', '""'), html.escape(window), html.escape(window, quote=False))
    found = {form.encode() for form in forms}
    plain = {window.encode()}
    for undo in (without_json, without_html) * DEEPEST:  # a text that holds escapes itself loses them with those around it
        plain |= {undo(form) for form in plain}
    found |= plain | {window.encode(encoding) for encoding in ("utf-16-le", "utf-16-be", "utf-32-le")}
    with suppress(UnicodeEncodeError):
        found.add(window.encode("cp1252"))
    return found | _in_other_alphabets(window)


def _texts(record: Record, with_prompts: bool) -> list[str]:
    """Return the texts of a record to search for, whole and by line, since logs split texts at line breaks."""
    wholes = record.all_texts if with_prompts else [record.completion, *record.assistant_texts]
    wholes = [*wholes, record.secret] if record.secret else wholes
    return [piece for whole in wholes for piece in dict.fromkeys((whole, *whole.splitlines()))]


def _rarest(pattern: bytes, size: int) -> int:
    """Return the offset of the `size` bytes that are rarest in ordinary files: fewest spaces, zeros and frequent letters."""
    rare = np.array([byte not in _COMMON for byte in pattern], dtype=np.int64)
    sums = np.convolve(rare, np.ones(size, dtype=np.int64), mode="valid")
    return int(sums.argmax())
