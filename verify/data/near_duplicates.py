"""Near-duplicate search by MinHash: the same text with some words, the spacing, the case or invisible characters changed.

Texts are compared by their sets of word shingles; a letter of a script without spaces between words counts as a word. MinHash
(Broder 1997) estimates the Jaccard similarity of two such sets from short signatures; a human confirms what it finds. Shingles are
hashed with a key, so that the signatures in the suppression list do not reveal their texts. Of known texts that are at hand it is
found, too, which longer texts contain them.
"""

import hmac
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from verify.data.likeness import letters_apart, visible_letters

PERMUTATIONS = 128
SHINGLE_WORDS = 3
PERMUTATION_SCHEME = "affine32"
"""Name of the permutations, as in datasketch; signatures of different schemes cannot be compared."""
AT_ONCE = 1 << 12
"""Shingles that are permuted at a time, 2 MiB of values."""
SIMILAR = 0.7
"""Least estimated Jaccard similarity J of near-duplicates; its standard error, sqrt(J (1 - J) / 128), is about 0.04."""
CONTAINED = 0.9
"""Share of a text's shingles that a longer text must have to contain it. The longer one may be of any length, so J can be small."""
LEAST_CONTAINED = 8
"""Smallest number of shingles (of ten words) of a text that others can contain; a shorter one may be a phrase of anybody's."""
_FAR = SIMILAR / 2
"""True similarity that no estimate of `SIMILAR` comes from: fewer than one of 10^13 comparisons by Chernoff's bound."""


def shingles(text: str, key: bytes) -> set[bytes]:
    """Compute keyed 8-byte hashes of all three-word shingles, in lower case without punctuation; a shorter text is one shingle."""
    return _hashed(_runs(text), key)


def shingles_by_spaces(text: str, key: bytes) -> set[bytes]:
    """Compute the shingles that signatures of before 28 November 2026 hold; for a text in ASCII they are those of today.

    There what stands between two spaces or marks is one word in every script, and an invisible character ends it.
    """
    return _hashed(_three_in_a_row(re.findall(r"\w+", text.lower())), key)


def _runs(text: str) -> set[str]:
    """Return the three-word shingles of a text."""
    words = re.findall(r"\w+", text.lower() if text.isascii() else visible_letters(text))
    return _three_in_a_row(words if text.isascii() else letters_apart(words))


def _three_in_a_row(words: list[str]) -> set[str]:
    if len(words) <= SHINGLE_WORDS:
        return {" ".join(words)} if words else set()
    return {f"{one} {two} {three}" for one, two, three in zip(words, words[1:], words[2:], strict=False)}


def _hashed(runs: Iterable[str], key: bytes) -> set[bytes]:
    return {hmac.digest(key, run.encode(), "sha256")[:8] for run in runs}


Signature = NDArray[np.uint32]
"""MinHash values of a text [PERMUTATIONS]."""


@cache
def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Draw factors, which are odd, and summands of the permutations x -> a x + b mod 2^32 [PERMUTATIONS, 1]."""
    drawn = np.random.RandomState(1)  # a stream that numpy guarantees, since signatures are stored
    factors = drawn.randint(0, 1 << 31, (PERMUTATIONS, 1), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, drawn.randint(0, 1 << 32, (PERMUTATIONS, 1), dtype=np.uint32)


def _mixed(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Mix the bits of hashes by the finalizer of MurmurHash3, a bijection, before they are permuted."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = (values ^ (values >> np.uint32(shift))) * np.uint32(factor)
    return values ^ (values >> np.uint32(16))


def signature(hashes: Iterable[bytes]) -> Signature:
    """Compute the MinHash signature of hashed shingles: of each permutation the least value.

    The values are those of `datasketch.MinHash(num_perm=128, scheme="affine32")`, bit for bit; importing that library takes half a
    second and 40 MiB, as it brings scipy.
    """
    mixed = _mixed(np.frombuffer(b"".join(hashed[:4] for hashed in hashes), dtype="<u4").astype(np.uint32))
    factors, summands = _permutations()
    least = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(mixed), AT_ONCE):
        np.minimum(least, (factors * mixed[start : start + AT_ONCE] + summands).min(axis=1), out=least)
    return least


def similarity(one: Signature, other: Signature) -> float:
    """Estimate the Jaccard similarity of two texts, the share of equal values in their signatures."""
    return float((one == other).mean())


class NearDuplicates:
    """Index of a few known texts, with a cheap path for texts that share no shingle with them."""

    def __init__(self, known: Mapping[str, Signature], shingles_of_known: Mapping[str, set[bytes]] | None = None) -> None:
        """Index known texts.

        Args:
            known: signatures by name.
            shingles_of_known: their shingles, if the texts are available; a text that shares none is skipped at once.
        """
        self._known = dict(known)
        self._any = set().union(*shingles_of_known.values()) if shingles_of_known else None
        self._matrix = np.stack(list(known.values())) if known else None

    def find(self, hashed: set[bytes]) -> tuple[str, float] | None:
        """Return the most similar known text and its estimated similarity, or None."""
        return next(iter(self.find_all(hashed).items()), None)

    def find_all(self, hashed: set[bytes]) -> dict[str, float]:
        """Return the estimated similarity of every near-duplicate among the known texts, most similar first."""
        if self._matrix is None or not hashed or (self._any is not None and self._any.isdisjoint(hashed)):
            return {}
        shares = (self._matrix == signature(hashed)).mean(axis=1)
        near = [(name, float(share)) for name, share in zip(self._known, shares, strict=True) if share >= SIMILAR]
        return dict(sorted(near, key=lambda one: -one[1]))


class KnownTexts:
    """Index of a few known texts that are at hand: only texts that share enough shingles with them are hashed."""

    def __init__(self, known: Mapping[str, str], key: bytes) -> None:
        """Index known texts by their names; the key hashes the shingles."""
        runs = {name: _runs(text) for name, text in known.items()}
        self._key, self._all = key, frozenset[str]().union(*runs.values())
        self._enough = {name: CONTAINED * len(own) for name, own in runs.items() if len(own) >= LEAST_CONTAINED}
        self._least = min(self._enough.values(), default=math.inf)
        self._where: dict[str, list[str]] = {}
        for name in self._enough:
            for run in runs[name]:
                self._where.setdefault(run, []).append(name)
        hashed = {name: _hashed(own, key) for name, own in runs.items()}
        self._index = NearDuplicates({name: signature(own) for name, own in hashed.items()}, hashed)

    def find_all(self, text: str) -> dict[str, float]:
        """Return the estimated similarity of every known text that a text is nearly, most similar first.

        Of one that it contains, among more text, it is the share that it contains.
        """
        runs = _runs(text)
        shared = self._all & runs
        # The share of its shingles that any known text has is no less than its similarity with each.
        near = self._index.find_all(_hashed(runs, self._key)) if len(shared) >= _FAR * len(runs) else {}
        if len(shared) < self._least:
            return near
        counts = Counter(name for run in shared for name in self._where.get(run, ()))
        whole = {name: CONTAINED * count / self._enough[name] for name, count in counts.items() if count >= self._enough[name]}
        return dict(sorted((whole | near).items(), key=lambda one: -one[1]))


def near_texts(
    known: Mapping[str, str], others: Iterable[tuple[str, str]], key: bytes
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the texts that are nearly a known one.

    Args:
        known: texts by name.
        others: (name, text) of each text to compare.
        key: hashes the shingles.

    Yields:
        the text's name, and the estimated similarity of every known text that it is nearly, most similar first.
    """
    index = KnownTexts(known, key)
    for name, text in others:
        if near := index.find_all(text):
            yield name, near
