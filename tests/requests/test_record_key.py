"""Which key a ledger was begun with: under another one nobody is found, and that must not be told to anybody as an answer."""

import io
import os
import sqlite3
from datetime import date
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn.requests.ledger.intake import from_lines
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from verify.data.identity import KEY_VARIABLE, RecordKey

WHO = "zebedee@example.com"
PLAN = ("plan", "--data", "people.jsonl", "--models", "models", "--dry-run")


def shell(*words: str) -> int:
    return unlearn.cli.main.main(["request", *words])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty desk with its own key and ledger, neither of them made yet, and a person's identifier."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "record.key"))
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    (tmp_path / "who.txt").write_text(f"{WHO}\n")
    (tmp_path / "models").mkdir()
    return tmp_path


def add(capsys: pytest.CaptureFixture[str]) -> str:
    assert shell("add", "--identifiers", "who.txt") == 0
    return capsys.readouterr().out.strip()


@pytest.mark.slow
def test_another_key_is_refused(desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No command that looks for people, or notes them, works under another key or a missing one; the message says what to set, no
    key is made, and the request stays where it was. What needs no key works without."""
    assert shell("add", "--identifiers", "who.txt") == 0
    said = capsys.readouterr()
    assert "a new record key was created" in said.err
    name = said.out.strip()
    assert shell("approve", name) == 0
    RecordKey.load(desk / "other.key")
    for key in ("other.key", "gone.key"):
        monkeypatch.setenv(KEY_VARIABLE, str(desk / key))
        for command in (PLAN, ("add", "--identifiers", "who.txt"), ("import", "batch.csv"), ("close", name)):
            capsys.readouterr()
            assert shell(*command) == 2
            error = capsys.readouterr().err
            assert key in error
            assert f"${KEY_VARIABLE}" in error
        for command in (("list",), ("show", name), ("verify-ledger",)):
            assert shell(*command) == 0
    assert not (desk / "gone.key").exists()
    ledger = Ledger(desk / "ledger.db")
    assert [request.state for request in ledger.requests()] == ["identity_verified"]
    ledger.close()


def old_ledger(desk: Path) -> None:
    """A ledger as it was before it named its key."""
    ledger = Ledger(desk / "ledger.db")
    ledger.add(NewRequest((RecordKey.load().of(WHO, "subject"),), "gdpr", date(2026, 11, 2)))
    ledger.close()
    with sqlite3.connect(desk / "ledger.db") as raw:
        for table in ("key_check", "callbacks", "ledger_layout"):
            raw.execute(f"DROP TABLE {table}")


def test_a_ledger_from_before_goes_on(desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger without a check value takes that of the key in use, once, if the key was there before its first request; a younger
    key is not taken on trust for ever, and a missing one is not replaced."""
    old_ledger(desk)
    monkeypatch.setenv(KEY_VARIABLE, str(desk / "other.key"))
    assert shell(*PLAN) == 2
    assert not (desk / "other.key").exists()
    RecordKey.load(desk / "other.key")
    later = (desk / "ledger.db").stat().st_mtime + 60
    os.utime(desk / "other.key", (later, later))
    assert shell(*PLAN) == 3
    assert "confirm that once with --note-key" in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, str(desk / "record.key"))
    assert shell(*PLAN) == 3, "nothing is approved yet; the key was noted"
    assert "WARNING" not in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, str(desk / "other.key"))
    assert shell(*PLAN) == 2


def test_a_ledger_without_an_event_for_its_key_gets_one(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check value from before such events goes into the chain with the next command that uses the key, once; and no other one."""
    old_ledger(desk)
    Ledger(desk / "ledger.db").close()
    with sqlite3.connect(desk / "ledger.db") as raw:
        raw.execute("INSERT INTO key_check VALUES (1, ?)", (RecordKey.load().check,))
    for _ in range(2):
        assert shell(*PLAN) == 3
        ledger = Ledger(desk / "ledger.db")
        assert ledger.verify() == 2
        ledger.close()
    capsys.readouterr()
    with sqlite3.connect(desk / "ledger.db") as raw:
        (details,) = raw.execute("SELECT details FROM events WHERE request = 'ledger' AND state = 'record_key'").fetchone()
    assert RecordKey.load().check in details


def test_a_key_from_a_backup_is_taken_at_the_operators_word(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The right key, younger than the ledger because it was restored: noted once by --note-key, and no word after that."""
    old_ledger(desk)
    later = (desk / "ledger.db").stat().st_mtime + 60
    os.utime(desk / "record.key", (later, later))
    assert shell(*PLAN, "--note-key") == 3
    assert shell(*PLAN) == 3
    assert "WARNING" not in capsys.readouterr().err


def test_the_check_value_tells_nothing_and_stays(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no identifier's hash, nobody can change it, and the chain of events is what it was."""
    add(capsys)
    ledger = Ledger(desk / "ledger.db")
    key = RecordKey.load()
    assert ledger.key_check() == key.check
    assert key.check not in {key.of("ledger"), key.of("ledger", "subject")}
    assert ledger.note_key("0" * 32) == key.check
    assert ledger.verify() == 2, "the key and the request"
    ledger.close()
    with sqlite3.connect(desk / "ledger.db") as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute("UPDATE key_check SET value = ''")


@pytest.mark.parametrize("source", ["who.txt", "-"])
def test_a_byte_order_mark_is_no_part_of_a_name(
    desk: Path, source: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of identifiers that a spreadsheet saved means the same people."""
    (desk / "who.txt").write_bytes(b"\xef\xbb\xbf" + WHO.encode())
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\ufeff{WHO}\n"))
    assert shell("add", "--identifiers", source) == 0
    ledger = Ledger(desk / "ledger.db")
    (request,) = ledger.requests()
    ledger.close()
    expected = from_lines([WHO], RecordKey.load(), regime="gdpr", received=date(2026, 11, 2), country=None)
    assert request.subjects == expected.subjects
