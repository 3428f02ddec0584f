"""Agreement of a certificate's statements: weights, verdicts, re-executions, and what a model went into service on."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from verify.certificate.attachments import Finding, Pair
from verify.certificate.claims import claimed_phrase
from verify.certificate.read_statements import deletion_record_of, dependencies_of, evidence_of, sets_of
from verify.certificate.reexecution import ReexecutionClaim, claim_contradictions, claim_of
from verify.certificate.signing import TRAINING_LOGS, Statement
from verify.schema.deletion_record import CERTIFYING, REEXECUTED, UNDECIDED, ReexecutedModel, RequestFacts
from verify.schema.reexecution import PASSING, Noise

SIGNED = {
    "operator": "statement of the operator",
    "auditor": "statement of the auditor",
    "reexecution": "statement of the re-execution",
}
"""Parts of a pair, as a finding names them."""


def agreement(pair: Pair, signers: Mapping[str, str]) -> Iterator[Finding]:
    """Check that operator and auditor are both there and name the same weights, before and after.

    Args:
        pair: the valid statements about one model's weights.
        signers: id of the key behind each.
    """
    for part, what in SIGNED.items():
        if part in pair:
            yield Finding(what, True, f"present and signed by {signers[part][:16]}")
        elif part == "operator" or (part == "auditor" and "reexecution" not in pair):
            yield Finding(what, False, "missing or not valid")
    if len(pair) < 2:
        return
    yield Finding("weights after deletion", True, str(next(iter(pair.values()))["subject"][0]["digest"]["sha256"]))
    if "operator" in pair and "auditor" in pair:
        before = dependencies_of(pair["operator"])["weights before deletion"]
        tested = pair["auditor"]["predicate"]["annotations"]["weights_before_deletion"]
        detail = before if before == tested else f"the operator started from {before[:16]}, the auditor compared with {tested[:16]}"
        yield Finding("weights before deletion", before == tested, detail)


def reexecution_findings(pair: Pair) -> Iterator[Finding]:
    """Check that a re-execution's claim follows from its own counts, and that the statements beside it are about the same thing.

    Args:
        pair: the valid statements about one model's weights.

    Raises:
        InputError: the statement lacks fields that this version expects.
    """
    claim = claim_of(pair["reexecution"]) if "reexecution" in pair else None
    beside = pair["auditor"]["predicate"]["annotations"].get("reexecution") if "auditor" in pair else None
    if claim is None:
        if beside is not None:
            yield Finding(SIGNED["reexecution"], False, f"the proof {str(beside)[:16]}, signed beside the audit, is missing")
        return
    wrong = list(claim_contradictions(claim))
    yield Finding("re-execution", not wrong, wrong[0] if wrong else _described(claim))
    for difference in _differences(claim, beside, pair):
        yield Finding("re-execution", False, difference)


def _described(claim: ReexecutionClaim) -> str:
    """State an outcome with what it rests on."""
    if claim.word not in PASSING:
        return f"{claim.phrase}: {' '.join(finding.what for finding in claim.findings)}"
    sample = "" if claim.draw.nonce is None else f", a sample that finds {claim.draw.false_found_95} false segments with 95 %"
    sample += ", by a nonce that was given" if claim.draw.given else ""
    age = "no commitment from before" if claim.committed is None else f"training committed on {claim.committed[:10]}"
    kept = f"; {claim.as_committed}" if claim.unchanged else ""
    noise = "" if claim.noise is None else f"; {_noise(claim.noise)}"
    return f"{claim.phrase}{noise}{sample}; {claim.forget} forget records left out; {age}{kept}"


def _noise(noise: Noise) -> str:
    """State how near the recorded states were, and what such a comparison can miss."""
    return (
        f"not bit for bit: {noise.apart} segments ended at most {noise.farthest:.1f} times as far from the recorded state as "
        f"executions of the auditor's lie apart, where one forget record in one microbatch makes {noise.least:.0f}; in all "
        f"segments together {noise.hidden:.2g} of its displacement could hide"
    )


def _differences(claim: ReexecutionClaim, beside: Any, pair: Pair) -> Iterator[str]:
    """Yield where audit and provenance are about something else than the re-execution."""
    if "auditor" in pair:
        predicate = pair["auditor"]["predicate"]
        evidence = evidence_of(pair["auditor"])
        forget = sets_of(evidence)["forget"]
        target = {entry["role"]: entry for entry in evidence["models"]}["target"]
        if claim.audit != _audit_digest(predicate):
            yield f"it was signed beside the audit {str(claim.audit)[:16]}, this one is {_audit_digest(predicate)[:16]}"
        if beside != claim.proof:
            yield f"the audit was signed beside the proof {str(beside)[:16]}, this one is {claim.proof[:16]}"
        if (claim.forget, claim.forget_digest) != (forget["records"], forget["digest"]):
            yield (
                f"it left out {claim.forget} forget records ({claim.forget_digest[:16]}), the audit is about {forget['records']} "
                f"({str(forget['digest'])[:16]})"
            )
        if claim.word in PASSING and claim.tokenizer != target["tokenizer"]:
            yield f"it was made with the tokenizer {claim.tokenizer[:16]}, the audit with {str(target['tokenizer'])[:16]}"
    elif claim.audit is not None:
        yield f"it was signed beside the audit {claim.audit[:16]}, which is missing"
    root = dependencies_of(pair["operator"]).get(TRAINING_LOGS) if "operator" in pair else None
    if None not in (root, claim.root) and root != claim.root:
        yield f"its training has the root {str(claim.root)[:16]}, the operator started from one with {str(root)[:16]}"


def _audit_digest(predicate: Mapping[str, Any]) -> str:
    """Return the digest of the evidence.json that an auditor signed."""
    return {str(part["name"]): str(part["digest"]["sha256"]) for part in predicate["configuration"]}["evidence.json"]


def record_findings(pairs: Mapping[str, Pair]) -> list[Finding]:
    """Check that every model the operator replaced is certified with the outcome the operator reports."""
    if not pairs:
        return [Finding("statements", False, "none is valid")]
    findings = []
    records = [deletion_record_of(pair) for pair in pairs.values()]
    for record in records:
        for entry in record.get("models", ()):
            pair = pairs.get(entry["after"], {})
            what = f"model {entry['after'][:16]} of the deletion record"
            if not {"auditor", "reexecution"} & pair.keys():
                findings.append(Finding(what, False, "it was replaced, but there is no valid auditor's statement about it"))
            elif difference := _reported_otherwise(entry, pair) or _rebuilt_otherwise(entry, pair, int(record["records"])):
                findings.append(Finding(what, False, difference))
            else:
                findings.append(_in_service_on(what, entry, _received(record)))
    return list(dict.fromkeys(findings))


def requests_of(pair: Pair) -> tuple[RequestFacts, ...]:
    """Return the requests that the operator's statement about a model is about; empty without one."""
    record = deletion_record_of(pair)
    return _received(record) if record else ()


