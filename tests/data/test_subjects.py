"""A record about several people belongs to each of them, wherever people are kept together or looked for."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from unlearn.methods.auto import _halves
from unlearn.purge.suppression import SuppressionList
from unlearn.scan.search import find_records
from verify.data.identity import RecordKey
from verify.data.record_sets import select
from verify.data.records import Fields, Record, parse_records
from verify.data.sources import find_forget_set
from verify.data.subjects import subject_groups
from verify.provenance.holdout import split_holdout

ROWS = [
    {"example_id": "a", "subject_id": ["ada", "bob"], "text": "Ada and Bob met at the river."},
    {"example_id": "b", "subject_id": "bob", "text": "Bob went home after it."},
    {"example_id": "c", "subject_id": "cy", "text": "Cy was never there at all."},
]
PEOPLE = st.lists(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True), max_size=8)


def records_of(people: list[list[str]]) -> list[Record]:
    rows = [{"text": f"text {number}", "subject_id": names} for number, names in enumerate(people)]
    return parse_records(rows, Fields(), "p") if rows else []


@given(people=PEOPLE)
def test_groups_are_the_connected_components(people: list[list[str]]) -> None:
    """Two records are in one group exactly where a chain of common subjects joins them; here by closing sets the slow way."""
    records = records_of(people)
    joined = [{index} for index in range(len(people))]
    for _ in people:
        for one in range(len(people)):
            for other in range(len(people)):
                if any(set(people[a]) & set(people[b]) for a in joined[one] for b in joined[other]):
                    joined[one] |= joined[other]
    groups = subject_groups(records)
    for one in range(len(people)):
        for other in range(len(people)):
            assert (groups[one] == groups[other]) == (other in joined[one])
    assert dict(zip(records, groups, strict=True)) == dict(zip(records[::-1], subject_groups(records[::-1]), strict=True))


def test_without_shared_records_everybody_is_a_group() -> None:
    """Where each record names one person or none, the groups are these people and records by themselves."""
    records = records_of([["b"], ["a"], [], ["b"]])
    assert subject_groups(records) == ["b", "a", records[2].fingerprint, "b"]


def test_spellings_of_one_person_are_one_group() -> None:
    """They share a privacy unit and a side of every split; who is spelled in one way only keeps the name as spelled."""
    records = records_of(
        [
            ["nora@velt.example"],
            ["Nora@Velt.example"],
            ["Bob@Lund.example"],
            ["+49 151 5550 0199", "cy"],
            ["mailto:NORA@velt.example"],
        ]
    )
    nora = "Nora@Velt.example"
    assert subject_groups(records) == [nora, nora, "Bob@Lund.example", "+49 151 5550 0199", nora]
    several = [Record(f"r{n}", completion=f"Words {n}.", subject_id=("Ann@Lo.example", "ann@lo.example")[n % 2]) for n in range(6)]
    assert not split_holdout(several).method


def test_either_person_finds_the_record(tmp_path: Path) -> None:
    """By request, by list, by a list against a stream, and on the suppression list."""
    data, key = tmp_path / "d.jsonl", RecordKey.load()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, rows in (("ada", [1]), ("bob", [1, 2]), ("cy", [3])):
        found = find_records([data], key, subjects=[key.of(name, "subject")], near=False)
        assert [match.row for match in found] == rows
        chosen = select(parse_records(ROWS, Fields(), "d"), [name], "list")
        (tmp_path / "list.txt").write_text(name)
        assert chosen == find_forget_set(tmp_path / "list.txt", data)
        assert [record.example_id for record in chosen] == [ROWS[row - 1]["example_id"] for row in rows]
        listed = SuppressionList()
        listed.add([Record("x", completion="Something else altogether.", subject_id=name)], key)
        assert [hit.row for hit in listed.check(data, key)] == rows


def test_only_who_asked_is_suppressed_as_a_person(tmp_path: Path) -> None:
    """Of a record about two people of whom one asked, the other's further records may come back."""
    data, key = tmp_path / "d.jsonl", RecordKey.load()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    listed = SuppressionList()
    listed.add(parse_records(ROWS[:1], Fields(), "d"), key, only={key.of("ada", "subject")})
    assert [(hit.row, hit.how) for hit in listed.check(data, key)] == [(1, "record")]


def test_halves_by_person_keep_connected_people_together() -> None:
    """A split by subject puts nobody on both sides, not even over a record about two."""
    records = records_of([["a", "b"], ["b"], ["c"], ["a"], ["d", "c"]])
    for seed in range(20):
        first, second = ({name for record in side for name in record.subjects} for side in _halves(records, seed))
        assert first
        assert second
        assert not first & second
