"""Does a stream of bytes hold deleted text? All passages of all records are looked for at once, in bounded memory.

A record's text is cut into windows of 48 characters, a new one every 24, the last one flush with the end; a shorter text is one
window. So every passage of 71 characters holds a whole window, and a whole text is covered end to end. Each window is looked for as
UTF-8, in the spellings that JSON, CSV and HTML give it, in UTF-16 and UTF-32, and in Latin-1. A window that also stands in a text
that is to be kept (a question put about everybody) says nothing about anybody and is left out.

To look for thousands of windows in one pass, each is represented by an anchor, its rarest 24 bytes (12 of a short one): the first
eight of them are hashed at every place of the stream by numpy, the last eight only where that hash is known, and where both fit the
window itself is compared.
"""

import html
import json
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from verify.records import Record

WINDOW, STRIDE = 48, 24
SHORTEST = 12
"""Characters. A shorter text, such as a first name, stands in too many places to accuse any of them."""
FEWEST_LETTERS = 4
"""Different characters that a window must have: a row of dashes is nobody's data."""
BATCH = 2000
"""Texts to be kept that are searched at once."""
WORD = 8
DISTANCES = (4, 16)
"""Bytes from the first word of an anchor to its second, for short patterns and for others."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio as a 64-bit fraction: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_SECOND = np.uint64(0xC2B2AE3D27D4EB4F)  # any other odd number
_COMMON = b" etaoinshrdlucm\x00"

Interval = tuple[int, int]
"""First byte of a find, and the byte after its last."""


@dataclass(frozen=True)
class _Place:
    """A pattern, and where in it its anchor starts."""

    pattern: bytes
    offset: int


class ContentSearch:
    """Looks for deleted texts in streams of bytes. What it looks for is shown nowhere."""

    def __init__(self, records: Iterable[Record], retained: Iterable[Record] = ()) -> None:
        """Prepare a search.

        Args:
            records: what was deleted. Prompts are searched only where `retained` tells which of them say nothing.
            retained: records that stay, read one after the other; windows that also stand in one of these are left out.
        """
        staying = iter(retained)
        first = next(staying, None)
        windows = [_windows_of_record(record, with_prompts=first is not None) for record in records]
        every = {window for own in windows for window in own}
        self._set_patterns(every)
        if first is not None and every:
            staying_texts = self._found_in(chain((first,), staying))
            every = {window for window in every if staying_texts.isdisjoint(normal_forms(window))}
            self._set_patterns(every)
        self.unsearched = sum(every.isdisjoint(own) for own in windows)
        """How many records are not searched for: they are too short, or all of them stands in records that stay."""

    def __bool__(self) -> bool:
        return bool(self._places)

    def __repr__(self) -> str:
        return f"ContentSearch(<{len(self._places)} hidden>)"

    def holds(self, content: bytes | str) -> bool:
        """Whether deleted text stands in a piece of content."""
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        return next(self._finds(data), None) is not None

    def found_in(self, chunks: Iterable[bytes]) -> bool:
        """Whether deleted text stands in a stream; it is read no further than the first find."""
        return next(self.intervals(chunks), None) is not None

    def intervals(self, chunks: Iterable[bytes]) -> Iterator[Interval]:
        """All places of a stream at which deleted text stands; they may overlap, and are in order of their anchors.

        Args:
            chunks: the stream in pieces of any size; one piece and the longest pattern are in memory at a time.
        """
        overlap = self._longest - 1
        tail, start = b"", 0
        for chunk in chunks:
            data = tail + chunk
            for first, end in self._finds(data):
                if end > len(tail):  # else it was found with the chunk before
                    yield start + first, start + end
            start += max(0, len(data) - overlap)
            tail = data[-overlap:] if overlap > 0 else b""

    def _found_in(self, staying: Iterable[Record]) -> set[str]:
        """The windows that stand in texts to be kept; many texts are searched at once."""
        found: set[str] = set()
        texts = (text.encode() for record in staying for text in _texts(record, with_prompts=True))
        while batch := b"\x00".join(islice(texts, BATCH)):
            found.update(batch[first:end].decode(errors="replace") for first, end in self._finds(batch))
        return found

    def _set_patterns(self, windows: Iterable[str]) -> None:
        patterns = {form for window in windows for form in spellings(window)}
        self._longest = max(map(len, patterns), default=1)
        self._places: dict[int, list[_Place]] = {}
        keys: dict[int, set[int]] = {distance: set() for distance in DISTANCES}
        first_words = []
        for pattern in patterns:
            distance = max(apart for apart in DISTANCES if apart + WORD <= len(pattern))
            offset = _rarest(pattern, distance + WORD)
            first, second = (np.frombuffer(pattern, "<u8", 1, offset + apart) for apart in (0, distance))
            key = int(_key(first, second)[0])
            self._places.setdefault(key, []).append(_Place(pattern, offset))
            keys[distance].add(key)
            first_words.append(first[0])
        self._keys = {distance: np.array(sorted(own), dtype=np.uint64) for distance, own in keys.items() if own}
        # At most one bit in 64 is set, so that a place that is nothing seldom looks like something.
        bits = min(26, max(16, int(np.ceil(np.log2(64 * max(1, len(first_words)))))))
        self._shift = np.uint64(64 - bits)
        self._known = np.zeros(1 << bits, dtype=bool)
        self._known[(np.array(first_words, dtype=np.uint64) * _MULTIPLIER) >> self._shift] = True

    def _finds(self, data: bytes) -> Iterator[Interval]:
        for position, key in self._candidates(data):
            for place in self._places[key]:
                first = position - place.offset
                if first >= 0 and data.startswith(place.pattern, first):
                    yield first, first + len(place.pattern)

    def _candidates(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Places where an anchor stands, and the key of which; one alignment of words after the other."""
        for shift in range(WORD if self._places else 0):
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


