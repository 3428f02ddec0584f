"""What the command line says about requests: one line each, or the whole story. No identifier is in any of it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from unlearn.requests.ledger import Request
from unlearn.requests.planning import Draft
from unlearn.requests.plans import Plan
from unlearn.requests.states import REFUSALS

SOON = 7
"""Days before a deadline from which it is called near."""

NEXT_COMMANDS = {
    "received": "unlearn request approve {id}   (the identity is verified), or deny, or withdraw",
    "identity_verified": "unlearn request plan --data FILE ... --models DIR ...",
    "matched": "unlearn request plan --data FILE ... --models DIR ...",
    "planned": "unlearn request run {id}",
    "unlearning": "unlearn request run {id}   (goes on where it stopped)",
    "verifying": "unlearn request run {id}   (goes on where it stopped)",
    "failed": "unlearn request run {id}   (takes the next method), or plan anew where none is left",
    "inconclusive": "unlearn request run {id} --references DIR ...   (more of them), or plan anew with another method, or "
    "--accept-exact-rebuild where it is one",
    "deployed": "unlearn request run {id} --remove   (removes copies), or with --reasons FILE; the new weights may go into service",
    "purged": "unlearn request close {id} --retired DIGEST --remove --rewrite-data   once the new weights are in service",
    "denied": "unlearn request close {id}",
    "exempt": "unlearn request close {id}",
    "not_found": "unlearn request close {id}, or approve {id} again with other data",
    "withdrawn": "unlearn request close {id}",
    "closed": "nothing: it is closed",
}


def urgency(request: Request, today: date) -> str:
    """Where a request's deadline stands."""
    if request.state == "closed":
        return ""
    last = request.deadlines
    if last.confirm is not None and request.state == "received" and today > last.confirm:
        return f"CONFIRMATION OVERDUE since {last.confirm}"
    left = (request.due - today).days
    if left < 0:
        return f"OVERDUE by {-left} days"
    return f"due in {left} days" if left <= SOON else ""


def listed(requests: Sequence[Request], today: date) -> Iterator[str]:
    """One line a request, the most urgent first, closed ones last."""
    ordered = sorted(requests, key=lambda request: (request.state == "closed", request.due, request.id))
    for request in ordered:
        state = f"{request.state} ({request.outcome})" if request.outcome else request.state
        extended = "" if request.extension is None else " (extended)"
        line = f"{request.id}  {state:<18}  {request.first['regime']:<4}  answer by {request.due}{extended}"
        yield f"{line}  {urgency(request, today)}".rstrip()
    still = [f"{request.id}  {digest[:16]}" for request in ordered for digest in in_service(request)]
    if still:
        yield "old weights not yet retired:"
        yield from (f"  {line}" for line in still)


def in_service(request: Request) -> list[str]:
    """Digests of the old weights that a verified deletion replaced and nobody has retired."""
    retired = {digest for step in request.steps for digest in step.details.get("retired", ())}
    deployed = request.latest("deployed")
    return [] if deployed is None else [model["before"] for model in deployed["models"] if model["before"] not in retired]


def story(request: Request, today: date) -> Iterator[str]:
    """Everything that happened to a request, and what can be done next."""
    last, first = request.deadlines, request.first
    yield f"{request.id}: {request.state}" + (f" as {request.outcome}" if request.outcome else "")
    given = _count(len(request.subjects), "identifier")
    yield f"received {first['received']} by {first['source']}, {given}, regime {first['regime']}"
    dates = [f"confirm by {last.confirm}"] * (last.confirm is not None) + [f"answer by {request.due}"]
    if (told := request.extension) is not None:
        dates.append(f"extended from {last.answer}, of which the person was told on {told['told']}")
    elif last.extended is not None and request.state not in (*REFUSALS, "closed") and today <= last.answer:
        dates.append(f"by {last.extended} where `unlearn request extend` tells the person so before that")
    yield "; ".join(dates) + (f"  {found}" if (found := urgency(request, today)) else "")
    for step in request.steps:
        yield f"  {step.at}  {step.state}"
        yield from (f"      {line}" for line in _facts(step.details))
    for digest in in_service(request):
        yield f"old weights not yet retired: {digest}"
    yield f"next: {NEXT_COMMANDS[request.state].format(id=request.id)}"


def _facts(details: Mapping[str, Any]) -> Iterator[str]:
    """The facts of a step that a reader asks about."""
    for name in ("reason", "batch", "needed"):
        if details.get(name):
            yield f"{name}: {details[name]}"
    for place in details.get("places", ()):
        yield f"{place['records']} records in {place['file']} ({place['near_duplicates']} of them confirmed near-duplicates)"
    if details.get("not_same"):
        yield f"{_count(len(details['not_same']), 'record')} with a similar identifier or mention rejected as not this person's"
    for model in details.get("models", ()):
        parts = [str(model[name]) for name in ("name", "method", "verdict", "why", "cost", "shown") if model.get(name)]
        yield ": ".join(parts)
        if "after" in model:
            yield f"    new weights: {details['batch']}/{model['folder']} ({model['after'][:16]})"
    for weights, digest in (details.get("registrations") or {}).items():
        yield f"registration of {weights[:16]}: {digest or 'none; one record cannot be audited'}"
    for copy in details.get("residual", ()):
        yield f"stays: {copy['place']} ({copy['kind']}): {copy['reason']}"
    if details.get("retired"):
        yield f"retired: {', '.join(digest[:16] for digest in details['retired'])}"


def proposed(draft: Draft) -> Iterator[str]:
    """A plan in words."""
    for entry in draft.matched:
        left = "; rows that may be theirs must be decided first" if entry.candidates else "; it becomes not_found"
        yield f"{entry.request}: {_count(len(entry.records), 'record')}" + ("" if entry.removed else left)
        for match in (*entry.undecided, *entry.candidates):
            yield f"    {match.how} to decide: {Path(match.file).name}:{match.row}  {match.record[:16]}  {match.why}"
        if entry.rejected:
            yield f"    {_count(len(entry.rejected), 'similar row')} rejected: not this person's"
    for plan in draft.plans:
        yield from _plan_lines(plan)
    for model in draft.idle:
        yield f"saw the records and is not in service: {model.folder} ({model.how})"


def _plan_lines(plan: Plan) -> Iterator[str]:
    yield f"{plan.batch}: {_count(len(plan.requests), 'request')} ({', '.join(plan.requests)}), answer by {plan.answer_by}"
    for model in plan.models:
        yield f"    {model.name} ({model.weights[:16]}): {_count(len(model.records), 'record')} of {_people(model.people)}"
        yield f"        method: {' -> '.join(model.ladder)}; cost: {model.cost}"
        yield f"        an audit will show: {model.shown}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"
