"""Acceptance of an exact rebuild on the operator's word: what speaks against it."""

from unlearn.requests.attempt import exact_by
from unlearn.requests.batch import Batch
from unlearn.requests.batch_folder import attempt_folder
from unlearn.requests.judging import evidence_of
from unlearn.requests.ledger.states import State
from unlearn.requests.plan import PlannedModel
from verify.errors import InputError
from verify.schema.deletion_record import CERTIFYING, UNDECIDED

OBJECTING = ("utility", "negative control", "all of alpha")
"""Gates whose failure shows a defect (a broken model, unfit references, an accusation that only a share of alpha forgoes) and not
merely too little evidence."""


def objection(batch: Batch, model: PlannedModel) -> str | None:
    """Return why a model must not be deployed without a certifying audit; None if nothing speaks against it."""
    attempt = batch.attempt(model)
    evidence = evidence_of(batch, model)
    if evidence.verdict == CERTIFYING:
        return None
    if not exact_by(attempt_folder(batch.folder, batch.plan, model, attempt)):
        return f"it was made by {model.ladder[attempt]}, an approximate method that started from weights trained on the records"
    if evidence.verdict not in UNDECIDED:
        return f"its audit says {evidence.verdict}; look for records that are still in the training data under other names"
    if evidence.accused:
        return f"its audit lists {len(evidence.accused)} of its records as beyond the margin"
    # A new plan with fewer references must not hide what an audit of the same old weights has found.
    for step in batch.request().steps:
        found = step.details["models"] if step.state == "failed" and step.details["final"] else ()
        if any(entry["before"] == model.weights and entry["verdict"] == "NOT_FORGOTTEN" for entry in found):
            return "an audit under an earlier plan said NOT_FORGOTTEN of a model that replaced the same weights"
        if any(entry["before"] == model.weights and entry["verdict"] == "NOT_REBUILT" for entry in found):
            return "a re-execution under an earlier plan said NOT_REBUILT of a model that replaced the same weights"
    failed = next((gate for gate in evidence.gates if gate.name in OBJECTING and gate.passed is False), None)
    return None if failed is None else failed.reason.rstrip(".")


def require_same_references(batch: Batch, state: State) -> None:
    """Check that the inconclusive audit used these references, so that a weaker audit cannot take its place."""
    if (batch.request().latest(state) or {}).get("audited") != batch.audited():
        raise InputError(
            "the inconclusive audit used other references. Give the same --references, or first run without --accept-exact-rebuild."
        )
