"""Audits that a ledger opened: numbered once each batch, before their results, without those that were never made."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from unlearn.requests.audit_numbers import opened_by
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from verify.certificate.ledger_chain import ledger_events
from verify.certificate.opened_audits import not_made, opened_audits, opening

Event = tuple[str, str, dict[str, Any]]


def begun(request: str, batch: str, *models: str, controls: str = "c" * 64) -> Event:
    return request, "verifying", {"batch": batch, "audits": [opening(model, controls, 0.05, None) for model in models]}


def ended(request: str, batch: str, state: str, unmade: list[str] | None = None, **verdicts: str | None) -> Event:
    models = [{"before": model, **({} if word is None else {"verdict": word})} for model, word in verdicts.items()]
    noted = {} if unmade is None else {"audits_not_made": [not_made(batch, model) for model in unmade]}
    return request, state, {"batch": batch, "models": models, **noted}


def replanned(request: str, batch: str, left: str, *models: str) -> Event:
    return request, "planned", {"batch": batch, "audits_not_made": [not_made(left, model) for model in models]}


def numbers(*events: Event) -> list[tuple[str, str, int]]:
    return [(one.batch, one.before, one.number) for one in opened_audits(events).opened]


def counted(*events: Event) -> list[tuple[str, str]]:
    return [(one.batch, one.before) for one in opened_audits(events).counted]


def test_every_audit_has_a_number_of_its_own() -> None:
    """Two requests of one batch are one audit, two models are two, another method is another, other controls are counted apart."""
    assert numbers(
        ("R-1", "received", {}),
        begun("R-1", "B-1", "m"),
        begun("R-2", "B-1", "m"),
        ended("R-1", "B-1", "failed", m="NOT_FORGOTTEN"),
        ended("R-2", "B-1", "failed", m="NOT_FORGOTTEN"),
        begun("R-1", "B-1", "m"),
        begun("R-2", "B-1", "m"),
        begun("R-3", "B-2", "m", "n"),
        begun("R-4", "B-3", "m", controls="d" * 64),
        ("R-5", "verifying", {"batch": "B-4", "references": 4}),
    ) == [("B-1", "m", 1), ("B-1", "m", 2), ("B-2", "m", 3), ("B-2", "n", 4), ("B-3", "m", 1)]


def test_an_audit_that_was_not_made_leaves_its_number() -> None:
    """A model whose rebuild was executed again had no audit; the number goes to the next, and those given before stay."""
    assert numbers(
        begun("R-1", "B-1", "m"),
        begun("R-2", "B-2", "m"),
        ended("R-1", "B-1", "deployed", m=None),
        begun("R-3", "B-3", "m"),
        ended("R-2", "B-2", "failed", m="NOT_REBUILT"),
        ended("R-3", "B-3", "deployed", m="EQUIVALENT_WITHIN"),
        begun("R-4", "B-4", "m"),
    ) == [("B-1", "m", 1), ("B-2", "m", 2), ("B-3", "m", 2), ("B-4", "m", 2)]


def test_an_audit_that_was_broken_off_counts_unless_no_score_of_it_was_read() -> None:
    """Planned again in the middle of an audit: its scores may have been seen, so that it keeps its number. Where the desk found
    that it had stopped before a score was read, and the ledger notes it, it does not; another request cannot say so."""
    begin = begun("R-1", "B-1", "m"), begun("R-2", "B-1", "m")
    assert counted(*begin, ("R-1", "planned", {"batch": "B-2"}), begun("R-1", "B-2", "m")) == [("B-1", "m"), ("B-2", "m")]
    events = *begin, replanned("R-1", "B-2", "B-1", "m"), replanned("R-2", "B-2", "B-1", "m"), begun("R-1", "B-2", "m")
    assert (counted(*events), numbers(*events)[-1]) == ([("B-2", "m")], ("B-2", "m", 1))
    assert counted(*begin, replanned("R-2", "B-2", "B-1", "m")) == [("B-1", "m")], "the batch is read from its first request"
    assert opened_audits(events).before_next("c" * 64) == 1
    assert opened_audits(events).last("B-1", "m") is None


def test_a_model_that_was_proven_twice_beside_one_that_failed_is_counted_never() -> None:
    """Its audit is opened with every method of the other model and never made; the other's two audits were."""
    assert counted(
        begun("R-1", "B-1", "m", "n"),
        ended("R-1", "B-1", "failed", ["n"], m="NOT_FORGOTTEN"),
        begun("R-1", "B-1", "m", "n"),
        ended("R-1", "B-1", "deployed", ["n"], m="EQUIVALENT_WITHIN", n=None),
    ) == [("B-1", "m"), ("B-1", "m")]


def test_an_audit_that_was_made_keeps_its_number_where_a_later_proof_decides() -> None:
    """Inconclusive, then executed again after all: the model goes into service without the word of an audit, which was made."""
    first = begun("R-1", "B-1", "m", "n"), ended("R-1", "B-1", "inconclusive", [], m="INCONCLUSIVE")
    assert counted(*first, ended("R-1", "B-1", "deployed", m=None, n=None)) == [("B-1", "m"), ("B-1", "n")]
    diverged = ended("R-1", "B-1", "failed", m="NOT_TESTABLE")
    assert counted(*first, diverged) == [("B-1", "m"), ("B-1", "n")], "a method that diverged had no audit to take back"


@pytest.mark.parametrize("entry", [{}, {"before": "m"}, "m", {**opening("m", "c", 0.05, None), "alpha": "much"}])
def test_a_foreign_event_is_no_number(entry: Any) -> None:
    """Facts that this version does not write raise; nothing is counted in silence."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        numbers(("R-1", "verifying", {"batch": "B-1", "audits": [entry]}))


def test_the_desk_and_the_auditor_read_the_same_numbers(tmp_path: Path) -> None:
    """Two batches, the first of two requests, by the desk's ledger and by its file, which the auditor reads."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    names = [ledger.add(NewRequest((f"{number:032x}",), "gdpr", date(2026, 11, 3))) for number in range(3)]
    ledger.advance_all(names, "identity_verified")
    ledger.advance_all(names, "matched", places=[], records=[])
    for batch, requests in (("B-1", names[:2]), ("B-2", names[2:])):
        ledger.advance_all(requests, "planned", batch=batch)
        ledger.advance_all(requests, "unlearning", batch=batch)
        ledger.advance_all(requests, "verifying", batch=batch, audits=[opening("m", "c" * 64, 0.05, 20)])
    found = opened_by(ledger.requests())
    ledger.close()
    assert [(one.batch, one.number, one.expected) for one in found.opened] == [("B-1", 1, 20), ("B-2", 2, 20)]
    read = opened_audits((one.request, one.state, one.details) for one in ledger_events(tmp_path / "ledger.sqlite"))
    assert read == found
