"""A restored backup brings nothing back: everything that was deleted is found in it again, and removed."""

import csv
import io
import json
from contextlib import closing
from pathlib import Path

import planted_residues as planted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

import unlearn.cli.main
from unlearn.purge.suppression import SuppressionList
from unlearn.requests.ledger.deadlines import today
from unlearn.requests.ledger.intake import from_lines
from unlearn.requests.ledger.ledger import Ledger
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import file_digest

PERSON = "zebedee@example.com"
ROWS = [{**row, "subject_id": PERSON if row in planted.FORGET else f"s{number}"} for number, row in enumerate(planted.ROWS)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with one deletion and one refusal, whose suppression list was lost, and a backup from before the deletion."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    key = RecordKey.load()
    names = [{"record": key.of(one.fingerprint), "subject": key.of_person(PERSON), "how": "subject"} for one in load_records(ROWS)]
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        deleted, refused = (
            ledger.add(from_lines([who], key, regime="gdpr", received=today(), country=None)) for who in (PERSON, "s0")
        )
        ledger.note_key(key.check)
        ledger.advance(refused, "denied", reason="not the person")
        ledger.advance(deleted, "identity_verified")
        matched = [entry for entry, row in zip(names, ROWS, strict=True) if row["subject_id"] == PERSON]
        ledger.advance(deleted, "matched", places=[], records=matched)
        for state in ("planned", "unlearning", "verifying"):
            ledger.advance(deleted, state)  # type: ignore[arg-type]
        ledger.advance(deleted, "deployed", models=[{"before": "a" * 64, "after": "b" * 64, "verdict": "EQUIVALENT_WITHIN"}])
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "train.jsonl").write_text(planted.json_lines(ROWS))
    (backup / "run.log").write_text("\n".join(planted.TEXTS) + "\n")
    (backup / "image.bin").write_bytes(b"\x00" * 40)
    return tmp_path


def replay(*words: str) -> int:
    return unlearn.cli.main.main(["replay-suppression", "--search", "backup", *words])


