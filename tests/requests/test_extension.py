"""An extension counts where the person was told of it in time, and nowhere else."""

from datetime import date, timedelta
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn.cli.request_text import history, listed
from unlearn.requests.close import close_request
from unlearn.requests.ledger.deadlines import ExtensionReason, today
from unlearn.requests.ledger.ledger import Ledger, NewRequest, Request
from verify import InputError
from verify.io.files import alone_in

SUBJECT = ("5" * 32,)


def asked(ledger: Ledger, days_ago: int = 10, regime: str = "gdpr") -> Request:
    """A request that came in so many days ago."""
    return ledger.request(ledger.add(NewRequest(SUBJECT, regime, today() - timedelta(days=days_ago))))  # type: ignore[arg-type]


def test_told_and_noted(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`request extend` notes it once, writes the letter with reason and both days, and from there on the later day is shown; the
    state stays what it was, and the way goes on."""
    request = asked(ledger)
    ledger.advance(request.id, "identity_verified")
    where = ["--ledger", str(tmp_path / "ledger.db"), "--output", str(tmp_path / "deletions")]
    command = ["request", "extend", request.id, "--reason", "complexity", *where]
    assert unlearn.cli.main.main(command) == 0
    said = capsys.readouterr().out
    assert f"answer by {request.deadlines.extended}, if this letter is sent by {request.deadlines.answer}" in said
    letter = next((tmp_path / "deletions").rglob(f"{request.id}-extension.txt"))
    text = " ".join(letter.read_text().split())
    assert "because your request is complex" in text
    assert all(f"{day.day} {day:%B %Y}" in text for day in (request.deadlines.answer, request.deadlines.extended) if day)
    assert (letter.stat().st_mode & 0o077, str(letter) in said) == (0, True)
    noted = ledger.request(request.id)
    assert (noted.state, noted.due) == ("identity_verified", request.deadlines.extended)
    letter.unlink()
    assert unlearn.cli.main.main(command) == 0, "a lost letter is written again"
    assert " ".join(letter.read_text().split()) == text
    assert ledger.verify() == 3
    (line,) = listed([noted], today())
    assert f"answer by {noted.due} (extended)" in line
    told = "\n".join(history(noted, today()))
    assert f"extended from {noted.deadlines.answer}, the person was notified on {today()}" in told
    assert ledger.advance(request.id, "denied", reason="no right to it").state == "denied"


@pytest.mark.parametrize("command", [["extend", "--reason", "complexity"], ["confirm"]], ids=lambda words: words[0])
def test_nobody_is_noted_as_told_by_a_letter_that_cannot_be_written(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """A place that cannot be written is found before the ledger says that the person was notified."""
    request = asked(ledger, regime="ccpa")
    (tmp_path / "file").write_text("")
    words = [command[0], request.id, *command[1:], "--ledger", str(tmp_path / "ledger.db"), "--output", str(tmp_path / "file")]
    assert unlearn.cli.main.main(["request", *words]) != 0
    assert "cannot be written" in capsys.readouterr().err
    assert ledger.request(request.id) == request


def test_a_refused_request_is_closed_by_one_process_at_a_time(ledger: Ledger, tmp_path: Path) -> None:
    """Its record is written once: the second process is told to wait, and then finds what the first has written."""
    request = asked(ledger)
    ledger.advance(request.id, "denied", reason="no right to it")
    with alone_in(tmp_path / "deletions" / request.id), pytest.raises(InputError, match="another process works in"):
        close_request(ledger, tmp_path / "deletions", request.id)
    assert ledger.request(request.id).state == "denied"
    first, second = (close_request(ledger, tmp_path / "deletions", request.id)[0] for _ in range(2))
    assert first == second
    assert [step.state for step in ledger.request(request.id).steps].count("closed") == 1


@pytest.mark.parametrize(("days", "late"), [(20, False), (40, True)])
def test_an_extension_that_nobody_was_told_of_is_none(ledger: Ledger, days: int, late: bool, tmp_path: Path) -> None:
    """Without the event a request is overdue after its first deadline, and its record names no later day."""
    request = asked(ledger, days)
    (line,) = listed([request], today())
    assert ("OVERDUE" in line, request.due) == (late, request.deadlines.answer)
    offered = any("unlearn request extend" in told for told in history(request, today()))
    assert offered is not late
    ledger.advance(request.id, "denied", reason="no right to it")
    record, _ = close_request(ledger, tmp_path / "deletions", request.id)
    assert record.requests[0].extended_to is None
    assert record.requests[0].due == request.deadlines.answer


def test_an_extension_is_in_the_record(ledger: Ledger, tmp_path: Path) -> None:
    """Where the person was told, the record says until when, and carries the event that says so."""
    request = ledger.extend(asked(ledger).id, "number-of-requests", today())
    ledger.advance(request.id, "denied", reason="no right to it")
    record, _ = close_request(ledger, tmp_path / "deletions", request.id)
    (facts,) = record.requests
    assert (facts.extended_to, facts.due) == (request.deadlines.extended, request.deadlines.extended)
    assert [event.state for event in facts.events] == ["received", "extended", "denied", "closed"]


def test_when_it_cannot_be_extended(ledger: Ledger) -> None:
    """After its last day, once it has ended, under rules that know none, a second time for another reason: nothing is noted."""
    overdue, ended, drop, twice = asked(ledger, 60), asked(ledger), asked(ledger, regime="drop"), asked(ledger)
    ledger.advance(ended.id, "withdrawn")
    ledger.extend(twice.id, "complexity", today())
    events = ledger.verify()
    refused: list[tuple[Request, ExtensionReason, str]] = [
        (overdue, "complexity", "was due on"),
        (ended, "complexity", "can no longer be extended"),
        (drop, "complexity", "allows no extension"),
        (twice, "number-of-requests", "was already extended"),
    ]
    for request, reason, said in refused:
        with pytest.raises(InputError, match=said):
            ledger.extend(request.id, reason, today())
    assert ledger.verify() == events
    last = asked(ledger, 10)
    assert ledger.extend(last.id, "complexity", last.deadlines.answer).extension is not None, "on the last day it still can"


def test_the_reason_names_nobody(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Free words, which might hold a name, are no reason."""
    request = asked(ledger)
    with pytest.raises(SystemExit) as stop:
        unlearn.cli.main.main(
            ["request", "extend", request.id, "--reason", "Zebedee asked", "--ledger", str(tmp_path / "ledger.db")]
        )
    assert stop.value.code == 2
    assert ledger.request(request.id).due == ledger.request(request.id).deadlines.answer
    assert date.fromisoformat(request.first["received"]) < today()
