"""The auditor follows the ledger's chain without the program that wrote it, and names the event that is wrong."""

import os
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from certificates import broken, check, record_about, rewritten

from unlearn.requests.ledger.ledger import Ledger, NewRequest
from unlearn.requests.ledger.recipients import Planned, add_recipients, note_recipient
from unlearn.requests.request_facts import facts_of
from verify import InputError, IntegrityError
from verify.auditing.looks import look_at
from verify.certificate.ledger_chain import GENESIS, LedgerEvent, chain
from verify.certificate.ledger_facts import _by_numbers, _data, _learned
from verify.certificate.opened_audits import not_made, opening
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount


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


@pytest.fixture
def lived(house: dict[str, Path], tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A ledger in which one request was answered with the house's model, and the deletion record that says so."""
    return life(house, tmp_path)


def life(
    house: dict[str, Path],
    tmp_path: Path,
    controls: str | None = None,
    broken_off: str | None = None,
    inconclusive: tuple[str, ...] = (),
) -> tuple[Path, dict[str, Any]]:
    """The same; the ledger opened the audit as the second against these controls, if any are named, and before that one under an
    abandoned plan that was broken off ("scored") or stopped before a score was read ("unscored"). `inconclusive` names audits that
    left the model open; the one on which it went into service is "8"."""
    record = record_about(house)
    model = record.models[0]
    ledger = Ledger(tmp_path / "lived.sqlite")
    name = ledger.add(NewRequest(("a" * 32,), "gdpr", date(2026, 11, 3), language="de"))
    facts = {"before": model.before, "after": model.after, "method": model.method, "verdict": model.verdict}
    deployed = {**facts, "basis": model.basis, "evidence": model.audit_digest}
    ledger.advance(name, "identity_verified")
    ledger.advance(name, "matched", places=[place.model_dump() for place in record.data], records=[], near_duplicates_left=2)
    add_recipients(ledger, name, [Planned("Acme", "processor"), Planned("Index", "vector-store")])
    note_recipient(ledger, name, "Acme", told="2026-11-04")
    ledger.advance(name, "planned", batch="B-0")
    ledger.advance(name, "unlearning", batch="B-0", registrations={model.before: "0" * 64})
    left: dict[str, Any] = {}
    if broken_off is not None:
        ledger.advance(name, "verifying", batch="B-0", audits=[opening(model.before, str(controls), 0.05, None)])
        left = {"audits_not_made": [not_made("B-0", model.before)]} if broken_off == "unscored" else {}
    planned = [{"name": "m", "weights": model.before, "records": 80}]
    ledger.advance(name, "planned", batch="B-1", plan="f" * 64, models=planned, **left)
    ledger.advance(name, "unlearning", batch="B-1", registrations={model.before: None})
    audits = [] if controls is None else [opening(before, controls, 0.05, None) for before in ("other", model.before)]
    for audited in inconclusive:
        ledger.advance(name, "verifying", batch="B-1", audited=audited)
        left_open = [{"before": model.before, "verdict": "INCONCLUSIVE", "rung": 0}]
        ledger.advance(name, "inconclusive", batch="B-1", audited=audited, models=left_open)
    ledger.advance(name, "verifying", batch="B-1", audited="8", **({"audits": audits} if audits else {}))
    ledger.advance(name, "deployed", batch="B-1", models=[deployed])
    with ledger.writing() as connection:  # a later plan's registration, which the states would not let in
        ledger._append(connection, name, "unlearning", {"batch": "B-2", "registrations": {model.before: "2" * 64}})
        stays = [{"place": copy.place, "kind": copy.kind, "reason": copy.reason} for copy in record.residual]
        first, second = {"checkpoint": 5, "Arrow cache": 3}, {"checkpoint": 7, "optimizer state": 12}
        ledger._append(connection, name, "purged", {"batch": "B-1", "residual": [], "removed": first, "retired": []})
        purged = {"batch": "B-1", "residual": stays, "removed": second, "retired": [model.before]}
        ledger._append(connection, name, "purged", purged)
        ledger._append(connection, name, "closed", {"batch": "B-1"})
    head = ledger.head()
    ledger.add(NewRequest(("b" * 32,), "ccpa", date(2026, 11, 4)))
    about = record.model_copy(update={"requests": (facts_of(ledger.request(name)),), "ledger_head": head})
    ledger.close()
    return tmp_path / "lived.sqlite", about.model_dump(mode="json", by_alias=True)


def noting(record: dict[str, Any]) -> Callable[[list[Any]], None]:
    """Let the operator sign this deletion record."""

    def note(statements: list[Any]) -> None:
        statements[0]["predicate"]["runDetails"]["metadata"]["request"] = record

    return note


def test_a_certificate_is_held_against_the_ledger(
    house: dict[str, Path], lived: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Events after the certificate are no fault; events cut off behind its head, or another ledger, are."""
    path, record = lived
    whole = rewritten(house, tmp_path / "c.json", noting(record))
    checked = check(house, whole, ledger=path, ledger_head=record["ledger_head"])
    assert checked.holds, broken(checked)
    assert "1 events before the last" in checked.findings[-2].detail
    assert "the certificate says what they say of 1 request" in checked.findings[-1].detail
    elsewhere = rewritten(house, tmp_path / "d.json", noting(record | {"ledger_head": "9" * 64}))
    assert "not in its chain" in broken(check(house, elsewhere, ledger=path))
    assert "the certificate was made at" in broken(check(house, whole, ledger_head="9" * 64))
    nowhere = rewritten(house, tmp_path / "e.json", noting(record | {"ledger_head": "none yet"}))
    assert "it is not a SHA-256 digest" in broken(check(house, nowhere))
    change(path, "DELETE FROM events WHERE sequence > 1")
    assert "not in its chain" in broken(check(house, whole, ledger=path))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("requests", 0, "received"), "2026-11-02", "received is not what the ledger recorded"),
        (("requests", 0, "identifiers"), 3, "identifiers is not what the ledger recorded"),
        (("requests", 0, "regime"), "ccpa", "regime is not what the ledger recorded"),
        (("requests", 0, "id"), "R-0123456789ab", "the ledger has no such request"),
        (("requests", 0, "outcome"), "withdrawn", "the certificate says withdrawn, the ledger ended with purged"),
        (("requests", 0, "events", 3, "at"), "2026-11-03T00:00:00+00:00", "step 4 is not the ledger's"),
        (("requests", 0, "events", 3, "state"), "received", "step 4 is not the ledger's"),
        (("requests", 0, "language"), "fr", "language is not what the ledger recorded"),
        (("requests", 0, "language"), None, "language is not what the ledger recorded"),
        (("requests", 0, "records"), 3, "records is not the number that the ledger recorded"),
        (("requests", 0, "recipients", 0, "told"), "2026-11-03", "recipients are not those that the ledger recorded"),
        (("requests", 0, "recipients", 1, "kind"), "other", "recipients are not those that the ledger recorded"),
        (("requests", 0, "recipients"), [], "recipients are not those that the ledger recorded"),
        (("requests", 0, "recipients"), None, "recipients are not those that the ledger recorded"),
        (("requests", 0, "nobody"), True, "no statement that the data were passed on to nobody"),
        (("models", 0, "method"), "retrain", "the method of model"),
        (("models", 0, "audit_digest"), "7" * 64, "the audit of model"),
        (("models", 0, "basis"), "audit", "the basis of model"),
        (("requests", 0, "near_left"), 0, "near_left is not the number that the ledger recorded"),
        (("requests", 0, "removed"), {"checkpoint": 3}, "removed is not what the ledger recorded of this person's copies"),
        (("models",), [], "it names 0 replaced models, the ledger 1"),
        (("residual",), [], "the copies that stay are not those that the ledger recorded"),
        (("residual", 0, "reason"), "handed to nobody", "the copies that stay are not those that the ledger recorded"),
        (("residual", 0, "requests"), [], "or of other requests"),
        (("models", 0, "requests"), [], "the ledger matched fewer records to the requests of model"),
        (("removed", "checkpoint"), 13, "the numbers of removed copies are not those"),
        (("retired",), [], "the retired models are not those"),
        (("data", 0, "records"), 60, "the training files, or the rows in them, are not those"),
        (("data", 1, "digest"), "9" * 64, "the training files, or the rows in them, are not those"),
        (("data",), [], "the training files, or the rows in them, are not those"),
        (("records",), 60, "the number of removed records is not that of the plan"),
    ],
)
def test_what_the_operator_signs_is_what_the_ledger_says(
    house: dict[str, Path], lived: tuple[Path, dict[str, Any]], tmp_path: Path, place: tuple[Any, ...], value: Any, said: str
) -> None:
    """Signed again by the right key: each fact about a request that its events do not bear out is named."""
    path, record = lived
    inner: Any = record
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert said in broken(check(house, rewritten(house, tmp_path / "c.json", noting(record)), ledger=path))


@pytest.mark.parametrize(
    ("noted", "stated", "said"),
    [
        (["R-1", "R-2"], ["R-2", "R-1"], None),
        (["R-1"], ["R-1"], None),
        (["R-1"], ["R-2"], "are not those of its plan"),
        (["R-1"], ["R-1", "R-2"], "are not those of its plan"),
        (["R-1", "R-2"], None, "are not those of its plan"),
        (None, ["R-2"], None),
        (None, ["R-1", "R-2"], "too few records from it for data of each"),
        (None, None, None),
        (None, [], "fewer records"),
    ],
)
def test_a_model_learned_from_the_requests_of_its_plan(noted: list[str] | None, stated: list[str] | None, said: str | None) -> None:
    """Two people with one record each, of whom a model knew one, or both: named is whose data it was, not only how many records.
    Earlier plans named nobody."""
    places = [{"file": "people.jsonl", "digest": "d" * 64, "records": 1}]
    model = {"weights": "a" * 64, "records": len(noted or ["R-1"]), **({} if noted is None else {"requests": noted})}
    events = [
        LedgerEvent(name, "matched", "", {"places": places, "records": [{"record": name * 8}]}, "") for name in ("R-1", "R-2")
    ]
    events.append(LedgerEvent("R-1", "planned", "", {"models": [model]}, ""))
    record = {
        "requests": [{"id": "R-1"}, {"id": "R-2"}],
        "data": [places[0] | {"records": 2}],
        "records": model["records"],
        "models": [{"before": "a" * 64, "requests": stated}],
    }
    found = list(_data(record, events))
    assert (found == []) if said is None else (said in found[0])
    assert _by_numbers(record, events) == (noted is None and stated is not None)


@pytest.mark.parametrize(
    ("removed", "stated", "said"),
    [
        (3, ["R-1", "R-2", "R-3"], None),
        (2, ["R-1", "R-2", "R-3"], None),  # the shared record is of two of them
        (1, ["R-1", "R-2", "R-3"], "too few records"),
        (1, ["R-3"], None),
        (1, ["R-1"], None),
        (2, ["R-1"], "fewer records"),  # of its two, one is R-2's as well, whose data the model had not learned
        (1, ["R-2"], "fewer records"),
        (2, ["R-1", "R-2"], None),
        (3, ["R-1", "R-2"], "fewer records"),
        (1, ["R-1", "R-9"], "too few records"),
    ],
)
def test_numbers_of_records_say_whose_data_it_can_have_been(removed: int, stated: list[str], said: str | None) -> None:
    """A plan of an earlier version has only the number: R-1 has two records, of which R-2 has one as well, and R-3 another one."""
    own = {"R-1": frozenset("ab"), "R-2": frozenset("b"), "R-3": frozenset("c")}
    found = list(_learned({"weights": "a" * 64, "records": removed}, stated, own))
    assert (found == []) if said is None else (said in found[0])


@pytest.mark.parametrize(
    ("opened", "broken_off", "account", "holds"),
    [
        ("c" * 64, None, ControlsAccount.of(0.05, None, "c" * 64, 2), True),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "c" * 64, 2, ("1" * 64,)), True),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "c" * 64, 3, ("1" * 64,)), True),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "c" * 64, 3), False),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "c" * 64, 1, ()), False),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "c" * 64, 1), False),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "d" * 64, 2), False),
        ("c" * 64, None, ControlsAccount.of(0.05, None, "d" * 64, 3, ("1" * 64,)), False),
        ("c" * 64, None, None, False),
        ("c" * 64, "scored", ControlsAccount.of(0.05, None, "c" * 64, 3), True),
        ("c" * 64, "scored", ControlsAccount.of(0.05, None, "c" * 64, 2), False),
        ("c" * 64, "unscored", ControlsAccount.of(0.05, None, "c" * 64, 2), True),
        ("c" * 64, "unscored", ControlsAccount.of(0.05, None, "c" * 64, 3), False),
        (None, None, ControlsAccount.of(0.05, None, "c" * 64, 2), False),
        (None, None, ControlsAccount.of(0.05, None, "c" * 64, 2, ("1" * 64,)), True),
    ],
)
def test_the_account_of_the_controls_is_the_ledgers(
    house: dict[str, Path], tmp_path: Path, opened: str | None, broken_off: str | None, account: ControlsAccount | None, holds: bool
) -> None:
    """Another number, other controls, or none where the ledger opened the audit as the second; an auditor who counts by evidence
    may know of more. An audit that was broken off counts, one of which no score was read does not."""
    path, record = life(house, tmp_path, opened, broken_off)

    def sign(statements: list[Any]) -> None:
        noting(record)(statements)
        evidence = statements[1]["predicate"]["annotations"]["evidence"]
        evidence["account"] = None if account is None else account.model_dump(mode="json")
        if account is not None:  # which an audit has of its own controls
            evidence["sets"].append({"role": "holdout", "records": 9, "scored_tokens": 99, "digest": account.controls})

    checked = check(house, rewritten(house, tmp_path / "c.json", sign), ledger=path)
    assert checked.holds == holds, broken(checked)
    assert ("counts the audits against its controls otherwise" in broken(checked)) == (not holds)


@pytest.mark.parametrize(("audits", "looks", "holds"), [((), 0, True), (("4",), 0, False), (("4",), 1, True), (("8",), 0, True)])
def test_earlier_audits_of_the_same_weights_are_named(
    house: dict[str, Path], tmp_path: Path, audits: tuple[str, ...], looks: int, holds: bool
) -> None:
    """An inconclusive audit with other references that the ledger noted, and the certificate does not; the audit on which the model
    went into service itself is no earlier one."""
    path, record = life(house, tmp_path, inconclusive=audits)
    evidence = Evidence.load(house["audit"] / "evidence.json")
    look = look_at(evidence, evidence).model_dump(mode="json")

    def sign(statements: list[Any]) -> None:
        noting(record)(statements)
        statements[1]["predicate"]["annotations"]["evidence"]["looks"] = [look] * looks

    found = broken(check(house, rewritten(house, tmp_path / "c.json", sign), ledger=path))
    assert found == "" if holds else "names 0 earlier audits of these weights, the ledger noted 1" in found


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"hello", b"\x00" * 4096])
def test_files_that_are_no_ledger(tmp_path: Path, content: bytes) -> None:
    """Empty, damaged and foreign files are refused; a missing one and a folder are called what they are."""
    (tmp_path / "l").write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("l", "is not a request ledger"),
        ("", "is a folder"),
        ("pipe", "not a regular file"),
        ("gone", "not exist"),
    ):
        with pytest.raises(InputError, match=f"{said}.*Give the ledger's SQLite file"):
            chain(tmp_path / name)


def test_an_audit_followed_the_registration_of_its_own_plan(
    house: dict[str, Path], lived: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Neither that of an abandoned plan counts nor one that was recorded after the model went into service."""
    path, record = lived
    whole = rewritten(house, tmp_path / "c.json", noting(record))
    assert check(house, whole, ledger=path).holds
    model, ledger = record["models"][0], Ledger(tmp_path / "other.sqlite")
    name = ledger.add(NewRequest(("a" * 32,), "gdpr", date(2026, 11, 3)))
    for state, details in (
        ("identity_verified", {}),
        ("matched", {"places": [], "records": []}),
        ("planned", {"batch": "B-0"}),
        ("unlearning", {"batch": "B-0", "registrations": {model["before"]: None}}),
        ("planned", {"batch": "B-1"}),
        ("unlearning", {"batch": "B-1", "registrations": {model["before"]: "1" * 64}}),
        ("verifying", {"batch": "B-1"}),
        ("deployed", {"batch": "B-1", "models": [model]}),
    ):
        ledger.advance(name, state, **details)  # type: ignore[arg-type]
    about = record | {"requests": [record["requests"][0] | {"id": name}], "ledger_head": ledger.head()}
    ledger.close()
    other = rewritten(house, tmp_path / "d.json", noting(about))
    assert "did not follow the registration" in broken(check(house, other, ledger=tmp_path / "other.sqlite"))
