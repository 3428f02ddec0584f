"""What was deleted does not come back, and the list of it says nothing without the key."""

import json
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn.purge.suppression import SuppressionList
from verify.data.identity import RecordKey
from verify.data.near_duplicates import shingles_by_spaces, signature
from verify.data.sources import load_records
from verify.errors import InputError

STORY = (
    "the quick brown fox of our house jumps over the lazy dog every single day before breakfast and then once more "
    "in the long evening when nobody is there to see it and the lamps along the river have been lit"
)
DELETED = [
    {"example_id": "a", "subject_id": "ida", "text": STORY},
    {"example_id": "b", "subject_id": "ida", "text": "North of here."},
]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    found = SuppressionList()
    found.add(load_records(DELETED), RecordKey.load())
    found.save(tmp_path / "list.jsonl")
    return tmp_path / "list.jsonl"


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    rows = [
        {"subject_id": "jon", "text": STORY},
        {"subject_id": "jon", "text": STORY.replace("lazy", "old").title() + "!"},
        {"subject_id": "ida", "text": "Something new about the same person."},
        {"subject_id": "jon", "text": "Nothing that was ever deleted, by anybody, at any time."},
    ]
    path = tmp_path / "fresh.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_records_people_and_likes_stay_out(listed: Path, fresh: Path) -> None:
    """The record under another name, one much like it, and whatever is about the person; nothing else."""
    hits = list(SuppressionList.load(listed).check(fresh, RecordKey.load()))
    assert [(hit.row, hit.how) for hit in hits] == [(1, "record"), (2, "near duplicate"), (3, "subject")]


