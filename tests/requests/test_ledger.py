"""The ledger: append-only, chained, private, and the same on both databases."""

import sqlite3
import threading
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_walks import MODELS, WAY, new, walk

from unlearn.requests.ledger.ledger import GENESIS, Ledger
from verify import InputError, IntegrityError
from verify.errors import RunError


@pytest.fixture(params=["sqlite", "postgresql"])
def any_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres"))


def test_the_whole_way(any_ledger: Ledger) -> None:
    """A request is walked to its end, its outcome is read, the chain verifies and reopens the same."""
    name = walk(any_ledger)
    request = any_ledger.request(name)
    assert request.outcome == "deleted"
    assert request.deadlines.answer == date(2026, 4, 2)
    assert any_ledger.verify() == len(WAY) + 4
    head = any_ledger.head()
    again = Ledger(any_ledger.url)
    assert again.request(name) == request
    assert again.head() == head
    again.close()
    any_ledger.close()


def test_events_cannot_be_changed(any_ledger: Ledger) -> None:
    """The database itself refuses to edit or delete an event."""
    import sqlalchemy as sa

    any_ledger.add(new())
    for statement in ("UPDATE events SET state = 'closed'", "DELETE FROM events"):
        with pytest.raises(sa.exc.SQLAlchemyError, match="append-only"), any_ledger._engine.begin() as connection:
            connection.execute(sa.text(statement))
    assert any_ledger.verify() == 1
    any_ledger.close()


def test_two_operators_at_once(any_ledger: Ledger) -> None:
    """Both add and advance at the same time: every event is there once, and the chain holds."""
    names: list[str] = []

    def operate() -> None:
        own = Ledger(any_ledger.url)
        for _ in range(10):
            name = own.add(new())
            own.advance(name, "identity_verified")
            names.append(name)
        own.close()

    threads = [threading.Thread(target=operate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any_ledger.verify() == 40
    assert sorted(request.id for request in any_ledger.requests("identity_verified")) == sorted(names)
    any_ledger.close()


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE events SET details = replace(details, 'gdpr', 'ccpa') WHERE sequence = 1",
        "DELETE FROM events WHERE sequence = 2",
        "UPDATE events SET state = 'exempt' WHERE sequence = 3",
    ],
)
def test_a_forger_is_found(tmp_path: Path, forgery: str) -> None:
    """Whoever goes around the triggers breaks the chain, and the check says where."""
    ledger = Ledger(tmp_path / "ledger.db")
    walk(ledger)
    ledger.close()
    raw = sqlite3.connect(tmp_path / "ledger.db")
    for verb in ("UPDATE", "DELETE"):
        raw.execute(f"DROP TRIGGER events_no_{verb}")
    raw.execute(forgery)
    raw.commit()
    raw.close()
    with pytest.raises(IntegrityError, match="broken at event"):
        Ledger(tmp_path / "ledger.db").verify()


def test_a_replaced_ledger_is_found(tmp_path: Path) -> None:
    """A whole new ledger verifies by itself, but does not hold the head that was noted."""
    old, fresh = Ledger(tmp_path / "old.db"), Ledger(tmp_path / "fresh.db")
    walk(old)
    walk(fresh)
    assert fresh.verify() > 0
    with pytest.raises(IntegrityError, match="head is not in this ledger"):
        fresh.verify(old.head())
    assert Ledger(tmp_path / "empty.db").head() == GENESIS


def test_what_must_be_true_first(ledger: Ledger) -> None:
    """No deployment of an unverified model, no refusal without a reason, no closing while an old model serves."""
    name = ledger.add(new())
    with pytest.raises(InputError, match="cannot become closed"):
        ledger.advance(name, "closed")
    with pytest.raises(InputError, match="for a reason"):
        ledger.advance(name, "denied", reason=" ")
    for state in WAY:
        ledger.advance(name, state)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="none was named"):
        ledger.advance(name, "deployed")
    with pytest.raises(InputError, match="NOT_FORGOTTEN"):
        ledger.advance(name, "deployed", models=[{**MODELS[0], "verdict": "NOT_FORGOTTEN"}])
    undecided = {**MODELS[0], "verdict": "INCONCLUSIVE"}
    for refused in ({**undecided, "basis": "audit"}, {**MODELS[0], "verdict": "NOT_FORGOTTEN", "basis": "exact rebuild"}):
        with pytest.raises(InputError, match="only when its verdict"):
            ledger.advance(name, "deployed", models=[MODELS[0], refused])
    ledger.advance(name, "deployed", models=[MODELS[0], {**undecided, "before": "a" * 64, "basis": "exact rebuild"}])
    with pytest.raises(InputError, match="no reason"):
        ledger.advance(name, "purged", residual=[{"what": "backup", "reason": ""}])
    ledger.advance(name, "purged", residual=[{"what": "backup", "reason": "expires in May"}])
    with pytest.raises(InputError, match="still in service"):
        ledger.advance(name, "closed")
    ledger.advance(name, "purged", residual=[], retired=["a" * 64])
    assert ledger.advance(name, "closed").outcome == "deleted"


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ("database or disk is full", "no space left for the ledger"),
        ("disk I/O error", "no space left for the ledger, or its disk fails"),
        ("unable to open database file", "cannot be written"),
        ("attempt to write a readonly database", "cannot be written"),
        ("database is locked", "another program has held the ledger"),
    ],
)
def test_a_file_that_cannot_be_used_now_is_said_with_what_to_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, cause: str, said: str
) -> None:
    """When the ledger is opened as when it is written; it is not called something else than a ledger."""

    def fails(*_: Any) -> None:
        raise sa.exc.OperationalError("", {}, sqlite3.OperationalError(cause)) from sqlite3.OperationalError(cause)

    with monkeypatch.context() as patched:
        patched.setattr("unlearn.requests.ledger.ledger.prepare", fails)
        with pytest.raises(RunError, match=f"{said}.*Nothing in it is lost"):
            Ledger(ledger.url)
        patched.setattr(Ledger, "_append", fails)
        with pytest.raises(RunError, match=f"{said}.*Nothing in it is lost, and this step was not recorded"):
            ledger.add(new())
    assert ledger.verify() == 0


def test_bad_input(ledger: Ledger, tmp_path: Path) -> None:
    """No identifier, an unknown id or state, a repeated external id, a file that is no database: clear errors, nothing lost."""
    with pytest.raises(InputError, match="at least one identifier"):
        ledger.add(new(subjects=()))
    with pytest.raises(InputError, match="no request with that id"):
        ledger.request("R-0")
    name = ledger.add(new(external_id="e"))
    with pytest.raises(InputError, match="is not a state"):
        ledger.advance(name, "gone")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="already in the ledger"):
        ledger.add(new(external_id="e"))
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    with pytest.raises(InputError, match="cannot be opened"):
        Ledger(tmp_path / "text.db")
    with pytest.raises(InputError) as shown:
        Ledger("postgresql+psycopg://operator:hunter2@127.0.0.1:1/ledger")
    assert "hunter2" not in str(shown.value)
    assert ledger.verify() == 1
