"""Note drafted plans: in the folders of their batches, and in the ledger with what was found for each request."""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unlearn.requests.audit_numbers import left_by, opened_once_noted, require_planned_levels
from unlearn.requests.awaited_audits import awaited_audits, awaited_facts, require_agreeing_plans
from unlearn.requests.batch_state import planned_in, require_not_replaced
from unlearn.requests.grouping import matched_records
from unlearn.requests.ledger.ledger import BatchStep, Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.roles import OPERATOR
from unlearn.requests.matching import Matched
from unlearn.requests.planning import Draft
from verify.errors import InputError


def note(ledger: Ledger, draft: Draft, output: Path) -> None:
    """Record the plans in the batches' folders and in the ledger; requests without any record become not_found.

    The ledger takes all of a proposal at once, or nothing: of two that were made at the same time and do not go together, the first
    is recorded, and the second is made again.

    Raises:
        InputError: a request has undecided candidates, or the ledger changed since the proposal was made, so that it does not hold
            any more; then nothing is recorded.
    """
    if undecided := [entry.request for entry in draft.matched if entry.candidates]:
        raise InputError(
            f"{', '.join(undecided)}: rows that may be about this person must be decided first. Confirm those that are with "
            "--confirm FILE, and reject the others with --not-same ID."
        )
    names = dict.fromkeys([*(entry.request for entry in draft.matched), *(name for plan in draft.plans for name in plan.requests)])
    requests = {name: ledger.request(name) for name in names}
    matched = {**matched_records(list(requests.values())), **{entry.request: entry.records for entry in draft.matched}}
    steps = [step for entry in draft.matched for step in _match_step(requests[entry.request], entry)]
    try:
        for plan in draft.plans:
            digest, left = plan.save(output / plan.batch), left_by([requests[name] for name in plan.requests], output)
            awaited = awaited_facts(draft.audits.get(plan.batch, ()))
            own = {name: matched[name] for name in plan.requests}
            steps.append((plan.requests, "planned", {**plan.facts(digest, own), **left, **awaited}))
        ledger.advance_each(steps, partial(_require_as_drafted, draft, output))
    except InputError:
        for plan in draft.plans:
            shutil.rmtree(output / plan.batch, ignore_errors=True)  # no ledger names it, and it has hashes of persons
        raise


def _require_as_drafted(draft: Draft, output: Path, requests: Sequence[Request]) -> None:
    """Check that a proposal still holds with what others recorded while it was made.

    Args:
        draft: the proposal.
        output: folder of the batches.
        requests: all requests of the ledger, as they are when it is recorded.

    Raises:
        InputError: one of its requests took a step, one of its models was replaced, or another plan or audit fixed other levels.
    """
    now = {request.id: request for request in requests}
    changed = [now[name] for name, step in draft.drafted.items() if now[name].last_step != step]
    if changed:
        others = sorted({str(planned_in(request)) for request in changed if request.state == "planned"})
        where = f" in {', '.join(others)}" if others else ""
        raise InputError(
            f"{', '.join(request.id for request in changed)} became {changed[0].state}{where} while this plan was made, which was "
            "therefore not recorded. Look at `unlearn request show ID`; if it is still to be planned, run the same command again."
        )
    opened, awaited = opened_once_noted(requests, draft.plans, output), awaited_audits(requests, draft.drafted)
    for plan in draft.plans:
        for model in plan.models:
            require_not_replaced(requests, model)
        for audit in draft.audits.get(plan.batch, ()):
            require_planned_levels(opened, audit["controls"], plan.settings)
            require_agreeing_plans(awaited, audit["controls"], plan.settings)


def _match_step(request: Request, entry: Matched) -> Iterator[BatchStep]:
    """Yield the step that records what was found for a request, unless the ledger already has exactly this."""
    facts = facts_of_match(entry)
    if not entry.removed:
        if request.state != "not_found":
            yield [request.id], "not_found", _rejections(entry)
    elif request.state == "identity_verified" or _noted(request) != json.loads(json.dumps(facts)):
        yield [request.id], "matched", facts


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