def _words(data: bytes, offset: int) -> NDArray[np.uint64]:
    """A view of whole words from an offset on."""
    return np.frombuffer(data, dtype="<u8", count=max(0, (len(data) - offset) // WORD), offset=min(offset, len(data)))


def _key(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Both words of anchors in one number each; that two anchors share one costs a comparison, nothing else."""
    return first * _MULTIPLIER ^ second * _SECOND


def windows_of(text: str) -> list[str]:
    """The windows of a text; none where it is too short or too uniform to be anybody's."""
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
    """The bytes by which a window may stand in a file: by Unicode normalization form, by encoding, and by what JSON, CSV and
    HTML make of its characters. A form that is too short to be looked for is left out."""
    found = {pattern for form in normal_forms(window) for pattern in _encoded(form)}
    return {pattern for pattern in found if len(pattern) >= min(DISTANCES) + WORD}


def normal_forms(window: str) -> tuple[str, ...]:
    """A window as it is, composed (NFC) and decomposed (NFD): canonically equivalent texts are the same text."""
    if window.isascii():
        return (window,)
    return tuple(dict.fromkeys((window, unicodedata.normalize("NFC", window), unicodedata.normalize("NFD", window))))


def _encoded(window: str) -> set[bytes]:
    escaped, open_json = json.dumps(window)[1:-1], json.dumps(window, ensure_ascii=False)[1:-1]
    twice = json.dumps(escaped)[1:-1]  # JSON within JSON: an output in a notebook, a message in a log line
    forms = (window, escaped, open_json, twice, window.replace('"', '""'), html.escape(window), html.escape(window, quote=False))
    found = {form.encode() for form in forms}
    found |= {window.encode(encoding) for encoding in ("utf-16-le", "utf-16-be", "utf-32-le")}
    with suppress(UnicodeEncodeError):
        found.add(window.encode("cp1252"))
    return found


def _texts(record: Record, with_prompts: bool) -> list[str]:
    """What of a record is looked for. The text of a line break is looked for whole and by line: a log breaks texts apart."""
    wholes = record.all_texts if with_prompts else [record.completion, *record.assistant_texts]
    wholes = [*wholes, record.secret] if record.secret else wholes
    return [piece for whole in wholes for piece in dict.fromkeys((whole, *whole.splitlines()))]


def _rarest(pattern: bytes, size: int) -> int:
    """Where the bytes start that ordinary files hold least often: few spaces, zeros and frequent letters."""
    rare = np.array([byte not in _COMMON for byte in pattern], dtype=np.int64)
    sums = np.convolve(rare, np.ones(size, dtype=np.int64), mode="valid")
    return int(sums.argmax())
