"""Whom a request came from and whom it must reach: import, confirmation of receipt, recipients, and what stays open."""

import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest

from unlearn.cli.request_text import listed, recipients, still_open
from unlearn.requests.close import close_request
from unlearn.requests.ledger.deadlines import today
from unlearn.requests.ledger.ledger import Ledger, NewRequest, Request
from unlearn.requests.ledger.recipients import (
    Planned,
    add_recipients,
    known_recipients,
    note_recipient,
    read_recipients,
    state_nobody,
)
from unlearn.requests.request_facts import facts_of
from verify import InputError
from verify.schema.deletion_record import DeletionRecord, RequestFacts

SUBJECT = ("5" * 32,)
Shell = Callable[..., tuple[int, str]]


def asked(ledger: Ledger, regime: str = "gdpr", days_ago: int = 3) -> Request:
    return ledger.request(ledger.add(NewRequest(SUBJECT, regime, today() - timedelta(days=days_ago))))  # type: ignore[arg-type]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty ledger, which the commands find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    return tmp_path


BATCH = "identifier,regime,received\nnora@example.org,gdpr,{0}\notto@example.org,ccpa,{0}\nNora@Example.org,gdpr,{0}\n"


def test_import_prints_each_row_beside_its_id(desk: Path, shell: Shell) -> None:
    """Row, id, days, and which open request a row repeats, in another spelling too; a second import repeats the first."""
    (desk / "batch.csv").write_text(BATCH.format(today()))
    status, printed = shell("import", "batch.csv")
    assert status == 0
    rows = [line for line in printed.splitlines() if line.startswith("row")]
    names = re.findall(r"R-[0-9a-f]{12}", printed)
    assert [line.split()[:3] for line in rows] == [["row", "1", names[0]], ["row", "2", names[1]], ["row", "3", names[2]]]
    assert rows[2].endswith(f"repeats {names[0]} (row 1), which is open")
    assert "repeats" not in rows[0] + rows[1]
    assert "confirm receipt by" in rows[1], "before that day has passed"
    assert "example.org" not in printed
    _, again = shell("add", stdin="otto@example.org\n")
    assert f"it repeats {names[1]}, which is open" in again
    shell("withdraw", names[0])
    _, third = shell("import", "batch.csv")
    assert f"repeats {names[2]}, which is open" in third.splitlines()[0], "one that was withdrawn is not open"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_import_takes_what_spreadsheets_write(desk: Path, shell: Shell, mark: str) -> None:
    """Semicolons and tabs, several identifiers in a cell or in further columns, and a language: one row is one person."""
    header = mark.join(["identifier", "identifier2", "regime", "received", "language"])
    row = mark.join(['"nora@example.org\nNora Velt"', '"+49 30 123456;ext=5"', "gdpr", str(today()), "DE"])
    other = mark.join(['"otto@example.org; o.brandt@example.org"', "", "ccpa", str(today()), ""])
    (desk / "batch.csv").write_text(f"\ufeff{header}\r\n{row}\r\n{other}\r\n", newline="")
    status, printed = shell("import", "batch.csv")
    assert status == 0, printed
    with closing(Ledger(desk / "ledger.db")) as ledger:
        first, second = ledger.requests()
    assert (len(first.subjects), first.language) == (3, "de")
    assert (len(second.subjects), second.language) == (2, None)
    assert "language" not in second.first, "what is not given is not written"
    (desk / "batch.csv").write_text(f"{header}\n{row.replace('DE', 'tlh')}\n")
    status, printed = shell("import", "batch.csv")
    assert (status, "row 1: there are no letters in this language. Use one of: de, en, es, fr" in printed) == (2, True)


