"""Acceptance of an exact rebuild on the operator's word: what speaks against it."""

from unlearn.requests.attempt import exact_by
from unlearn.requests.auditing import other_audits
from unlearn.requests.batch import Batch
from unlearn.requests.batch_folder import attempt_folder
from unlearn.requests.judging import evidence_of
from unlearn.requests.ledger.states import State
from unlearn.requests.plan import PlannedModel
from verify.errors import InputError
from verify.io.files import is_complete
from verify.schema.deletion_record import CERTIFYING, UNDECIDED
from verify.schema.evidence import Evidence

OBJECTING = ("utility", "negative control")
"""Gates whose failure shows a defect (a broken model, unfit references) and not merely too little evidence."""
ALL_OF_ALPHA = "all of alpha"
"""Gate that fails where all of alpha accuses, or would not certify, what a share of it leaves open."""


def objection(batch: Batch, model: PlannedModel) -> str | None:
    """Return why a model must not be deployed without a certifying audit; None if nothing speaks against it."""
    attempt = batch.attempt(model)
    evidence = evidence_of(batch, model)
    if evidence.verdict == CERTIFYING:
        return None
    if not exact_by(attempt_folder(batch.folder, batch.plan, model, attempt)):
        return f"it was made by {model.ladder[attempt]}, an approximate method that started from weights trained on the records"
    others = [Evidence.load(path) for path in other_audits(batch.audit_folder(model), attempt)]
    audits = [("its audit", evidence), *(("its audit against other references", one) for one in others)]
    if accusations := [said for whose, one in audits if (said := _accusation(whose, one)) is not None]:
        return accusations[0]
    # A new plan with fewer references must not hide what an audit of the same old weights has found.
    for step in batch.request().steps:
        found = step.details["models"] if step.state == "failed" and step.details["final"] else ()
        if any(entry["before"] == model.weights and entry["verdict"] == "NOT_FORGOTTEN" for entry in found):
            return "an audit under an earlier plan said NOT_FORGOTTEN of a model that replaced the same weights"
        if any(entry["before"] == model.weights and entry["verdict"] == "NOT_REBUILT" for entry in found):
            return "a re-execution under an earlier plan said NOT_REBUILT of a model that replaced the same weights"
    failed = next((gate for gate in evidence.gates if gate.name in OBJECTING and gate.passed is False), None)
    return None if failed is None else failed.reason.rstrip(".")


def _accusation(whose: str, evidence: Evidence) -> str | None:
    """Return what an audit accuses a model of, or None.

    No audit against other references takes this back, as it may be weaker. Failed gates of `OBJECTING` are not accusations: they
    depend on how one set of references fits, and count where that set judged last.
    """
    if evidence.verdict not in (*UNDECIDED, CERTIFYING):
        return f"{whose} says {evidence.verdict}; look for records that are still in the training data under other names"
    if evidence.accused:
        return f"{whose} lists {len(evidence.accused)} of its records as beyond the margin"
    shared = next((gate for gate in evidence.gates if gate.name == ALL_OF_ALPHA and gate.passed is False), None)
    return None if shared is None else f"{whose} failed the check {ALL_OF_ALPHA!r}: {shared.reason.rstrip('.')}"


def require_no_return(batch: Batch) -> None:
    """Check that references which judged a model's present weights do not judge them again after others did.

    The ledger would name their audit as the last one, though it opened that of the others later.

    Raises:
        InputError: they judged them before others did.
    """
    last = (batch.request().latest("verifying") or {}).get("audited")
    if last not in (None, batch.audited()) and any(is_complete(batch.audit_folder(model), "audit") for model in batch.plan.models):
        raise InputError(
            "these references have judged this attempt before, and others did later. Give the --references of the last audit, or "
            "further ones."
        )


def require_same_references(batch: Batch, state: State) -> None:
    """Check that the inconclusive audit used these references, so that a weaker audit cannot take its place."""
    if (batch.request().latest(state) or {}).get("audited") != batch.audited():
        raise InputError("the inconclusive audit used other references. Give the same --references.")
