"""Certificate of a closed batch: statements of operator and auditor on every model that was replaced, signed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.requests.attestation import proof_of
from unlearn.requests.batch_folder import model_folder
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.robustness_check import stored_for
from verify.certificate.signing import Statement, load_signer, sign
from verify.certificate.statements import auditor_statements, operator_statement, write_certificate
from verify.io.files import MANIFEST, read_json, verify_manifest, write_json
from verify.schema.deletion_record import DeletionRecord

CERTIFICATE = "certificate.json"
DRAFT = "provenance.json"


def certify(
    record: DeletionRecord, folder: Path, plan: Plan, made: Sequence[dict[str, Any]], operator: Path, auditor: Path
) -> Path:
    """Sign what was done and what was found for every model of the batch, unless the certificate exists.

    Args:
        record: the batch's deletion record.
        folder: the batch's folder.
        plan: the batch's plan.
        made: the ledger's entries of the deployed models.
        operator: the operator's private key.
        auditor: the auditor's private key; may be the same.

    Raises:
        InputError: a key cannot be used.
        IntegrityError: a model or audit does not match its manifest, or a proof is not the one in the ledger.
    """
    path = folder / CERTIFICATE
    if path.exists():
        return path
    about = record.model_dump(mode="json", by_alias=True)
    envelopes = []
    for entry in made:
        model = next(model for model in plan.models if model.weights == entry["before"])
        envelopes.append(sign(_provenance(folder, plan, model, entry, about), load_signer(operator)))
        audit = None if entry.get("audit") is None else folder / entry["audit"]
        found = auditor_statements(audit, stored_for(folder, entry), proof_of(folder, entry))
        envelopes += [sign(statement, load_signer(auditor)) for statement in found]
    write_certificate(path, envelopes)
    return path


def draft_provenance(folder: Path, plan: Plan, model: PlannedModel, made: Path) -> None:
    """Store the provenance of new weights while the old ones, whose manifest it needs, still exist."""
    write_json(model_folder(folder, plan, model) / DRAFT, operator_statement(made, model.folder))


def _provenance(folder: Path, plan: Plan, model: PlannedModel, made: dict[str, Any], about: dict[str, Any]) -> Statement:
    """Return the operator's statement, from the stored draft if the old weights are gone."""
    if (Path(model.folder) / MANIFEST).is_file():
        return operator_statement(folder / made["folder"], model.folder, about=about)
    verify_manifest(folder / made["folder"], "model")
    statement: Statement = read_json(model_folder(folder, plan, model) / DRAFT)
    statement["predicate"]["runDetails"]["metadata"]["request"] = about
    return statement
