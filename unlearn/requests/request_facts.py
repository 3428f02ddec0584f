"""Facts about a request as its deletion record and its letters state them, from the ledger alone."""

from collections import Counter
from datetime import date, datetime
from typing import cast

from unlearn.requests.ledger.recipients import recipients_of, states_nobody
from unlearn.requests.ledger.request import Request, Step
from verify.schema.deletion_record import Event, Outcome, RequestFacts


def facts_of(request: Request) -> RequestFacts:
    """Return the facts about a request that go into the record and the letters."""
    last = request.deadlines
    refused = next((step for step in reversed(request.steps) if step.state in ("denied", "exempt", "not_found", "withdrawn")), None)
    outcome, recipients = request.outcome or "open", recipients_of(request)
    return RequestFacts(
        id=request.id,
        received=date.fromisoformat(request.first["received"]),
        regime=request.first["regime"],
        confirm_by=last.confirm,
        answer_by=last.answer,
        extended_to=None if request.extension is None else last.extended,
        source=request.first["source"],
        identifiers=len(request.subjects),
        outcome=cast(Outcome, outcome),
        reason=None if refused is None or outcome == "deleted" else refused.details.get("reason"),
        events=tuple(Event(state=step.state, at=_local_time(step)) for step in request.steps),
        language=request.language,
        records=_deleted_records(request) if outcome == "deleted" else None,
        recipients=recipients,
        nobody=True if recipients and states_nobody(request) else None,
        removed=_removed_for(request) if outcome == "deleted" else None,
        near_left=(request.latest("matched") or {}).get("near_duplicates_left") if outcome == "deleted" else None,
    )


def _deleted_records(request: Request) -> int:
    """Return the number of rows about the person, in all training files, that the deletion was about."""
    return sum(int(place["records"]) for place in (request.latest("matched") or {"places": []})["places"])


def _local_time(step: Step) -> str:
    """Return the time of a step in the local time zone, in which deadlines are counted."""
    return datetime.fromisoformat(step.at).astimezone().isoformat()


def _removed_for(request: Request) -> dict[str, int] | None:
    """Return how many removed copies of each kind held this person's data; None where the ledger does not tell persons apart."""
    counted = [step.details["removed_for"] for step in request.steps if "removed_for" in step.details]
    found: Counter[str] = Counter()
    for counts in counted:
        found.update(counts.get(request.id, {}))
    return dict(found) if counted else None
