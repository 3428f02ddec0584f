"""The auditor follows the ledger's chain without the program that wrote it, and names the event that is wrong."""

import sqlite3
from datetime import date
from pathlib import Path

import pytest
from certificates import broken, check, record_about, rewritten

from unlearn.requests.ledger.ledger import Ledger, NewRequest
from verify import InputError, IntegrityError
from verify.certificate.ledger_chain import GENESIS, chain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with four events."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    names = [ledger.add(NewRequest((f"{number:032x}",), "gdpr", date(2026, 11, 3))) for number in range(2)]
    for name in names:
        ledger.advance(name, "identity_verified")
    ledger.close()
    return tmp_path / "ledger.sqlite"


def change(path: Path, statement: str) -> None:
    """Whoever holds the file can take the guards away and change it."""
    with sqlite3.connect(path) as connection:
        for verb in ("update", "delete"):
            connection.execute(f"DROP TRIGGER events_no_{verb}")
        connection.execute(statement)
    connection.close()


def test_both_programs_agree_on_the_chain(path: Path, tmp_path: Path) -> None:
    """The auditor's own computation ends at the head that the ledger reports, event by event."""
    digests = chain(path)
    ledger = Ledger(path)
    assert len(digests) == ledger.verify() + 1 == 5
    assert digests[-1] == ledger.head()
    ledger.close()
    Ledger(tmp_path / "empty.sqlite").close()
    assert chain(tmp_path / "empty.sqlite") == [GENESIS]


@pytest.mark.parametrize(
    ("statement", "event"),
    [
        ("DELETE FROM events WHERE sequence = 2", 2),
        ("UPDATE events SET details = replace(details, '2026-11-03', '2026-12-03') WHERE sequence = 1", 1),
        ("UPDATE events SET state = 'closed' WHERE sequence = 4", 4),
        ("DELETE FROM events WHERE sequence = 1", 1),
    ],
)
def test_a_removed_or_edited_event_is_named(path: Path, statement: str, event: int) -> None:
    """Whatever was done to an event, the chain breaks at its place."""
    change(path, statement)
    with pytest.raises(IntegrityError, match=f"broken at event {event}:"):
        chain(path)


def test_a_certificate_is_held_against_the_ledger(house: dict[str, Path], path: Path, tmp_path: Path) -> None:
    """Events after the certificate are no fault; events cut off behind its head, or another ledger, are."""
    certified = chain(path)[2]

    def at(head: str) -> Path:
        record = record_about(house).model_copy(update={"ledger_head": head})

        def note(statements: list[dict[str, dict[str, dict[str, dict[str, object]]]]]) -> None:
            statements[0]["predicate"]["runDetails"]["metadata"]["request"] = record.model_dump(mode="json", by_alias=True)

        return rewritten(house, tmp_path / "c.json", note)

    checked = check(house, at(certified), ledger=path, ledger_head=certified)
    assert checked.holds, broken(checked)
    assert "2 events before the last" in checked.findings[-1].detail
    assert "not in its chain" in broken(check(house, at("9" * 64), ledger=path))
    change(path, "DELETE FROM events WHERE sequence > 1")
    assert "not in its chain" in broken(check(house, at(certified), ledger=path))
    assert "the certificate was made at" in broken(check(house, at(certified), ledger_head="9" * 64))


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"hello", b"\x00" * 4096])
def test_files_that_are_no_ledger(tmp_path: Path, content: bytes) -> None:
    """Empty, damaged and foreign files are refused; so are a missing one and a folder."""
    (tmp_path / "l").write_bytes(content)
    for path in (tmp_path / "l", tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError):
            chain(path)
