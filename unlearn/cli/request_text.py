"""Format requests and plans for the terminal; the text contains no identifiers."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.requests.ledger.recipients import known_recipients, states_nobody
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.search_tokens import advice
from unlearn.requests.ledger.states import REFUSALS
from unlearn.scan.placeholders import said_of_unused
from verify.io.escaping import visible

if TYPE_CHECKING:
    from unlearn.requests.plan import Plan
    from unlearn.requests.planning import Draft

PLANNED_FACTS = {"cost": "cost", "proof": "proof", "shown": "an audit will show"}
"""What the event of a plan says of each model, and how it is shown."""
SOON = 7
"""Days before a deadline from which it is shown as due."""

NEXT_COMMANDS = {
    "received": "unlearn request approve {id}   (once the identity is verified), or deny, or withdraw",
    "identity_verified": "unlearn request plan --data FILE ... --models DIR ...",
    "matched": "unlearn request plan --data FILE ... --models DIR ...",
    "planned": "unlearn request run {id}",
    "unlearning": "unlearn request run {id}   (continues where it stopped)",
    "verifying": "unlearn request run {id}   (continues where it stopped)",
    "failed": "unlearn request run {id}   (tries the next method), or plan again if none is left",
    "inconclusive": "unlearn request run {id}   (once nothing keeps the re-execution from being tested), or with --references "
    "DIR ...   (more of them), or plan again with another method, or --accept-exact-rebuild if it is one",
    "deployed": "unlearn request run {id} --remove   (removes copies), or with --reasons FILE; the new weights may go into service",
    "purged": "unlearn request close {id} --retired DIGEST --remove --rewrite-data   once the new weights are in service",
    "denied": "unlearn request close {id}",
    "exempt": "unlearn request close {id}",
    "not_found": "unlearn request close {id}, or approve {id} again with other data",
    "withdrawn": "unlearn request close {id}",
    "closed": "nothing: it is closed",
}


def urgency(request: Request, today: date) -> str:
    """Describe how urgent a request is; "" if it is closed or not due soon."""
    if request.state == "closed":
        return ""
    confirm = request.unconfirmed_by
    if confirm is not None and today > confirm:
        return f"CONFIRMATION OVERDUE since {confirm}"
    left = (request.due - today).days
    if left < 0:
        return f"OVERDUE by {-left} days"
    return f"due in {left} days" if left <= SOON else ""


def listed(requests: Sequence[Request], today: date) -> Iterator[str]:
    """Yield one line per request, the most urgent first, closed ones last."""
    ordered = sorted(requests, key=lambda request: (request.state == "closed", request.due, request.id))
    for request in ordered:
        state = f"{request.state} ({request.outcome})" if request.outcome else request.state
        extended = "" if request.extension is None else " (extended)"
        confirm = "" if request.unconfirmed_by is None else f"confirm receipt by {request.unconfirmed_by}, "
        line = f"{request.id}  {state:<18}  {request.first['regime']:<4}  {confirm}answer by {request.due}{extended}"
        yield "  ".join([line, *filter(None, (urgency(request, today), *_proofs(request), _open_recipients(request, today)))])
    unretired = [f"{request.id}  {digest[:16]}" for request in ordered for digest in in_service(request)]
    if unretired:
        yield "old weights not yet retired:"
        yield from (f"  {line}" for line in unretired)


def _open_recipients(request: Request, today: date) -> str:
    """Say how many recipients have not confirmed, and by when the next must; "" if none is open."""
    days = [one.facts.due for one in known_recipients(request) or () if one.facts.open]
    if not days:
        return ""
    next_day = f"RECIPIENT OVERDUE since {min(days)}" if min(days) < today else f"next by {min(days)}"
    return f"{_count(len(days), 'recipient')} open, {next_day}"


def still_open(request: Request, today: date) -> Iterator[str]:
    """Yield what a deletion still has to reach outside the training data; a line that says so where nothing was stated."""
    known = known_recipients(request)
    if known is None:
        yield (
            f"{request.id}: nobody stated to whom the data were passed on (GDPR Article 19). Record them with `unlearn request "
            f"recipients {request.id} --add NAME`, or --nobody."
        )
    for one in (one for one in known or () if one.facts.open):
        late = f"  OVERDUE by {(today - one.facts.due).days} days" if one.facts.due < today else ""
        said = "not told yet" if one.facts.told is None else f"told on {one.facts.told}, not confirmed"
        yield f"{request.id}: open: {visible(one.name)} ({one.facts.kind}), {said}, by {one.facts.due}{late}"


def recipients(request: Request, today: date) -> Iterator[str]:
    """Yield one line per recipient of a request: what is open first, then what is done."""
    yield from still_open(request, today)
    for one in (one for one in known_recipients(request) or () if not one.facts.open):
        evidence = "without evidence" if one.facts.evidence is None else f"evidence {one.facts.evidence[:16]}"
        by = "" if one.by is None else f" by {one.by[:16]}"
        done = f"confirmed on {one.facts.confirmed}{by}, {evidence}"
        done = f"cannot be notified: {one.reason}" if one.facts.unreachable else done
        yield f"{request.id}: {visible(one.name)} ({one.facts.kind}), {visible(done)}"
    if states_nobody(request):
        yield f"{request.id}: the data were passed on to nobody, as the operator states"


def repeats(requests: Sequence[Request]) -> dict[str, list[str]]:
    """Return, for every open request that shares an identifier with earlier open ones, the ids of these."""
    owners: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for request in requests:
        if request.state in (*REFUSALS, "closed"):
            continue
        earlier = list(dict.fromkeys(name for subject in request.subjects for name in owners.get(subject, ())))
        if earlier:
            found[request.id] = earlier
        for subject in request.subjects:
            owners.setdefault(subject, []).append(request.id)
    return found


def imported(rows: Sequence[Request], requests: Sequence[Request]) -> Iterator[str]:
    """Yield one line per imported row: its number, the id of its request, the days, and which open request it repeats."""
    repeated = repeats(requests)
    numbers = {request.id: f"row {number}" for number, request in enumerate(rows, 1)}
    for request in rows:
        confirm = "" if request.unconfirmed_by is None else f"confirm receipt by {request.unconfirmed_by}, "
        line = f"{numbers[request.id]}  {request.id}  {request.first['regime']:<4}  {confirm}answer by {request.due}"
        same = [f"{name} ({numbers[name]})" if name in numbers else name for name in repeated.get(request.id, ())]
        yield line + (f"  repeats {', '.join(same)}, which is open" if same else "")


def _proofs(request: Request) -> list[str]:
    """Return the outcomes of the re-executions of a request's last result, each once."""
    ended = ("deployed", "failed", "inconclusive")
    last = next((step.details for step in reversed(request.steps) if step.state in ended), {})
    found = [model["reexecution"]["phrase"] for model in last.get("models", ()) if "reexecution" in model]
    return list(dict.fromkeys(found))


