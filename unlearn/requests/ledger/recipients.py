"""Whom a deletion must reach beyond the training data: processors, recipients, search indexes, logs, fine-tunes made by others.

GDPR Article 19 and California Civil Code 1798.105 ask that those to whom the data were passed on are notified. Each is kept in the
ledger as notes of the request, with a deadline of its own, the digest of the evidence, and who confirmed as a keyed hash. Notes
may be added at any time, also after the request was closed.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from verify.data.canonical import clean
from verify.data.tabular import csv_rows
from verify.errors import InputError
from verify.schema import recipient_notes
from verify.schema.deletion_record import PARTIES, RECIPIENTS, Recipient, RecipientKind
from verify.schema.recipient_notes import NOBODY, noted_recipients

KINDS: tuple[RecipientKind, ...] = get_args(RecipientKind)
LONGEST_NAME = 200
MOST_DAYS = 9999
"""Largest number of days after receipt."""


@dataclass(frozen=True)
class Known:
    """A recipient, or a further place that holds the data, as the ledger knows it.

    Attributes:
        name: name of an organisation or system; never a person's.
        facts: kind, deadline and what has happened since.
        by: keyed hash of who confirmed; None before.
        reason: why it cannot be notified; None where it can.
    """

    name: str
    facts: Recipient
    by: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Planned:
    """A recipient to be recorded: name, kind, and the last day to confirm; None for the day by which the person is answered."""

    name: str
    kind: RecipientKind
    due: date | int | None = None


def known_recipients(request: Request) -> tuple[Known, ...] | None:
    """Return the recipients of a request, in the order in which they were recorded; None where nothing was stated."""
    notes = _notes(request)
    found = noted_recipients(notes)
    return None if found is None else tuple(_known(name, facts, notes) for name, facts in found.items())


def _notes(request: Request) -> list[Mapping[str, Any]]:
    return [step.details for step in request.steps if step.state == RECIPIENTS]


def _known(name: str, facts: Recipient, notes: Sequence[Mapping[str, Any]]) -> Known:
    """Return a recipient with who confirmed and why it cannot be notified, as the latest notes say."""
    own = [details for details in reversed(notes) if details.get("name") == name]
    by, reason = (next((details[fact] for details in own if fact in details), None) for fact in ("by", "reason"))
    return Known(name, facts, by, reason)


def recipients_of(request: Request) -> tuple[Recipient, ...] | None:
    """Return the recipients as the deletion record states them, without names."""
    known = known_recipients(request)
    return None if known is None else tuple(one.facts for one in known)


def states_nobody(request: Request) -> bool:
    """Return whether the operator states that the data were passed on to nobody, and has recorded no party since."""
    return recipient_notes.states_nobody(_notes(request))


def _parties(request: Request) -> list[Known]:
    """Return those to whom the data were passed on, without further places of the operator's own."""
    return [one for one in known_recipients(request) or () if one.facts.kind in PARTIES]


def add_recipients(ledger: Ledger, request: str, planned: Iterable[Planned]) -> Request:
    """Record recipients of a request; one that is recorded already is left as it is.

    Raises:
        InputError: a name is empty or too long.
    """
    given = list(planned)
    for one in given:
        if not clean(one.name) or len(one.name) > LONGEST_NAME:
            raise InputError(f"the name of a recipient must have 1 to {LONGEST_NAME} characters. Give the organisation's name.")

    def details_of(found: Request) -> Mapping[str, Any] | None:
        there = {one.name for one in known_recipients(found) or ()}
        new = {clean(one.name): one for one in given if clean(one.name) not in there}
        added = [{"name": name, "kind": one.kind, "due": _due(one.due, found).isoformat()} for name, one in new.items()]
        return {"added": added} if added else None

    return ledger.note(request, RECIPIENTS, details_of)


def _due(given: date | int | None, request: Request) -> date:
    """Return a deadline: a day, a number of days after receipt, or the day by which the person is answered."""
    if given is None:
        return request.due
    return given if isinstance(given, date) else date.fromisoformat(request.first["received"]) + timedelta(days=given)


def state_nobody(ledger: Ledger, request: str) -> Request:
    """Record the operator's statement that the data were passed on to nobody; the operator's own systems are not recipients.

    Raises:
        InputError: recipients are recorded already.
    """

    def details_of(found: Request) -> Mapping[str, Any] | None:
        if parties := _parties(found):
            raise InputError(f"{found.id} has {len(parties)} recipients, so they cannot be none. List them without --nobody.")
        return None if states_nobody(found) else {NOBODY: True}

    return ledger.note(request, RECIPIENTS, details_of)


def note_recipient(ledger: Ledger, request: str, name: str, **facts: Any) -> Request:
    """Record what happened with one recipient.

    Args:
        ledger: the request ledger.
        request: id of the request.
        name: the recipient's name, as it was recorded.
        facts: "told" or "confirmed" (ISO dates), "evidence" (SHA-256 of the confirmation), "by" (keyed hash of who confirmed) or
            "reason" (why it cannot be notified).

    Raises:
        InputError: no such recipient is recorded.
    """

    def details_of(found: Request) -> Mapping[str, Any]:
        known = [one.name for one in known_recipients(found) or ()]
        if clean(name) not in known:
            listed = ", ".join(known) or "none"
            raise InputError(f"{found.id} has no recipient of that name. Recorded are: {listed}. Add it with --add NAME.")
        return {"name": clean(name), **facts}

    return ledger.note(request, RECIPIENTS, details_of)


def read_recipients(path: Path) -> list[Planned]:
    """Read the standing recipients of a company: a CSV file with the columns name, kind and due (ISO date, or days after receipt).

    Raises:
        InputError: the file cannot be read, or a row is invalid; the message gives its number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows: Sequence[Mapping[str, Any]] = list(csv_rows(stream, str(path), ("name", "kind", "due")))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({type(error).__name__}). Save it as CSV in UTF-8.") from None
    if not rows or not {"name", "kind"} <= set(rows[0]):
        raise InputError(f"{path} needs the columns name, kind and due, and at least one row.")
    return [_planned(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _planned(row: Mapping[str, Any], where: str) -> Planned:
    kind, due = str(row["kind"] or "").strip(), str(row.get("due") or "").strip()
    if kind not in KINDS:
        raise InputError(f"{where}: the kind must be one of {', '.join(KINDS)}.")
    if not str(row["name"] or "").strip():
        raise InputError(f"{where}: the name is empty. Fill it in, or remove the row.")
    try:
        days = due.isdecimal() and len(due) <= len(str(MOST_DAYS))
        day: date | int | None = None if not due else int(due) if days else date.fromisoformat(due)
    except ValueError:
        raise InputError(
            f"{where}: due must be an ISO date such as 2026-12-24, or a number of days after receipt, at most {MOST_DAYS}."
        ) from None
    return Planned(str(row["name"]), kind, day)
