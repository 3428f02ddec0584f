"""Agreement of a certificate with the events of the request ledger: when a request came in, what was done for it, how it ended.

The head that a certificate names commits to the ledger's events; whether the deletion record says what these events say is another
question, and this answers it from the ledger's file alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from verify.certificate.attachments import Finding, Pair
from verify.certificate.ledger_chain import GENESIS, LedgerEvent, ledger_events
from verify.certificate.opened_audits import OpenedAudits, opened_audits
from verify.certificate.read_statements import deletion_record_of, moment_of
from verify.errors import IntegrityError
from verify.schema.deletion_record import NOTES, RECIPIENTS
from verify.schema.parts import VerdictWord
from verify.schema.recipient_notes import noted_recipients, states_nobody

REFUSALS = ("denied", "exempt", "not_found", "withdrawn")


def ledger_findings(path: Path, pairs: Mapping[str, Pair]) -> list[Finding]:
    """Check that a ledger's chain is unbroken and contains the certified head, and that its events up to there say the same.

    Args:
        path: the ledger's SQLite file.
        pairs: the valid statements, by the digest of the weights they are about.

    Raises:
        InputError: the file is not a ledger.
        KeyError, TypeError, ValueError: a statement lacks what this version expects.
    """
    what = f"ledger {path}"
    head = next((str(record["ledger_head"]) for record in _records(pairs)), None)
    try:
        events = ledger_events(path)
    except IntegrityError as error:
        return [Finding(what, False, str(error))]
    if head is None:
        return [Finding(what, False, "the certificate names no ledger head")]
    digests = [GENESIS, *(event.digest for event in events)]
    if head not in digests:
        detail = f"the certified head {head[:16]} is not in its chain: events were removed, edited or replaced"
        return [Finding(what, False, detail)]
    later = len(digests) - 1 - digests.index(head)
    held = Finding(what, True, f"the chain holds; the certified head is in it, {later} events before the last")
    wrong = list(dict.fromkeys(_differences(pairs, events[: digests.index(head)])))
    count = sum(len(record["requests"]) for record in _records(pairs)[:1])
    said = f"the certificate says what they say of {'1 request' if count == 1 else f'{count} requests'}"
    if any(_by_numbers(record, events) for record in _records(pairs)[:1]):
        said += ", except whose data each model had learned: the plan, of an earlier version, says only of how many records"
    found = [Finding(f"events of {what}", False, text) for text in wrong] or [Finding(f"events of {what}", True, said)]
    return [held, *found]


def _records(pairs: Mapping[str, Pair]) -> list[Mapping[str, Any]]:
    return [record for pair in pairs.values() if (record := deletion_record_of(pair))]


def _differences(pairs: Mapping[str, Pair], events: Sequence[LedgerEvent]) -> Iterator[str]:
    opened = opened_audits((event.request, event.state, event.details) for event in events)
    for record in _records(pairs):
        for request in record["requests"]:
            own = [event for event in events if event.request == request["id"]]
            yield from (f"{request['id']}: {text}" for text in _request(request, own))
        own = [event for event in events if event.request == record["requests"][0]["id"]]
        yield from _models(record, own)
        yield from _cleaning(record, own)
        yield from _data(record, events)
        yield from _registrations(pairs, own)
        yield from _accounts(pairs, own, opened)
        yield from _looks(pairs, own)


def _request(facts: Mapping[str, Any], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where the facts about a request are not those of its events; no value of either is repeated."""
    if not events:
        yield "the ledger has no such request"
        return
    first = events[0].details
    stated = {name: facts[name] for name in ("received", "regime", "source", "identifiers")}
    noted = {name: first.get(name) for name in ("received", "regime", "source")} | {"identifiers": len(first.get("subjects", ()))}
    yield from (f"{name} is not what the ledger recorded" for name in stated if stated[name] != noted[name])
    yield from _later_facts(facts, events)
    for number, (said, event) in enumerate(zip_longest(facts["events"], events), 1):
        if said is None or event is None or (said["state"], moment_of(said["at"])) != (event.state, moment_of(event.at)):
            yield f"step {number} is not the ledger's: the state, or when it was reached"
            break
    last = next((event for event in reversed(events) if event.state not in ("closed", *NOTES)), events[0])
    ended = last.state if last.state in REFUSALS else "deleted" if last.state == "purged" else "open"
    if facts["outcome"] not in ("open", ended):
        yield f"the certificate says {facts['outcome']}, the ledger ended with {last.state}"
    if ended in REFUSALS and facts.get("reason") != last.details.get("reason"):
        yield "the reason is not what the ledger recorded"