def in_service(request: Request) -> list[str]:
    """Return digests of old weights that a verified deletion replaced and that are not retired yet."""
    retired = {digest for step in request.steps for digest in step.details.get("retired", ())}
    deployed = request.latest("deployed")
    return [] if deployed is None else [model["before"] for model in deployed["models"] if model["before"] not in retired]


def history(request: Request, today: date) -> Iterator[str]:
    """Yield a request's deadlines, all of its steps, and the next command."""
    last, first = request.deadlines, request.first
    yield f"{request.id}: {request.state}" + (f" as {request.outcome}" if request.outcome else "")
    identifiers = _count(len(request.subjects), "identifier")
    yield f"received {first['received']} by {first['source']}, {identifiers}, regime {first['regime']}"
    confirm = [] if last.confirm is None else [f"confirm receipt by {last.confirm}"]
    if request.confirmation is not None:
        confirm = [f"receipt confirmed on {request.confirmation['told']}"]
    dates = [*confirm, f"answer by {request.due}"]
    if (extension := request.extension) is not None:
        dates.append(f"extended from {last.answer}, the person was notified on {extension['told']}")
    elif last.extended is not None and request.state not in (*REFUSALS, "closed") and today <= last.answer:
        dates.append(f"or by {last.extended} if extended before that day with `unlearn request extend`")
    yield "; ".join(dates) + (f"  {found}" if (found := urgency(request, today)) else "")
    for step in request.steps:
        yield f"  {step.at}  {step.state}"
        yield from (f"      {line}" for line in _facts(step.details))
    for digest in in_service(request):
        yield f"old weights not yet retired: {digest}"
    if known_recipients(request) is not None:
        yield from recipients(request, today)
    if request.unconfirmed_by is not None:
        yield f"next: unlearn request confirm {request.id}   (the letter of receipt, by {request.unconfirmed_by})"
    if request.state not in REFUSALS and (lacking := advice([request])) is not None:
        yield f"note: {lacking}"
    yield f"next: {NEXT_COMMANDS[request.state].format(id=request.id)}"


