"""Near-duplicate search by MinHash: the same text with some words, the spacing or the case changed.

Texts are compared by their sets of word shingles. MinHash (Broder 1997) estimates the Jaccard similarity of two such sets from
short signatures; a human confirms what it finds. Shingles are hashed with a key, so that the signatures in the suppression list do
not reveal their texts.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 128
SHINGLE_WORDS = 3
SIMILAR = 0.7
"""Least estimated Jaccard similarity J of near-duplicates; its standard error, sqrt(J (1 - J) / 128), is about 0.04."""


def shingles(text: str, key: bytes) -> set[bytes]:
    """Compute keyed 8-byte hashes of all three-word shingles, in lower case without punctuation; a shorter text is one shingle."""
    words = re.findall(r"\w+", text.lower())
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    runs = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(count)} if words else set()
    return {hmac.new(key, run.encode(), hashlib.sha256).digest()[:8] for run in runs}


Signature = NDArray[np.uint32]
"""MinHash values of a text [PERMUTATIONS]."""


@cache
def scheme() -> str:
    """Return how datasketch draws its permutations; signatures of different schemes cannot be compared."""
    from datasketch import MinHash  # imports scipy, which a search without texts to compare does not need

    return str(MinHash(num_perm=1).scheme)


def signature(hashes: Iterable[bytes]) -> Signature:
    """Compute the MinHash signature of hashed shingles; datasketch's permutations have a fixed seed, so it can be stored."""
    from datasketch import MinHash

    minhash = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=_first_bytes)
    minhash.update_batch(list(hashes))
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


def similarity(one: Signature, other: Signature) -> float:
    """Estimate the Jaccard similarity of two texts, the share of equal values in their signatures."""
    return float((one == other).mean())


def _first_bytes(hashed: bytes) -> int:
    return int.from_bytes(hashed[:4], "little")


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
        if self._matrix is None or not hashed or (self._any is not None and self._any.isdisjoint(hashed)):
            return None
        shares = (self._matrix == signature(hashed)).mean(axis=1)
        best = int(shares.argmax())
        return (list(self._known)[best], float(shares[best])) if shares[best] >= SIMILAR else None