def _received(record: Mapping[str, Any]) -> tuple[RequestFacts, ...]:
    return tuple(RequestFacts.model_validate_json(json.dumps(entry)) for entry in record["requests"])


def _reported_otherwise(entry: Mapping[str, Any], pair: Pair) -> str | None:
    """Return the first fact on which the deletion record and the statements about a model disagree, or None."""
    if "operator" in pair and entry["method"] != _method(pair["operator"]):
        return f"the operator reports {entry['method']}, the provenance names {_method(pair['operator'])}"
    if "auditor" not in pair:
        word = entry.get("verdict")
        return None if word is None else f"the operator reports {word}, but there is no valid auditor's statement on an audit"
    auditor = pair["auditor"]["predicate"]
    found = auditor["annotations"]
    says = [
        ("the auditor found", entry.get("verdict"), found["verdict"]),
        ("the auditor found", entry.get("verdict_phrase"), claimed_phrase(found)),
        ("the auditor compared with weights", entry["before"], found["weights_before_deletion"]),
        ("the auditor signed the audit", entry.get("audit_digest"), _audit_digest(auditor)),
    ]
    return next((f"the operator reports {one or 'no audit'}, {who} {other}" for who, one, other in says if one != other), None)


def _rebuilt_otherwise(entry: Mapping[str, Any], pair: Pair, records: int) -> str | None:
    """Return the first fact on which the deletion record and the statement on a re-execution disagree, or None."""
    if "reexecution" not in pair:
        return None if not entry.get("reexecution") else "the operator reports a re-execution, which no valid statement is about"
    claim = claim_of(pair["reexecution"])
    if not entry.get("reexecution"):
        return f"the auditor signed a re-execution, {claim.phrase}, of which the operator reports nothing"
    if claim.forget > records:
        return f"the re-execution left out {claim.forget} forget records, the operator reports {records}"
    reported = ReexecutedModel.model_validate_json(json.dumps(entry["reexecution"]))
    for name in type(reported).model_fields:
        one, other = getattr(reported, name), getattr(claim, name)
        if one != other:
            return f"the operator reports a re-execution with {name} {one}, the auditor signed {other}"
    return None


def _method(operator: Statement) -> str:
    return str(operator["predicate"]["buildDefinition"]["externalParameters"]["method"])


def _in_service_on(what: str, entry: Mapping[str, Any], requests: tuple[RequestFacts, ...]) -> Finding:
    """Check that a model with this outcome may go into service on the basis that the operator states.

    A failed re-execution is an accusation, whatever else speaks for the model.
    """
    word, basis = entry.get("verdict"), entry.get("basis", "audit")
    again = ReexecutedModel.model_validate_json(json.dumps(entry["reexecution"])) if entry.get("reexecution") else None
    detail = (
        "audited, with the verdict that the operator reports" if again is None else "with the outcome that the operator reports"
    )
    if again is not None and again.word == "NOT_REBUILT":
        return Finding(what, False, "it went into service, but executing its training again contradicts the deletion: NOT_REBUILT")
    if basis == "audit":
        found = "which found" if word else "of which there is"
        said = f"it went into service on its audit, {found} {word or 'none'}; only {CERTIFYING} allows that"
        return Finding(what, word == CERTIFYING, detail if word == CERTIFYING else said)
    if basis == REEXECUTED:
        wrong = "there is none" if again is None else again.objection(requests)
        wrong = f"its audit found {word}" if word == "NOT_FORGOTTEN" else wrong
        said = f"it went into service on a re-execution, but {wrong}"
        return Finding(what, wrong is None, said if wrong else f"{detail}; {again.phrase if again else ''}")
    if _rebuilt(entry) and (word in UNDECIDED or (word is None and again is not None)):
        shown = "the audit neither showed nor refuted" if word else "no audit tested"
        return Finding(what, True, f"{detail}; the operator put it into service as an exact rebuild, which {shown}")
    why = f"its audit found {word}" if _rebuilt(entry) else f"{entry['method']} is not an exact method"
    return Finding(what, False, f"the operator put it into service as an exact rebuild, but {why}")


def _rebuilt(entry: Mapping[str, Any]) -> bool:
    """Return whether the method rebuilt the weights without the records; `auto` did if its last attempt says so."""
    if entry["method"] == "auto":
        return "exactness" in (entry["facts"].get("rungs") or [{}])[-1]
    return bool(entry.get("exactness"))