def _facts(details: Mapping[str, Any]) -> Iterator[str]:
    """Yield the main facts of a step."""
    for name in ("reason", "batch", "needed"):
        if details.get(name):
            yield f"{name}: {details[name]}"
    if details.get("operator"):
        yield f"by operator {details['operator'][:8]}"
    for place in details.get("places", ()):
        near = f" ({place['near_duplicates']} of them confirmed near-duplicates)" if place["near_duplicates"] else ""
        yield f"{_count(place['records'], 'record')} in {place['file']}{near}"
    if details.get("not_same"):
        yield f"{_count(len(details['not_same']), 'record')} with a similar identifier or mention rejected as another person's"
    for model in details.get("models", ()):
        yield ": ".join(str(model[name]) for name in ("name", "method", "verdict", "why") if model.get(name))
        yield from (f"    {said}: {model[name]}" for name, said in PLANNED_FACTS.items() if model.get(name))
        if "reexecution" in model:
            proof = model["reexecution"]
            yield f"    executed again: {proof['phrase']}, proof {details['batch']}/{proof['file']} ({proof['proof'][:16]})"
        if "after" in model:
            yield f"    new weights: {details['batch']}/{model['folder']} ({model['after'][:16]})"
    for weights, digest in (details.get("registrations") or {}).items():
        yield f"registration of {weights[:16]}: {digest or 'none; one record cannot be audited'}"
    for audit in details.get("audits", ()):
        yield f"audit of what replaces {audit['before'][:16]}, against the controls {audit['controls'][:16]}"
    for audit in details.get("audits_not_made", ()):
        yield f"audit of what replaces {audit['before'][:16]} under {audit['batch']} was not made: no score of it was read"
    for copy in details.get("residual", ()):
        yield f"stays: {copy['place']} ({copy['kind']}): {copy['reason']}"
    if details.get("retired"):
        yield f"retired: {', '.join(digest[:16] for digest in details['retired'])}"


def proposed(draft: "Draft") -> Iterator[str]:
    """Yield the lines of a proposed plan."""
    for entry in draft.matched:
        left = "; rows that may be about this person must be decided first" if entry.candidates else "; it becomes not_found"
        yield f"{entry.request}: {_count(len(entry.records), 'record')}" + ("" if entry.removed else left)
        for match in (*entry.undecided, *entry.candidates):
            yield f"    {match.how} to decide: {Path(match.file).name}:{match.row}  {match.record[:16]}  {match.why}"
        if entry.rejected:
            yield f"    {_count(len(entry.rejected), 'similar row')} rejected: another person's"
        if entry.unused:
            yield f"    {said_of_unused(entry.unused)}"
    for plan in draft.plans:
        yield from _plan_lines(plan)
    near = sum(len(entry.undecided) for entry in draft.matched)
    if near and any(model.level_table is not None for plan in draft.plans for model in plan.models):
        yield (
            f"{_count(near, 'near-duplicate')} to decide: a level table's models saw neither these nor the records, so where they "
            "stay, an audit by it can accuse an honest deletion. Delete them too, or plan with --references."
        )
    for model in draft.idle:
        yield f"saw the records but is not in service: {model.folder} ({model.how})"


def _plan_lines(plan: "Plan") -> Iterator[str]:
    yield f"{plan.batch}: {_count(len(plan.requests), 'request')} ({', '.join(plan.requests)}), answer by {plan.answer_by}"
    for model in plan.models:
        yield f"    {model.name} ({model.weights[:16]}): {_count(len(model.records), 'record')} of {_people(model.people)}"
        yield f"        method: {' -> '.join(model.ladder)}; cost: {model.cost}"
        yield f"        proof: {'none planned' if model.proof is None else model.proof.said}"
        yield f"        an audit will show: {model.shown}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"