def test_everything_that_was_deleted_is_found_again(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The list is made again from the ledger; data and logs are listed, then cleaned of the deleted person alone."""
    before = {path.name: file_digest(path) for path in (desk / "backup").iterdir()}
    assert replay() == 3
    printed = capsys.readouterr().out
    assert "1 deletions in the ledger; 2 records and 1 people are on the list" in printed
    assert "came back: train.jsonl: 2 rows (2 record)" in printed
    assert "2 files are not tables of records, searched only for the texts of these rows" in printed
    assert "2 found, 0 removed, 2 can be removed" in printed
    assert {path.name: file_digest(path) for path in (desk / "backup").iterdir()} == before
    assert replay("--remove") == 0
    assert [json.loads(line) for line in (desk / "backup" / "train.jsonl").read_text().splitlines()] == [
        row for row in ROWS if row["subject_id"] != PERSON
    ]
    assert "Zebedee" not in (desk / "backup" / "run.log").read_text()
    capsys.readouterr()
    assert replay() == 0
    assert "3 files" not in capsys.readouterr().out
    listed = SuppressionList.load(desk / "deletions" / "suppressed.jsonl")
    assert (len(listed.bare), len(listed.subjects)) == (2, 1), "what was refused is not on it"
    assert unlearn.cli.main.main(["check-dataset", "backup/train.jsonl", "--suppression", "deletions/suppressed.jsonl"]) == 0
    (desk / "new.jsonl").write_text(
        json.dumps({"subject_id": PERSON.upper(), "text": "Another text about the same person."}) + "\n"
    )
    assert unlearn.cli.main.main(["check-dataset", "new.jsonl", "--suppression", "deletions/suppressed.jsonl"]) == 3


def test_what_cannot_be_recognized_is_said(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log without the data beside it holds the text, but nothing recognizes it: it is said to be not searched."""
    (desk / "backup" / "train.jsonl").unlink()
    assert replay() == 0
    assert "2 files are not tables of records, not searched: no text of a deleted row came back" in capsys.readouterr().out


QUESTIONS = [
    {"question": f"What did customer {number} say?", "answer": row["completion"], "subject_id": row["subject_id"]}
    for number, row in enumerate(ROWS)
]


def _csv(rows: list[dict[str, str]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _only(backup: Path) -> Path:
    for path in backup.iterdir():
        path.unlink()
    return backup


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("PEOPLE.CSV", _csv(ROWS)),
        ("people.JSONL", planted.json_lines(ROWS)),
        ("people.Json", json.dumps(ROWS)),
        ("people.NDJSON", planted.json_lines(ROWS)),
        ("questions.jsonl", planted.json_lines(QUESTIONS)),
        ("questions.csv", _csv(QUESTIONS)),
    ],
)
def test_a_table_is_searched_and_cleaned_however_it_is_named(
    desk: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    """Suffixes in capitals, JSON of both kinds, and columns under other common names: the rows are found and removed."""
    (_only(desk / "backup") / name).write_text(content)
    assert replay() == 3
    assert f"came back: {name}: 2 rows (2 " in capsys.readouterr().out
    assert replay("--remove") == 0
    left = (desk / "backup" / name).read_text()
    assert "Zebedee" not in left
    assert all(row["completion"] in left for row in ROWS if row["subject_id"] != PERSON)


def test_rows_in_any_columns_are_found_by_their_values(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing says which value is the text, so such rows stay for a human, and nothing else is removed on their account."""
    rows = [{"Subject_ID": row["subject_id"], "note": "A note of some kind.", "body": row["completion"]} for row in ROWS]
    (_only(desk / "backup") / "notes.jsonl").write_text(planted.json_lines(rows))
    (desk / "backup" / "mail.csv").write_text(f"nr,mail\n1,someone@example.org\n2,{PERSON}\n")
    (desk / "backup" / "other.log").write_text("A note of some kind.\n")
    before = {path.name: file_digest(path) for path in (desk / "backup").iterdir()}
    for words in ((), ("--remove",)):
        assert replay(*words) == 3
        printed = capsys.readouterr().out
        assert "came back: notes.jsonl: 2 rows (2 subject)" in printed
        assert "came back: mail.csv: 1 row (1 similar identifier)" in printed
    assert "2 rows are still there, to be removed by hand" in printed
    assert {path.name: file_digest(path) for path in (desk / "backup").iterdir()} == before


def test_json_with_a_row_on_each_line_is_a_table(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a single row is all there is."""
    for name, rows in (("lines.json", ROWS), ("one.json", [row for row in ROWS if row["subject_id"] == PERSON][:1])):
        (_only(desk / "backup") / name).write_text(planted.json_lines(rows))
        assert replay() == 3
        assert f"came back: {name}: {'2 rows (2' if len(rows) > 1 else '1 row (1'} record)" in capsys.readouterr().out


@pytest.mark.parametrize("split", [False, True])
def test_a_saved_data_set_is_one_table(desk: Path, capsys: pytest.CaptureFixture[str], split: bool) -> None:
    """A folder of `save_to_disk` is a training format; what it holds is found, and it stays until somebody writes it again."""
    saved = Dataset.from_list(ROWS)
    (DatasetDict({"train": saved}) if split else saved).save_to_disk(_only(desk / "backup") / "saved")
    capsys.readouterr()
    assert replay() == 3
    printed = capsys.readouterr().out
    assert f"came back: saved{'/train' if split else ''}: 2 rows (2 record)" in printed
    assert "rewrite this saved data set" in printed
    Dataset.from_list([row for row in ROWS if row["subject_id"] != PERSON]).save_to_disk(desk / "clean")
    assert unlearn.cli.main.main(["replay-suppression", "--search", "clean"]) == 0


def test_what_stands_before_a_fault_is_found(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table whose last line is cut off is named, what was read of it is found and removed, and the exit status stays 3."""
    content = planted.json_lines(ROWS)
    (_only(desk / "backup") / "cut.jsonl").write_text(content + content.splitlines()[-1][:20])
    assert replay() == 3
    printed = capsys.readouterr().out
    assert "came back: cut.jsonl: 2 rows (2 record)" in printed
    assert "not read to its end: cut.jsonl: the table: line 9 is not a whole JSON object; the file seems to be cut off" in printed
    assert replay("--remove") == 3
    assert "Zebedee" not in (desk / "backup" / "cut.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("first.jsonl", b'{"text": "Zeb'),
        ("first.json", b'{"text": "Zeb'),
        ("list.json", b'[{"text": "Zeb'),
        ("wide.json", '[{"text": "Zebedee"}]'.encode("utf-16")),
        ("table.Parquet", b"PAR1"),
        ("quoted.csv", b'subject_id,text\n"zebedee'),
    ],
)
def test_a_table_that_cannot_be_read_is_never_passed_over(
    desk: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    """What is a table by its suffix and cannot be read is named with the reason, and the exit status says so."""
    (_only(desk / "backup") / name).write_bytes(content)
    assert replay() == 3
    printed = capsys.readouterr().out
    assert f"not read to its end: {name}: the table" in printed
    assert "eb" not in printed.replace("readable", "").partition(f"{name}: the table")[2].partition("\n")[0]


def test_files_beside_tables_fail_nothing(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty tables, settings, vocabularies, this project's own lists, numbers, lone surrogates and a clean table: exit status 0."""
    backup = _only(desk / "backup")
    (backup / "empty.jsonl").touch()
    (backup / "config.json").write_text(json.dumps({"hidden_size": 8}, indent=2))
    (backup / "vocab.json").write_text(json.dumps({"zebedee": 1, PERSON: 2}))
    (backup / "odd.json").write_text('{"hidden_size":\n8}')
    (backup / "list.json").write_text("[1, 2, 3]")
    (backup / "half.jsonl").write_text('{"note": "half of a pair: \\ud83d", "\\ud83d": [null, true, 1.5, {"a": []}]}\n')
    pq.write_table(pa.table({"step": [1, 2], "loss": [0.5, 0.25]}), backup / "metrics.parquet")
    assert replay() == 0
    (desk / "deletions" / "suppressed.jsonl").rename(backup / "suppressed.jsonl")
    capsys.readouterr()
    assert replay() == 0
    assert "not read" not in capsys.readouterr().out


def test_a_row_too_short_to_be_searched_for_is_not_passed_over(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row of a suppressed person with a text of two letters is recognized; it cannot be removed, and the exit status says so."""
    for path in (desk / "backup").iterdir():
        path.unlink()
    (desk / "backup" / "short.jsonl").write_text(json.dumps({"subject_id": PERSON, "text": "Hm"}) + "\n")
    assert replay() == 3
    assert "came back: short.jsonl: 1 row (" in capsys.readouterr().out
    assert replay("--remove") == 3
    assert "1 row is still there" in capsys.readouterr().out


def test_another_key_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a foreign key every search would wrongly find nothing."""
    (desk / "other.key").write_text("6b" * 32)
    (desk / "other.key").chmod(0o600)
    monkeypatch.setenv("UNLEARN_VERIFY_KEY_FILE", str(desk / "other.key"))
    assert replay() == 2
    assert "is not this ledger's key" in capsys.readouterr().err
