"""What the ledger records of a batch's attempts: those that went into service, with their basis, and those that did not."""

from pathlib import Path
from typing import Any

from unlearn.requests.batch import Batch
from unlearn.requests.batch_folder import attempt_folder, model_folder
from unlearn.requests.certifying import draft_provenance
from unlearn.requests.judging import Finding
from unlearn.requests.plan import PlannedModel
from unlearn.requests.planned_proofs import COMMITMENT
from verify.io.files import MANIFEST, file_digest, read_json
from verify.provenance.commitment import TrainingCommitment, commitment_root
from verify.schema.deletion_record import CERTIFYING, EXACT_REBUILD, REEXECUTED
from verify.schema.evidence import Evidence


def deployed(batch: Batch, model: PlannedModel) -> dict[str, Any]:
    """Return what the ledger records of a model's new weights that go into service; keep the draft of their provenance."""
    attempt = batch.attempt(model)
    made = attempt_folder(batch.folder, batch.plan, model, attempt)
    draft_provenance(batch.folder, batch.plan, model, made)
    return {
        "name": model.name,
        "before": model.weights,
        "after": read_json(made / MANIFEST)["about"]["weights"],
        "method": model.ladder[attempt],
        "folder": made.relative_to(batch.folder).as_posix(),
        **_basis(batch, model, attempt),
        **batch.proofs.facts(model, attempt),
        **_committed(batch, model, made),
    }


def _basis(batch: Batch, model: PlannedModel, attempt: int) -> dict[str, Any]:
    """Return what a model goes into service on, with the facts of its audit; a proof without references has no audit."""
    proven = batch.proofs.proven(model, attempt)
    if proven and not batch.references:
        return {"basis": REEXECUTED}
    audited = batch.audit_folder(model)
    evidence = Evidence.load(audited / "evidence.json")
    without = "audit" if evidence.verdict == CERTIFYING else EXACT_REBUILD
    return {
        "basis": REEXECUTED if proven else without,
        "verdict": evidence.verdict,
        "audit": audited.relative_to(batch.folder).as_posix(),
        "evidence": file_digest(audited / "evidence.json"),
    }


def _committed(batch: Batch, model: PlannedModel, made: Path) -> dict[str, Any]:
    """Commit to the training of the new weights, for the next deletion; return the root, or nothing where it has no log."""
    path = model_folder(batch.folder, batch.plan, model) / COMMITMENT
    if commitment_root(made) is None:
        return {}
    if not path.exists():  # it exists if an earlier call was killed here
        TrainingCommitment.of(made).save(path)
    return {"root": TrainingCommitment.load(path).root}


def tried(batch: Batch, model: PlannedModel, finding: Finding) -> dict[str, Any]:
    """Return what the ledger records of an attempt that did not go into service."""
    attempt = batch.attempt(model)
    return {
        "before": model.weights,
        "rung": attempt,
        "method": model.ladder[attempt],
        "verdict": finding.verdict,
        "why": finding.why,
        **batch.proofs.facts(model, attempt),
    }
