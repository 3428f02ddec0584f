"""Clusters: records of one subject, and near-duplicates of them, stay together."""

import random

from verify.data.clusters import near_pairs, subject_clusters
from verify.data.identity import RecordKey
from verify.data.near_duplicates import SIMILAR, near_texts, shingles, signature, similarity
from verify.data.records import Fields, parse_records

KEY = RecordKey(b"k" * 32)


def text(seed: int, words: int = 40) -> str:
    """Random words."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choice("abcdefgh") for _ in range(5)) for _ in range(words))


def test_near_duplicates_join_the_clusters_of_their_subjects() -> None:
    """Two subjects with nearly the same text are one cluster, in any order; others, and records without a subject, stay apart."""
    rows = [
        {"subject_id": "a", "text": text(1)},
        {"subject_id": "a", "text": text(2)},
        {"subject_id": "b", "text": text(1).replace("a", "A") + " more"},
        {"subject_id": "c", "text": text(3)},
        {"text": text(4)},
        {"text": text(5)},
    ]
    records = parse_records(rows, Fields(), "rows")
    found = subject_clusters(records, KEY)
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 4
    assert subject_clusters(records[::-1], KEY) == found[::-1]


def test_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    """Banding finds what the slow comparison finds, on texts of every degree of similarity."""
    texts = [
        " ".join([*text(seed).split()[: 40 - cut], *text(1000 + 7 * seed + cut).split()[:cut]])
        for seed in range(20)
        for cut in range(6)
    ]
    signatures = [signature(shingles(one, KEY.secret)) for one in texts]
    slow = {
        (one, other)
        for other in range(len(texts))
        for one in range(other)
        if similarity(signatures[one], signatures[other]) >= SIMILAR
    }
    fast = set(near_pairs(texts, KEY))
    assert fast <= slow
    assert len(slow) > 40
    assert len(slow - fast) <= 0.02 * len(slow)


def test_near_texts_are_those_of_a_comparison_of_all_with_all() -> None:
    """Every known text that a text is nearly is named, most similar first; texts that are nearly none are left out."""
    known = {f"known {seed}": text(seed) for seed in range(5)} | {"twin": text(0).replace("a", "A")}
    others = {
        f"{seed}, {cut}": " ".join([*text(seed).split()[: 40 - cut], *text(99).split()[:cut]])
        for seed in range(6)
        for cut in (0, 3, 30)
    }
    signatures = {name: signature(shingles(one, KEY.secret)) for name, one in (known | others).items()}
    slow = {
        name: {one: share for one in known if (share := similarity(signatures[one], signatures[name])) >= SIMILAR}
        for name in others
    }
    found = dict(near_texts(known, others.items(), KEY.secret))
    assert found == {name: near for name, near in slow.items() if near}
    assert set(found["0, 0"]) == {"known 0", "twin"}
    assert "1, 3" in found
    assert not {"1, 30", "5, 0"} & set(found)
    assert all(list(near.values()) == sorted(near.values(), reverse=True) for near in found.values())
    assert dict(near_texts({}, others.items(), KEY.secret)) == {}