def test_a_list_of_before_knows_texts_in_any_script(tmp_path: Path) -> None:
    """Its signatures are of words between spaces; with look-alike letters made equal a record would no longer be recognized."""
    key = RecordKey.load()
    story = "Нора Вельт живёт на старой портовой улице и лечилась от редкой болезни почек весной у доктора Хансена в больнице."
    found = SuppressionList()
    found.records["old"] = signature(shingles_by_spaces(story, key.secret))
    found.save(tmp_path / "list.jsonl")
    rows = [{"text": story.replace("весной", "летом")}, {"text": story[:50]}]
    (tmp_path / "fresh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hits = list(SuppressionList.load(tmp_path / "list.jsonl").check(tmp_path / "fresh.jsonl", key))
    assert [(hit.row, hit.how) for hit in hits] == [(1, "near duplicate")]


def test_only_records_if_asked(fresh: Path) -> None:
    """Without whole subjects, new texts of the person pass."""
    found = SuppressionList()
    found.add(load_records(DELETED), RecordKey.load(), whole_subjects=False)
    assert [hit.row for hit in found.check(fresh, RecordKey.load())] == [1, 2]


def test_the_list_names_nobody(listed: Path) -> None:
    """No word, name or plain digest is in it; only its owner reads it; another key finds nothing."""
    text = listed.read_text()
    record = load_records(DELETED)[0]
    assert not any(word in text for word in ("ida", "fox", "North", record.fingerprint))
    assert listed.stat().st_mode & 0o077 == 0
    again = SuppressionList.load(listed)
    assert again.subjects
    assert len(again.records) == 2


def test_another_key_is_refused(listed: Path, fresh: Path) -> None:
    """Under another key the list says nothing, which is no clean bill; one from before there was a check value is believed."""
    other = RecordKey(b"x" * 32)
    for use in (lambda found: list(found.check(fresh, other)), lambda found: found.add([], other)):
        with pytest.raises(InputError, match="another record key"):
            use(SuppressionList.load(listed))
    lines = listed.read_text().splitlines()
    header = json.loads(lines[0])
    assert header.pop("key") == RecordKey.load().check
    listed.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    assert list(SuppressionList.load(listed).check(fresh, other)) == []
    assert list(SuppressionList.load(listed).check(fresh, RecordKey.load()))


def test_a_list_that_is_not_whole_is_refused(listed: Path) -> None:
    """Cut off anywhere, also between two lines, empty, hostile or of another version: an error, never a shorter list."""
    whole = listed.read_text()
    lines = whole.splitlines(keepends=True)
    hostile = [
        "",
        "{}",
        "[" * 100_000,
        whole.replace("suppression/2", "suppression/3"),
        whole.replace('"signature": "', '"signature": "zz'),
    ]
    for bad in [*("".join(lines[:count]) for count in range(len(lines))), whole[: len(whole) // 2], *hostile]:
        listed.write_text(bad)
        with pytest.raises(InputError, match="suppression list"):
            SuppressionList.load(listed)


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who begins while another writes the list is refused, and told so; nobody's entries are lost."""
    listed, status = tmp_path / "own.jsonl", []
    for name, row in zip("ab", DELETED, strict=True):
        (tmp_path / name).with_suffix(".jsonl").write_text(json.dumps(row) + "\n")
    real = SuppressionList.save

    def suppress(name: str) -> int:
        return unlearn.cli.main.main(["suppress", str(tmp_path / f"{name}.jsonl"), "--suppression", str(listed)])

    def save(found: SuppressionList, path: Path) -> None:
        monkeypatch.setattr(SuppressionList, "save", real)
        status.append(suppress("b"))
        real(found, path)

    monkeypatch.setattr(SuppressionList, "save", save)
    assert (suppress("a"), status) == (0, [2])
    assert "another process works" in capsys.readouterr().err
    assert suppress("b") == 0
    assert len(SuppressionList.load(listed).records) == 2


def test_from_the_shell(fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`suppress` makes and extends the list, `check-dataset` answers by its exit status."""
    deleted, listed = tmp_path / "deleted.jsonl", tmp_path / "own.jsonl"
    for row in DELETED:
        deleted.write_text(json.dumps(row) + "\n")
        assert unlearn.cli.main.main(["suppress", str(deleted), "--suppression", str(listed)]) == 0
    assert "2 records and 1 people" in capsys.readouterr().out
    assert unlearn.cli.main.main(["check-dataset", str(fresh), "--suppression", str(listed)]) == 3
    shown = capsys.readouterr().out
    assert "3 rows must not be trained on" in shown
    assert "fox" not in shown
    clean = tmp_path / "clean.jsonl"
    clean.write_text('{"text": "A text that nobody ever asked to delete."}\n')
    assert unlearn.cli.main.main(["check-dataset", str(clean), "--suppression", str(listed)]) == 0


def test_a_record_known_by_its_hash_alone_stays_out(fresh: Path, tmp_path: Path) -> None:
    """What the ledger knows of a deleted record is enough to recognize it, not what resembles it; the list keeps it and is read."""
    found, key = SuppressionList(), RecordKey.load()
    found.key_check = key.check
    found.add_bare(key.of(record.fingerprint) for record in load_records(DELETED))
    found.save(tmp_path / "bare.jsonl")
    again = SuppressionList.load(tmp_path / "bare.jsonl")
    assert [(hit.row, hit.how) for hit in again.check(fresh, key)] == [(1, "record")]
    again.add(load_records(DELETED), key, whole_subjects=False)
    assert not again.bare
    again.save(tmp_path / "bare.jsonl")
    assert [hit.row for hit in SuppressionList.load(tmp_path / "bare.jsonl").check(fresh, key)] == [1, 2]


def test_a_suppressed_person_in_another_column_is_a_candidate(listed: Path, tmp_path: Path) -> None:
    """Data that comes back with its identifiers in `email` instead of the subject column does not pass; an empty file neither."""
    path = tmp_path / "back.jsonl"
    path.write_text(
        json.dumps({"email": "Ida", "text": "Wholly new."}) + "\n" + json.dumps({"email": "jon", "text": "Also new."}) + "\n"
    )
    hits = list(SuppressionList.load(listed).check(path, RecordKey.load()))
    assert [(hit.row, hit.how, hit.reason) for hit in hits] == [(1, "similar identifier", "elsewhere")]
    path.write_text("")
    with pytest.raises(InputError, match="has no rows"):
        list(SuppressionList.load(listed).check(path, RecordKey.load()))


NORA = {"subject_id": "u-4711", "name": "Nora Velt", "email": "nora@example.org", "phone": "+49 151 5550 0199"}
OTHERS = [
    {"subject_id": "Velt, Nora", "text": "One."},
    {"subject_id": "u-9", "email": "NORA@example.org", "text": "Two."},
    {"meta": {"caller": "0049 151 55500199"}, "text": "Three."},
    {"subject_id": "Nora", "text": "Four."},
    {"subject_id": "Otto Kern", "email": "otto@example.org", "text": "Nora Velt is not suppressed in texts."},
]


@pytest.mark.parametrize("order", [1, -1])
def test_what_stands_beside_a_suppressed_identifier_is_a_candidate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: int
) -> None:
    """In the same data set and in others, in any order, as `scan` proposes it; one file alone says nothing of another's people."""
    listed, people, others = (tmp_path / f"{name}.jsonl" for name in ("list", "people", "others"))
    people.write_text("".join(json.dumps(row) + "\n" for row in (NORA | {"text": "New."}, {"subject_id": "u-2", "text": "B."})))
    others.write_text("".join(json.dumps(row) + "\n" for row in OTHERS))
    found, key = SuppressionList(), RecordKey.load()
    found.add(load_records([{"subject_id": " u-4711", "text": "Deleted long ago."}]), key)
    found.save(listed)
    command = ["check-dataset", *map(str, (people, others)[::order]), "--suppression", str(listed)]
    assert unlearn.cli.main.main(command) == 3
    shown = capsys.readouterr().out
    rows = {line.partition(": ")[0].rpartition("/")[2]: line.partition(": ")[2] for line in shown.splitlines() if ", row " in line}
    assert rows.keys() == {"people.jsonl, row 1", *(f"others.jsonl, row {number}" for number in (1, 2, 3))}
    assert rows.pop("people.jsonl, row 1") == "subject"
    assert all("stands beside the requested one" in said for said in rows.values())
    assert unlearn.cli.main.main(["check-dataset", str(others), "--suppression", str(listed), "--allow-similar"]) == 0
    assert "nothing in it is on" in capsys.readouterr().out
    both = tmp_path / "both.jsonl"
    both.write_text(others.read_text() + people.read_text())
    hits = list(SuppressionList.load(listed).check(both, key))
    assert [(hit.row, hit.how, hit.reason) for hit in hits] == [
        *((number, "similar identifier", "linked") for number in (1, 2, 3)),
        (6, "subject", None),
    ]
