"""Clusters of records that must not be separated: those that share a subject, and near-duplicates of each other.

A model that was trained on a near-duplicate of a record has seen the record, too. Candidate pairs are found by
locality-sensitive hashing: signatures are cut into `BANDS` bands of r values, and two texts are compared if any band is equal. A
pair of Jaccard similarity J is compared with probability 1 - (1 - J^r)^BANDS, 0.9998 at the least J of near-duplicates.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from verify.data.identity import RecordKey
from verify.data.near_duplicates import PERMUTATIONS, SIMILAR, shingles, signature
from verify.data.records import Record
from verify.data.subjects import MergedNames, subject_groups

BANDS = 32
ALL_PAIRS = 64
"""Largest bucket whose texts are all compared with each other; in a larger one, each is compared with this many others."""


def subject_clusters(records: Sequence[Record], key: RecordKey) -> list[str]:
    """Return the cluster of each record, named after one of its subjects, or after its content where it has none.

    Args:
        records: in any order; the result does not depend on it, but where more than `ALL_PAIRS` texts share a bucket.
        key: hashes the shingles.

    Returns:
        one name per record [N]: the first in the alphabet of the subject groups that the cluster joins.
    """
    groups = subject_groups(records, alone=lambda record: f"record {record.fingerprint}")
    merged = MergedNames()
    contents: dict[str, int] = {}  # the same text is compared once
    for row, record in enumerate(records):
        merged.join(groups[row], groups[contents.setdefault(record.fingerprint, row)])
    rows = list(contents.values())
    for one, other in near_pairs([records[row].whole_text for row in rows], key):
        merged.join(groups[rows[one]], groups[rows[other]])
    return [merged.group(name) for name in groups]


def near_pairs(texts: Sequence[str], key: RecordKey) -> Iterator[tuple[int, int]]:
    """Yield the pairs of texts whose estimated Jaccard similarity is that of near-duplicates; a few may be missed."""
    signatures = np.stack([signature(shingles(text, key.secret)) for text in texts])  # [N, PERMUTATIONS]
    seen: set[tuple[int, int]] = set()
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
        for bucket in _buckets(part):
            for position, one in enumerate(bucket):
                # The texts of a large bucket are chained: they are one cluster however long the chain is.
                near = bucket[max(0, position - ALL_PAIRS) : position]
                for other in near:
                    pair = (int(other), int(one))
                    if pair not in seen:
                        seen.add(pair)
                        if (signatures[one] == signatures[other]).mean() >= SIMILAR:
                            yield pair


def _buckets(part: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows with equal values, where there are several."""
    _, inverse, counts = np.unique(part, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.cumsum(counts)
    for end, count in zip(bounds, counts, strict=True):
        if count > 1:
            yield order[end - count : end]