@pytest.mark.slow
def test_receipt_is_confirmed_once(desk: Path, shell: Shell) -> None:
    """CCPA: the day is listed before it has passed; `confirm` writes the letter and an event; approving is no confirmation."""
    with closing(Ledger(desk / "ledger.db")) as ledger:
        request, late = asked(ledger, "ccpa"), asked(ledger, "ccpa", 30)
        ledger.advance(request.id, "identity_verified")
    _, printed = shell("list")
    assert f"confirm receipt by {request.deadlines.confirm}, answer by" in printed
    assert f"CONFIRMATION OVERDUE since {late.deadlines.confirm}" in printed
    status, printed = shell("confirm", request.id)
    assert status == 0
    assert f"receipt confirmed, if this letter is sent by {request.deadlines.confirm}" in printed
    (letter,) = (desk / "deletions").rglob(f"{request.id}-confirmation.txt")
    text = " ".join(letter.read_text().split())
    assert "We received your request" in text
    assert "[Say here how you verify who is asking.]" in text
    assert shell("confirm", request.id)[0] == 0
    with closing(Ledger(desk / "ledger.db")) as ledger:
        noted = ledger.request(request.id)
        assert [step.state for step in noted.steps] == ["received", "identity_verified", "receipt_confirmed"]
        assert (noted.state, noted.unconfirmed_by) == ("identity_verified", None)
        (line,) = listed([noted], today())
        assert "confirm receipt" not in line
        ledger.advance(late.id, "withdrawn")
        ledger.advance(late.id, "closed")
        assert ledger.verify() == 6
    status, printed = shell("confirm", late.id)
    assert (status, "is closed; its receipt need not be confirmed" in printed) == (2, True)


@pytest.mark.slow
def test_recipients_from_told_to_confirmed(desk: Path, shell: Shell) -> None:
    """Each has its kind, deadline, evidence by digest and who confirmed as a keyed hash; what is open is said until nothing is."""
    with closing(Ledger(desk / "ledger.db")) as ledger:
        request = asked(ledger)
    status, printed = shell("recipients", request.id)
    assert status == 3
    assert "nobody stated to whom the data were passed on" in printed
    due = today() + timedelta(days=5)
    (desk / "standing.csv").write_text("name,kind,due\nHosting Ltd,processor,14\nSearch index,vector-store,\n")
    assert shell("recipients", request.id, "--file", "standing.csv", "--add", "Partner AG", "--due", str(due))[0] == 3
    assert shell("recipients", request.id, "--file", "standing.csv")[0] == 3, "a second time adds nothing"
    (desk / "mail.eml").write_text("We have deleted it. P. Example")
    shell("recipients", request.id, "--told", "Hosting Ltd")
    shell("recipients", request.id, "--confirmed", "Hosting Ltd", "--by", "P. Example", "--evidence", "mail.eml")
    shell("recipients", request.id, "--unreachable", "Partner AG", "--reason", "the company was dissolved")
    status, printed = shell("recipients", request.id)
    assert (status, printed.count("open:")) == (3, 1)
    assert "open: Search index (vector-store), not told yet" in printed
    digest = hashlib.sha256((desk / "mail.eml").read_bytes()).hexdigest()
    assert f"evidence {digest[:16]}" in printed
    assert "cannot be notified: the company was dissolved" in printed
    status, printed = shell("recipients", request.id, "--confirmed", "Search index")
    assert status == 0
    assert b"P. Example" not in b"".join(path.read_bytes() for path in desk.glob("ledger.db*"))
    with closing(Ledger(desk / "ledger.db")) as ledger:
        known = known_recipients(ledger.request(request.id))
        assert known is not None
        facts = [(one.facts.kind, one.facts.due, one.facts.evidence, one.facts.open) for one in known]
    received = date.fromisoformat(request.first["received"])
    assert facts == [
        ("processor", received + timedelta(days=14), digest, False),
        ("vector-store", request.due, None, False),
        ("recipient", due, None, False),
    ]
    _, shown = shell("show", request.id)
    assert "Hosting Ltd (processor), confirmed on" in shown


