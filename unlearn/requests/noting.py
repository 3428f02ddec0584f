"""Note drafted plans: in the folders of their batches, and in the ledger with what was found for each request."""

import json
from pathlib import Path
from typing import Any

from unlearn.requests.audit_numbers import left_by
from unlearn.requests.awaited_audits import awaited_facts
from unlearn.requests.grouping import matched_records
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.roles import OPERATOR
from unlearn.requests.matching import Matched
from unlearn.requests.planning import Draft
from verify.errors import InputError


def note(ledger: Ledger, draft: Draft, output: Path) -> None:
    """Record the plans in the batches' folders and in the ledger; requests without any record become not_found.

    Raises:
        InputError: a request has undecided candidates; then nothing is written.
    """
    if undecided := [entry.request for entry in draft.matched if entry.candidates]:
        raise InputError(
            f"{', '.join(undecided)}: rows that may be about this person must be decided first. Confirm those that are with "
            "--confirm FILE, and reject the others with --not-same ID."
        )
    for entry in draft.matched:
        _note_match(ledger, entry)
    for plan in draft.plans:
        digest, left = plan.save(output / plan.batch), left_by(ledger, plan.requests, output)
        awaited = awaited_facts(draft.audits.get(plan.batch, ()))
        matched = matched_records([ledger.request(name) for name in plan.requests])
        ledger.advance_all(plan.requests, "planned", **plan.facts(digest, matched), **left, **awaited)


def _note_match(ledger: Ledger, entry: Matched) -> None:
    """Record the matched records of a request, unless the ledger already has exactly these."""
    request, facts = ledger.request(entry.request), facts_of_match(entry)
    if not entry.removed:
        if request.state != "not_found":
            ledger.advance(entry.request, "not_found", **_rejections(entry))
    elif request.state == "identity_verified" or _noted(request) != json.loads(json.dumps(facts)):
        ledger.advance(entry.request, "matched", **facts)


def _noted(request: Request) -> dict[str, Any]:
    """Return what the ledger recorded of a match, without who recorded it."""
    return {name: value for name, value in (request.latest("matched") or {}).items() if name != OPERATOR}


def facts_of_match(entry: Matched) -> dict[str, Any]:
    """Return what the ledger records of a match."""
    return {
        "places": [place.model_dump() for place in entry.places],
        "records": [
            {"file": Path(m.file).name, "row": m.row, "record": m.record, "subject": m.subject, "how": m.how} for m in entry.removed
        ],
        "near_duplicates_left": len(entry.undecided),
        **_rejections(entry),
    }


def _rejections(entry: Matched) -> dict[str, Any]:
    """Return what the ledger records of rejected candidates: nothing if there are none."""
    return {"not_same": sorted(entry.rejected)} if entry.rejected else {}
