"""Agreement of a certificate's statements within themselves: facts that one of them says in two places.

Who holds the signing key can edit a statement and sign it again. What a statement says once, only the evidence, the ledger or the
models can contradict; what it says twice has to agree.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from itertools import accumulate
from typing import Any

from verify.certificate.attachments import Finding, Pair
from verify.certificate.read_statements import deletion_record_of, dependencies_of, evidence_of, moment_of, sets_of
from verify.errors import InputError
from verify.schema.deletion_record import DeletionRecord
from verify.schema.inputs import CLOCKS

RECORD = "deletion record"
HOLIDAYS = 14
"""Largest number of days by which a deadline moves because it falls on weekends and public holidays."""
LONGEST = {"gdpr": (31 + HOLIDAYS, 92 + HOLIDAYS), "ccpa": (45, 90), "drop": (45, 0)}
"""Days from receipt to the last day to answer, at most, without and with an extension; DROP has none."""
EARLIEST_DAY = timezone(timedelta(hours=14))
"""Time zone in which a day begins first. The day of receipt is the operator's at intake, in a time zone that no statement names."""


def said_twice(pairs: Mapping[str, Pair]) -> Iterator[Finding]:
    """Yield what contradicts itself within the statements; nothing where all is consistent.

    Args:
        pairs: the valid statements, by the digest of the weights they are about.

    Raises:
        KeyError, TypeError, ValueError: a statement lacks what this version expects.
    """
    for weights, pair in pairs.items():
        if "auditor" in pair:
            for text in _audit(weights, pair["auditor"]["predicate"]["annotations"]):
                yield Finding(f"audit of {weights[:16]}", False, text)
        if "operator" in pair:
            for text in _provenance(weights, pair):
                yield Finding(RECORD, False, text)
    records = [deletion_record_of(pair) for pair in pairs.values() if "operator" in pair]
    if records and records[0]:
        yield from (Finding(RECORD, False, text) for text in _within(records[0]))


def _audit(weights: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield where an audit's evidence is about other weights, records or controls than the statement says beside it."""
    evidence = found["evidence"]
    audited: dict[str, str] = {entry["role"]: entry["weights"] for entry in evidence["models"] if entry["role"] != "reference"}
    sets = {role: entry["digest"] for role, entry in sets_of(evidence).items()}
    for what, said, other in (
        ("after", weights, audited["target"]),
        ("before", found["weights_before_deletion"], audited["original"]),
    ):
        if said != other:
            yield f"the statement names the weights {str(said)[:16]} {what} deletion, its evidence {other[:16]}"
    probed = found.get("robustness")
    if probed and (probed["weights"], probed["forget_digest"]) != (weights, sets["forget"]):
        yield "it was signed with probes of other weights or records than its own"
    account, table = evidence.get("account"), evidence.get("level_table")
    controls = sets.get("holdout") if table is None else table["digest"]
    if account and account["controls"] != controls:
        yield f"it counts the audits against the controls {account['controls'][:16]}, but its own are {str(controls)[:16]}"


def _provenance(weights: str, pair: Pair) -> Iterator[str]:
    """Yield where the deletion record says something else about a model than the provenance and the audit beside it."""
    record = deletion_record_of(pair)
    if not record:
        return
    entry = next((one for one in record["models"] if one["after"] == weights), None)
    if entry is None:
        yield f"it names no model with the weights {weights[:16]}, which the statement that holds it is about"
        return
    start = dependencies_of(pair["operator"])["weights before deletion"]
    if entry["before"] != start:
        yield f"it says that {weights[:16]} replaced {entry['before'][:16]}, the provenance starts from {start[:16]}"
    if "auditor" in pair:
        evidence = evidence_of(pair["auditor"])
        forget = sets_of(evidence)["forget"]["records"]
        if forget > record["records"]:
            yield f"it says that {record['records']} records were removed, the audit of {weights[:16]} is about {forget}"
        if sorted(entry.get("tested_by", ())) != sorted(evidence.get("tiers") or ()):
            yield f"it names other tests by which {weights[:16]} could have been accused than the audit"


def _within(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a deletion record is invalid, or contradicts itself: models, records, and the steps of its requests."""
    try:
        DeletionRecord.parse(json.dumps(record), "the deletion record in the operator's statement")
    except InputError as error:
        yield str(error)
        return
    rows = sum(place["records"] for place in record["data"])
    if record["records"] > rows:
        yield f"it says that {record['records']} records were removed, and lists {rows} rows that held them"
    deleted = [one for one in record["requests"] if one["outcome"] == "deleted"]
    if deleted and (there := {entry["before"] for entry in record["models"]} - set(record["retired"])):
        yield f"{len(there)} replaced models ({', '.join(sorted(name[:16] for name in there))}) are not among the retired ones"
    holding = {name for one in (*record["models"], *record["residual"]) for name in one.get("requests") or ()}
    if holding - {facts["id"] for facts in record["requests"]}:
        yield "it says that a model or a copy held data of a request that it is not about"
    for facts in record["requests"]:
        yield from (f"{facts['id']}: {text}" for text in _steps(facts))


def _steps(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a request's outcome, dates and steps contradict each other."""
    states = [event["state"] for event in facts["events"]]
    ended = {"deleted": "deployed"}.get(facts["outcome"], facts["outcome"])
    if ended != "open" and ended not in states:
        yield f"its outcome is {facts['outcome']}, and no step of it says so"
    times = [moment for event in facts["events"] if (moment := moment_of(event["at"])) is not None]
    if len(times) < len(states):
        yield "a step of it bears no date"
    # The ledger's chain, not the clock, certifies their order: each step has the time of the host that recorded it. The ledger
    # does not move a time up to that of the step before: one clock that runs ahead would then date all later steps.
    if any(latest - moment > CLOCKS for latest, moment in zip(accumulate(times, max), times, strict=True)):
        yield "its steps are not in the order of their dates"
    yield from _deadlines(facts)
    received = datetime.combine(date.fromisoformat(facts["received"]), time.min, tzinfo=EARLIEST_DAY)
    if times and received > times[0]:
        yield "it was received after it was recorded"


def _deadlines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a request is said to have had more time than the law gives; which law is known by its regime."""
    received, longest = date.fromisoformat(facts["received"]), LONGEST.get(facts["regime"])
    if longest is None:
        yield "its regime is none of gdpr, ccpa and drop"
        return
    days_given = [date.fromisoformat(facts[name]) for name in ("received", "answer_by", "extended_to") if facts[name] is not None]
    if days_given != sorted(days_given):
        yield "its days are not in order: received, to be answered by, extended to"
    for name, days in (("answer_by", longest[0]), ("extended_to", longest[1])):
        if facts[name] is not None and (date.fromisoformat(facts[name]) - received).days > days:
            yield f"{name} is later than {facts['regime']} allows for a request of that day"