def test_standing_recipients_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A number of days beyond the calendar, an unclosed quotation and a damaged file are errors with a next step, not crashes."""
    path = tmp_path / "standing.csv"
    for content in (b"name,kind,due\nHosting Ltd,processor,99999999999\n", b'name,kind,due\n"Hosting', b"\xff\xfe\n"):
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_recipients(path)
    path.write_text("name,kind,due\nHosting Ltd,processor,9999\n")
    assert read_recipients(path)[0].due == 9999


@pytest.mark.slow
def test_recipients_are_in_record_and_list_and_survive_closing(ledger: Ledger, tmp_path: Path) -> None:
    """The record counts them without names; a confirmation may come after `close`, and changes neither state nor outcome."""
    request = asked(ledger)
    add_recipients(ledger, request.id, [Planned("Hosting Ltd", "processor", today() - timedelta(days=1))])
    with pytest.raises(InputError, match="has 1 recipients, so they cannot be none"):
        state_nobody(ledger, request.id)
    ledger.advance(request.id, "denied", reason="no right to it")
    record, _ = close_request(ledger, tmp_path / "deletions", request.id)
    assert record.requests[0].outcome == "denied"
    assert [one.kind for one in record.requests[0].recipients or ()] == ["processor"]
    assert "Hosting" not in (tmp_path / "deletions" / request.id / "deletion.json").read_text()
    assert DeletionRecord.load(tmp_path / "deletions" / request.id / "deletion.json") == record
    closed = ledger.request(request.id)
    (line,) = listed([closed], today())
    assert "1 recipient open, RECIPIENT OVERDUE since" in line
    assert next(still_open(closed, today())).endswith("OVERDUE by 1 days")
    after = note_recipient(ledger, request.id, "Hosting Ltd", confirmed=today().isoformat())
    assert (after.state, after.outcome) == ("closed", "denied")
    assert not list(still_open(after, today()))
    assert close_request(ledger, tmp_path / "deletions", request.id)[0] == record
    other = state_nobody(ledger, asked(ledger).id)
    assert (facts_of(other).recipients, facts_of(asked(ledger)).recipients) == ((), None)
    assert facts_of(other).nobody is None, "no recipient at all says it alone, as in records of earlier versions"
    ledger.verify()


@pytest.mark.parametrize("first", ["systems", "statement"])
def test_nobody_else_is_recorded_beside_systems_of_ones_own(ledger: Ledger, first: str) -> None:
    """In either order, once; a party that is recorded afterwards takes the statement back."""
    name = asked(ledger).id
    own = [Planned("search index", "vector-store")]
    if first == "statement":
        state_nobody(ledger, name)
    add_recipients(ledger, name, own)
    state_nobody(ledger, name)
    steps = len(ledger.request(name).steps)
    request = state_nobody(ledger, name)
    assert len(request.steps) == steps
    facts = facts_of(request)
    assert ([one.kind for one in facts.recipients or ()], facts.nobody) == (["vector-store"], True)
    assert any("passed on to nobody, as the operator states" in line for line in recipients(request, today()))
    assert RequestFacts.model_validate_json(facts.model_dump_json()) == facts
    add_recipients(ledger, name, [Planned("Hosting Ltd", "processor")])
    assert facts_of(ledger.request(name)).nobody is None
    with pytest.raises(InputError, match="has 1 recipients"):
        state_nobody(ledger, name)


@pytest.mark.slow
def test_what_recipients_refuse(desk: Path, shell: Shell) -> None:
    """Unknown names and ids, half-given facts, days to come and broken files: nothing is recorded."""
    with closing(Ledger(desk / "ledger.db")) as ledger:
        name = asked(ledger).id
        events = ledger.verify()
    (desk / "bad.csv").write_text("name,kind,due\nX,friend,\n")
    (desk / "day.csv").write_text("name,kind,due\nX,processor,soon\n")
    (desk / "empty.csv").write_text("")
    for words, said in (
        (["R-0"], "no request with that id"),
        ([name, "--told", "Nobody Ltd"], "has no recipient of that name"),
        ([name, "--unreachable", "X"], "only with --reason"),
        ([name, "--by", "P. Example"], "only with --confirmed"),
        ([name, "--add", " "], "1 to 200 characters"),
        ([name, "--confirmed", "X", "--evidence", "absent.eml"], "is not a file"),
        ([name, "--told", "X", "--on", "2999-01-01"], "is still to come"),
        ([name, "--file", "bad.csv"], "row 1: the kind must be one of"),
        ([name, "--file", "day.csv"], "row 1: due must be an ISO date"),
        ([name, "--file", "empty.csv"], "needs the columns name, kind and due"),
        ([name, "--file", "absent.csv"], "cannot be read"),
    ):
        status, printed = shell("recipients", *words)
        assert (status, said in printed) == (2, True), (words, printed)
    with closing(Ledger(desk / "ledger.db")) as ledger:
        assert ledger.verify() == events
