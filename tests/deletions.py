"""A deletion record as the pipeline would write it, beside an audit of `audits.evidence_of`."""

import hashlib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from verify.provenance.segment_sampling import detection_probability, drawn_segments, fewest_found
from verify.schema.deletion_record import (
    DataPlace,
    DeletionRecord,
    Event,
    Outcome,
    ReexecutedModel,
    ReplacedModel,
    RequestFacts,
    ResidualCopy,
)
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Draw, Reexecution, Segment
from verify.schema.tolerance import Deviation

OUTCOMES: tuple[Outcome, ...] = ("deleted", "denied", "exempt", "not_found", "withdrawn", "open")
REASONS = {
    "denied": "the identity could not be confirmed",
    "exempt": "invoices must be kept for ten years (section 147 of the Fiscal Code)",
}


def request_of(outcome: Outcome, number: int = 0, regime: str = "gdpr", **changes: Any) -> RequestFacts:
    """One request that came in on 3 November 2026 and ended (or not) three weeks later."""
    received = date(2026, 11, 3) + timedelta(days=number)
    steps = ("received", "identity_verified", "matched", "planned", "unlearning", "verifying", "deployed", "purged", "closed")
    states = steps if outcome == "deleted" else steps[:3] if outcome == "open" else ("received", outcome, "closed")
    facts: dict[str, Any] = {
        "id": f"R-{hashlib.sha256(f'{outcome}{number}'.encode()).hexdigest()[:12]}",
        "received": received,
        "regime": regime,
        "confirm_by": None,
        "answer_by": date(2026, 12, 3) + timedelta(days=number),
        "extended_to": date(2027, 2, 3) + timedelta(days=number),
        "source": "command line",
        "identifiers": 2,
        "outcome": outcome,
        "reason": REASONS.get(outcome),
        "events": tuple(
            Event(state=state, at=f"{received + timedelta(days=3 * day)}T09:30:00+00:00") for day, state in enumerate(states)
        ),
    }
    return RequestFacts(**(facts | changes))


def model_of(evidence: Evidence, **changes: Any) -> ReplacedModel:
    """The replaced model that an audit is about."""
    weights = {model.role: model.weights for model in evidence.models}
    facts: dict[str, Any] = {
        "name": "support-assistant",
        "before": weights["original"],
        "after": weights["target"],
        "method": "rollback",
        "parameters": {"check": True},
        "options": {"learning_rate": 5e-4, "epochs": 6.0, "batch_size": 16, "seed": 7, "bf16": False},
        "exactness": "the weights that the logged schedule gives without these records",
        "facts": {"from_step": 400, "of_steps": 1200, "removed_records": 80},
        "seconds": 133.4,
        "share_of_retraining": 0.67,
        "verdict": evidence.verdict,
        "verdict_phrase": evidence.verdict_phrase,
        "tested_by": evidence.tiers,
        "audit_digest": evidence.digest,
        "rungs": ("npo: left because its audit said NOT_FORGOTTEN (6 of 80 records)",),
    }
    return ReplacedModel(**(facts | changes))


def proof_about(evidence: Evidence, segments: int = 3, sampled: int | None = None, **changes: Any) -> Reexecution:
    """A proof about an audit's target and forget set: segments of ten steps each, some or all of them executed again."""
    target = next(model for model in evidence.models if model.role == "target")
    root, count = "c" * 64, segments if sampled is None else sampled
    nonce = "a coin" if count < segments else None
    chosen = range(segments) if nonce is None else drawn_segments(segments, count, nonce, root)
    ends = {index: target.weights if index == segments - 1 else f"{index:064x}" for index in chosen}
    parts = tuple(
        Segment(
            place=".",
            start=10 * index,
            end=10 * index + 10,
            ran_from=10 * index,
            tokens=500,
            equal=True,
            expected=end,
            found=end,
            index=index,
        )
        for index, end in ends.items()
    )
    facts: dict[str, Any] = {
        "created": "2026-11-20T10:00:00+00:00",
        "word": "REBUILT_WITHOUT",
        "kind": "derived schedule",
        "model": target.weights,
        "base": "b" * 64,
        "tokenizer": target.tokenizer,
        "root": root,
        "committed": "2026-11-02T08:00:00+00:00",
        "forget": evidence.set("forget").records,
        "forget_digest": evidence.set("forget").digest,
        "records": 20,
        "near": (),
        "near_accepted": False,
        "unchanged": 4,
        "segments": segments,
        "executed": parts,
        "draw": Draw(
            nonce=nonce,
            given=nonce is not None,
            false_found_95=fewest_found(segments, count, 0.95),
            false_found_99=fewest_found(segments, count, 0.99),
            forget_segments=2,
            found=detection_probability(segments, min(2, segments), count),
        ),
        "findings": (),
        "tokens": 500 * len(parts),
        "training_tokens": 9000,
        "seconds": 1.5,
        "environment": {"torch": "2.13.0", "capability": "AVX512", "threads": "2"},
    }
    return Reexecution(**(facts | changes))


