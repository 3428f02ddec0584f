"""A restored backup brings nothing back: everything that was deleted is found in it again, and removed."""

import json
from contextlib import closing
from pathlib import Path

import planted_residues as planted
import pytest

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