def _later_facts(facts: Mapping[str, Any], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where language, records, copies or recipients are not those of the events; earlier versions state not all of them."""
    if facts.get("language") != events[0].details.get("language"):
        yield "language is not what the ledger recorded"
    if facts.get("records") is not None:
        places = next((event.details["places"] for event in reversed(events) if event.state == "matched"), ())
        if facts["records"] != sum(place["records"] for place in places):
            yield "records is not the number that the ledger recorded"
    near = next((event.details.get("near_duplicates_left") for event in reversed(events) if event.state == "matched"), None)
    if facts.get("near_left") not in (None, near):
        yield "near_left is not the number that the ledger recorded"
    own: Counter[str] = Counter()
    for event in events:
        own.update(event.details.get("removed_for", {}).get(facts["id"], {}))
    if facts.get("removed") not in (None, dict(own)):
        yield "removed is not what the ledger recorded of this person's copies"
    notes = [event.details for event in events if event.state == RECIPIENTS]
    noted = noted_recipients(notes)
    if facts.get("recipients") != (None if noted is None else [one.model_dump(mode="json") for one in noted.values()]):
        yield "recipients are not those that the ledger recorded"
    if facts.get("nobody") and not states_nobody(notes):
        yield "the ledger has no statement that the data were passed on to nobody"


def _models(record: Mapping[str, Any], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where the replaced models are not those that the ledger says went into service."""
    shipped = (event.details["models"] for event in reversed(events) if event.state == "deployed")
    deployed: Sequence[Mapping[str, Any]] = next(shipped, [])
    noted = {(entry["before"], entry["after"]): entry for entry in deployed}
    stated = {(entry["before"], entry["after"]): entry for entry in record["models"]}
    if noted.keys() != stated.keys():
        yield f"it names {len(stated)} replaced models, the ledger {len(noted)}, and they are not the same"
    for weights in noted.keys() & stated.keys():
        one, other = stated[weights], noted[weights]
        again = (one.get("reexecution") or {}).get("proof"), (other.get("reexecution") or {}).get("proof")
        facts = {
            "method": (one["method"], other.get("method")),
            "verdict": (one.get("verdict"), other.get("verdict")),
            "basis": (one.get("basis", "audit"), other.get("basis", "audit")),
            "audit": (one.get("audit_digest"), other.get("evidence")),
            "re-execution": again,
        }
        for name, (said, recorded) in facts.items():
            if said != recorded:
                yield f"the {name} of model {weights[1][:16]} is not what the ledger recorded when it went into service"


def _cleaning(record: Mapping[str, Any], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where the copies that were removed or stay, or the retired models, are not those that the ledger noted."""
    residual = next((event.details["residual"] for event in reversed(events) if event.state == "purged"), ())
    removed: Counter[str] = Counter()
    for event in events:
        removed.update(event.details.get("removed", {}))
    retired = list(dict.fromkeys(digest for event in events for digest in event.details.get("retired", ())))
    named = ("place", "kind", "reason", "requests")  # the last only where it is known whose data a copy holds
    stated, noted = ([[copy.get(name) for name in named] for copy in copies] for copies in (record["residual"], residual))
    if stated != noted:
        yield "the copies that stay are not those that the ledger recorded, or for other reasons, or of other requests"
    if record["removed"] != dict(removed):
        yield "the numbers of removed copies are not those that the ledger recorded"
    if record["retired"] != retired:
        yield "the retired models are not those that the ledger recorded"


def _data(record: Mapping[str, Any], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where training files, rows or records are not those that the ledger matched and planned."""
    if not record["models"]:
        return
    rows: Counter[tuple[str, str]] = Counter()
    matched: dict[str, Mapping[str, Any]] = {event.request: event.details for event in events if event.state == "matched"}
    for request in record["requests"]:
        for place in matched.get(request["id"], {"places": ()})["places"]:
            rows[place["file"], place["digest"]] += place["records"]
    if {(place["file"], place["digest"]): place["records"] for place in record["data"]} != dict(rows):
        yield "the training files, or the rows in them, are not those that the ledger recorded"
    planned = _planned(record, events)
    counts = [model["records"] for model in planned]
    if counts and not max(counts) <= record["records"] <= sum(counts):
        yield "the number of removed records is not that of the plan"
    stated = {model["before"]: model.get("requests") for model in record["models"]}
    names = {one["id"]: matched.get(one["id"], {"records": ()})["records"] for one in record["requests"]}
    own = {request: frozenset(str(entry["record"]) for entry in records) for request, records in names.items()}
    for model in planned:
        yield from _learned(model, stated.get(model["weights"]), own)


def _planned(record: Mapping[str, Any], events: Sequence[LedgerEvent]) -> Sequence[Mapping[str, Any]]:
    """Return what the ledger recorded of the models when the requests were last planned."""
    first = [event for event in events if event.request == record["requests"][0]["id"] and event.state == "planned"]
    plans = (event.details.get("models", ()) for event in reversed(first))  # the next method's, after a failure, counts no records
    return next((models for models in plans if any("records" in one for one in models)), ())


def _by_numbers(record: Mapping[str, Any], events: Sequence[LedgerEvent]) -> bool:
    """Return whether the plan of several requests names none: then only numbers can say whose data a model had learned."""
    stated = any(model.get("requests") is not None for model in record["models"])
    return stated and len(record["requests"]) > 1 and any("requests" not in model for model in _planned(record, events))


def _learned(planned: Mapping[str, Any], stated: Sequence[str] | None, own: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """Yield where a model is said to have learned from the records of other requests than its plan removed them for.

    Plans of one request, and those of earlier versions, name no requests. Then there have to be as many records as the plan
    removes that are of the stated requests and of no other one, and among them at least one of each; the ledger says no more.

    Args:
        planned: what the ledger recorded of the model when it was planned.
        stated: ids of the requests by the deletion record; None where it names none.
        own: request -> keyed hashes of the records that the ledger matched with it.
    """
    model = planned["weights"][:16]
    if "requests" in planned:
        if sorted(stated or ()) != sorted(planned["requests"]):
            yield f"the requests whose data model {model} is said to have learned are not those of its plan"
        return
    if stated is None:
        return
    others = frozenset[str]().union(*(records for request, records in own.items() if request not in stated))
    left = [own.get(request, frozenset()) - others for request in stated]
    if len(frozenset[str]().union(*left)) < planned["records"]:
        yield f"the ledger matched fewer records to the requests of model {model} alone than its plan removes from it"
    if not all(left) or _apart(left) > planned["records"]:
        yield f"the plan of model {model} removes too few records from it for data of each of its requests to be among them"


def _apart(sets: Sequence[frozenset[str]]) -> int:
    """Return how many of some sets have no record in common, chosen from the smallest on: at least as many records are needed."""
    taken, count = frozenset[str](), 0
    for one in sorted(sets, key=len):
        if one.isdisjoint(taken):
            taken, count = taken | one, count + 1
    return count


def _registrations(pairs: Mapping[str, Pair], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where an audit followed another registration than the one that the ledger recorded before the unlearning."""
    for weights, pair in pairs.items():
        if "auditor" not in pair:
            continue
        found = pair["auditor"]["predicate"]["annotations"]
        digest = (found["evidence"].get("registration") or {}).get("digest")
        if _registered(events, found["weights_before_deletion"], weights) != digest:
            yield f"the audit of {weights[:16]} did not follow the registration that the ledger recorded before the unlearning"


def _registered(events: Sequence[LedgerEvent], before: str, after: str) -> Any:
    """Return the registration of the plan by which some weights went into service; None where there was none.

    A request that was planned again has a registration for each plan; the one that counts was recorded when the unlearning of the
    deployed plan began.
    """
    last = _deployed(events, before, after)
    plan = None if last is None else events[last].details.get("batch")
    for event in reversed(events[:last]):
        if event.state == "unlearning" and plan in (None, event.details.get("batch")):
            return (event.details.get("registrations") or {}).get(before)
    return None


def _deployed(events: Sequence[LedgerEvent], before: str, after: str) -> int | None:
    """Return the place of the last event by which some weights went into service in place of others."""
    for place in reversed(range(len(events))):
        models = events[place].details["models"] if events[place].state == "deployed" else ()
        if any((one["before"], one["after"]) == (before, after) for one in models):
            return place
    return None


def _accounts(pairs: Mapping[str, Pair], events: Sequence[LedgerEvent], opened: OpenedAudits) -> Iterator[str]:
    """Yield where an audit's count of the audits against its controls differs from that of the ledger that opened it.

    Every audit that the ledger opened counts, also one that was broken off, as somebody may have seen its scores; only those of
    which the ledger notes that no score was read do not (`verify.certificate.opened_audits`).
    """
    for weights, pair in pairs.items():
        if "auditor" not in pair:
            continue
        found = pair["auditor"]["predicate"]["annotations"]
        before, last = found["weights_before_deletion"], _deployed(events, found["weights_before_deletion"], weights)
        batch = None if last is None else events[last].details.get("batch")
        own, account = opened.last(batch, before), found["evidence"].get("account")
        said = None if account is None else (account["controls"], account["number"])
        counted = None if own is None else (own.controls, own.number)
        # An auditor who counts by evidence may know of more audits than the ledger opened.
        more = account is not None and account["counted"] == "evidence" and (own is None or own.controls == account["controls"])
        if said != counted and not (more and account["number"] > (0 if own is None else own.number)):
            yield f"the audit of {weights[:16]} counts the audits against its controls otherwise than the ledger that opened it"


def _looks(pairs: Mapping[str, Pair], events: Sequence[LedgerEvent]) -> Iterator[str]:
    """Yield where an audit names fewer earlier audits of its weights than the ledger noted of them."""
    for weights, pair in pairs.items():
        if "auditor" not in pair:
            continue
        found = pair["auditor"]["predicate"]["annotations"]
        last = _deployed(events, found["weights_before_deletion"], weights)
        if last is None:
            continue
        named = _inconclusive(events[:last], events[last].details.get("batch"), found["weights_before_deletion"])
        if (said := len(found["evidence"].get("looks") or ())) < len(named):
            yield f"the audit of {weights[:16]} names {said} earlier audits of these weights, the ledger noted {len(named)}"


def _inconclusive(events: Sequence[LedgerEvent], batch: Any, before: str) -> set[str]:
    """Return the inconclusive audits of a model's last attempt, except the one on which it went into service."""
    found: set[str] = set()
    final = None
    for event in events:
        models = [one for one in event.details.get("models", ()) if one.get("before") == before]
        if event.details.get("batch") != batch:
            continue
        if event.state == "failed" and models:
            found = set()
        elif event.state == "verifying":
            final = event.details.get("audited")
        elif event.state == "inconclusive" and any(one.get("verdict") in get_args(VerdictWord) for one in models):
            found.add(str(event.details.get("audited")))
    return found - {str(final)}