def within_noise(proof: Reexecution) -> Reexecution:
    """A proof of the same segments on other hardware: each ends on other bits, 1.5 times as far as executions lie apart."""
    apart = Deviation(part="weights", distance=1.5e-6, noise=1e-6, power=1e-4, clean=1e-6, tainted=1e-4).model_dump()
    executed = [one.model_dump() | {"equal": False, "found": "f" * 64, "deviations": (apart,)} for one in proof.executed]
    finding = {"kind": "noise", "what": f"{len(executed)} of {len(executed)} executed segments end on other bits."}
    changes = {"word": "WITHIN_NOISE", "executed": executed, "findings": (finding,), "trained_with": {"torch": "2.12.0"}}
    return Reexecution.model_validate({**proof.model_dump(by_alias=True), **changes}, strict=False)


def executed_record(evidence: Evidence, proof: Reexecution, folder: Path, **changes: Any) -> DeletionRecord:
    """A deletion record of one request and one model, which a re-execution put into service; with the audit unless changed.

    Args:
        evidence: the model's audit, or one of the same weights where the record is to name none.
        proof: the re-execution; saved as proof.json.
        folder: where the proof goes.
        changes: of the replaced model.
    """
    proof.save(folder / "proof.json")
    facts = {"basis": "re-execution", "reexecution": ReexecutedModel.of(folder / "proof.json"), **changes}
    return record_of(evidence, models=(model_of(evidence, **facts),), requests=(request_of("deleted"),))


def of_other_weights(evidence: Evidence) -> Evidence:
    """The same audit, of another replaced model."""
    models = tuple(model.model_copy(update={"weights": "7" * 64}) if model.role == "target" else model for model in evidence.models)
    return evidence.model_copy(update={"models": models})


def record_of(*evidences: Evidence, **changes: Any) -> DeletionRecord:
    """What an operator would state about the deletion that these audits are about; without audits, of refusals alone."""
    outcomes = OUTCOMES if evidences else tuple(outcome for outcome in OUTCOMES if outcome != "deleted")
    facts: dict[str, Any] = {
        "created": "2026-11-24T10:00:00+00:00",
        "requests": tuple(request_of(outcome, number) for number, outcome in enumerate(outcomes)),
        "data": (
            DataPlace(file="support-2025.jsonl", digest="1" * 64, records=61, near_duplicates=3),
            DataPlace(file="support-2026.jsonl", digest="2" * 64, records=19),
        ),
        "records": 80,
        "models": tuple(model_of(evidence) for evidence in evidences),
        "removed": {"checkpoint": 12, "optimizer state": 12, "Arrow cache": 3},
        "residual": (
            ResidualCopy(place="exports/gguf", kind="quantized export", reason="already handed to a customer, who was told"),
            ResidualCopy(place="backups/2026-10", kind="backup", reason="overwritten by 31 January 2027; not read until then"),
        ),
        "retired": tuple(model_of(evidence).before for evidence in evidences),
        "registration": next((audit.registration.digest for audit in evidences if audit.registration is not None), None),
        "ledger_head": "ab" * 32,
        "environment": {"unlearn-verify": "0.1.0", "python": "3.11", "torch": "2.13.0"},
        "limits": ("Backups were not searched.", "Whoever downloaded the old weights still has them."),
    }
    return DeletionRecord(**(facts | changes))


NO_AUDIT: dict[str, Any] = {"verdict": None, "verdict_phrase": None, "audit_digest": None, "tested_by": ()}
"""Facts of a replaced model that was not audited."""

HOSTILE = "<script>alert(1)</script><img src=http://example.org/x>{{ 7*7 }}\u202eevil\x1b[31m=HYPERLINK('http://x')\"&</td>"
"""Markup, a template, a direction change, a terminal escape and a formula, where a file's or a method's name should be."""


def hostile_record(evidence: Evidence) -> DeletionRecord:
    """A record whose every free word is hostile."""
    return record_of(
        evidence,
        requests=(request_of("denied", reason=HOSTILE), request_of("exempt", 1, reason=HOSTILE * 5)),
        data=(DataPlace(file=HOSTILE, digest="1" * 64, records=1),),
        models=(model_of(evidence, name=HOSTILE, method=HOSTILE, parameters={HOSTILE: HOSTILE}, rungs=(HOSTILE,)),),
        removed={HOSTILE: 1},
        residual=(ResidualCopy(place=HOSTILE + "x" * 300, kind=HOSTILE, reason=HOSTILE),),
        environment={HOSTILE: HOSTILE},
        limits=(HOSTILE,),
    )
