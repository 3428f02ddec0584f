"""Judge the new weights of a batch: execute their training again where that is possible, and audit them."""

from dataclasses import dataclass, replace

from unlearn.requests.audit_numbers import opened_by
from unlearn.requests.auditing import audit_attempt
from unlearn.requests.batch import Batch
from unlearn.requests.plan import PlannedModel
from verify.schema.deletion_record import CERTIFYING
from verify.schema.evidence import Evidence


@dataclass(frozen=True)
class Finding:
    """What was found out about a model's new weights.

    Attributes:
        verdict: one of the four verdict words of an audit; without an audit, the outcome of the re-execution.
        why: first sentence of the explanation.
        needed: what would settle the verdict, or None.
        proven: whether its re-execution alone puts it into service.
    """

    verdict: str
    why: str
    needed: str | None
    proven: bool = False

    @property
    def refused(self) -> bool:
        """Whether it must not go into service: its audit found records, or its re-execution another result."""
        return self.verdict in ("NOT_FORGOTTEN", "NOT_REBUILT")

    @property
    def deployable(self) -> bool:
        """Whether it may go into service without a decision of the operator's."""
        return not self.refused and (self.proven or self.verdict == CERTIFYING)


def judge(batch: Batch, model: PlannedModel) -> Finding:
    """Execute a model's training again where that is possible, and audit it where that was not, or there are references."""
    attempt = batch.attempt(model)
    proof = batch.proofs.find_or_make(model, attempt, lambda: batch.records(model))
    if proof is not None and proof.word == "NOT_REBUILT":
        return Finding(proof.word, proof.claim, None)
    proven = batch.proofs.proven(model, attempt)
    if proof is not None and proven and not batch.references:
        return Finding(proof.word, proof.claim, None, proven=True)
    found = audit(batch, model)
    if proven:
        return replace(found, proven=True)
    return found if proof is None else replace(found, needed=batch.proofs.missing(model, attempt))


def testable_now(batch: Batch) -> bool:
    """Execute again what could not be tested before; whether any of it can be tested now."""
    untested = [model for model in batch.plan.models if batch.proofs.word(model, batch.attempt(model)) == "NOT_TESTABLE"]
    words = [batch.proofs.make(model, batch.attempt(model), batch.records(model)).word for model in untested]
    return any(word != "NOT_TESTABLE" for word in words)


def audit(batch: Batch, model: PlannedModel) -> Finding:
    """Audit a model's current result, unless that is done, and return what was found."""
    by = "by its level table" if model.level_table is not None else f"with {len(batch.references)} references"
    batch.notify(f"{model.name}: audit {by}")
    evidence = evidence_of(batch, model)
    return Finding(evidence.verdict, evidence.explanation[0] if evidence.explanation else "", evidence.next_step)


def evidence_of(batch: Batch, model: PlannedModel) -> Evidence:
    """Audit a model's current result, unless that is done, under the number that the ledger gave the audit."""
    opened = opened_by(batch.ledger.requests()).last(batch.plan.batch, model.weights)
    before = None if opened is None else opened.number - 1
    sets = batch.records(model)
    return audit_attempt(batch.folder, batch.plan, model, batch.attempt(model), sets, batch.references, before)
