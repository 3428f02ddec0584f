"""Close a request with record, certificate, report and letters, once its cleanup is done (`unlearn.requests.purging`).

A refused request closes with its reason alone. A deletion closes when every old model is retired and every remaining copy has a
reason; then the record is written and signed, and the report and the letters are written beside it. After a crash, the same command
completes what is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.requests.attestation import RECORD, deletion_record, proof_of
from unlearn.requests.batch import Notify
from unlearn.requests.batch_state import batch_of
from unlearn.requests.certifying import CERTIFICATE, certify
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.states import NEXT, REFUSALS
from unlearn.requests.letters import require_templates, write_letters, write_report
from unlearn.requests.level_tables import carry, take_out
from unlearn.requests.plan import Plan
from unlearn.requests.purging import forget_statistics
from unlearn.requests.robustness_check import match_to_models, store
from verify.certificate.statements import load_signer
from verify.certificate.timestamps import stamp_file
from verify.data.identity import RecordKey
from verify.errors import InputError, IntegrityError, RunError
from verify.io.files import alone_in, disk_errors, file_digest, write_json
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Reexecution

HEAD = "ledger-head.json"
HEAD_SCHEMA = "unlearn-verify/ledger-head/1"


@dataclass(frozen=True)
class ClosingDocuments:
    """Keys, robustness results and formats for the documents of a closed request.

    Attributes:
        operator: the operator's private key; without it nothing is signed.
        auditor: the auditor's private key, if the auditor is another party.
        robustness: results of `verify-unlearning probe` on the new weights, at most one file for each model.
        pdf: whether to print the report to PDF as well, which needs Chromium.
        templates: the company's folder of letter templates (`verify.report.letter_words`).
        timestamp_url: a time-stamping authority, for stamps on the certificate and on the ledger's head.
    """

    operator: Path | None = None
    auditor: Path | None = None
    robustness: Sequence[Path] = ()
    pdf: bool = False
    templates: Path | None = None
    timestamp_url: str | None = None


def require_usable(ledger: Ledger, output: Path, request: str, documents: ClosingDocuments) -> None:
    """Check roles, keys, letter templates and robustness results before anything is removed or recorded.

    Raises:
        InputError: the operator acted in another role for one of the requests, a key or the templates cannot be used, or a result
            is about other weights than the new ones or about other records.
    """
    together = _answered_together(ledger, request)
    for one in together:
        if one.state != "closed" or _still_signs(output, one, documents):
            ledger.require_role(one.id, "closed")
    require_templates(together, documents.templates)
    if documents.auditor is not None and documents.operator is None:
        raise InputError("a certificate needs the operator's signature too. Give --operator-key as well.")
    for key in (documents.operator, documents.auditor):
        if key is not None:
            load_signer(key)
    if documents.robustness:
        deployed = ledger.request(request).latest("deployed")
        match_to_models(output / batch_of(ledger, request)[0], [] if deployed is None else deployed["models"], documents.robustness)


def _answered_together(ledger: Ledger, request: str) -> list[Request]:
    """Return the requests of a request's batch; the request alone where it ended without one."""
    found = ledger.request(request)
    planned = found.latest("planned")
    if found.state in REFUSALS or found.outcome not in (None, "deleted") or planned is None:
        return [found]
    return [one for one in ledger.requests() if (one.latest("planned") or {}).get("batch") == planned.get("batch")]


def _still_signs(output: Path, closed: Request, documents: ClosingDocuments) -> bool:
    """Return whether the certificate of a closed request is missing and would be signed now."""
    batch = (closed.latest("planned") or {}).get("batch")
    if documents.operator is None or batch is None or closed.outcome != "deleted":
        return False
    return not (output / str(batch) / CERTIFICATE).exists()


def close_request(
    ledger: Ledger, output: Path, request: str, documents: ClosingDocuments | None = None, notify: Notify = lambda _: None
) -> tuple[DeletionRecord, list[Path]]:
    """Close a request and its whole batch with record, certificate, report and letters; idempotent.

    Args:
        ledger: the request ledger.
        output: folder of the batches.
        request: id of any request of the batch, or of one that was refused.
        documents: keys, robustness results and formats.
        notify: receives a line about each document that cannot be written.

    Returns:
        the record, and the paths of the documents, beginning with that of the record.

    Raises:
        InputError: the request cannot be closed yet; the message names what is missing.
    """
    documents = documents or ClosingDocuments()
    found = ledger.request(request)
    require_usable(ledger, output, request, documents)
    if found.state in REFUSALS or found.outcome not in (None, "deleted"):
        return _close_refused(ledger, output, found, documents, notify)
    if found.state not in ("purged", "closed"):
        raise InputError(f"{request} is {found.state} and cannot be closed. Next possible: {', '.join(NEXT[found.state])}.")
    batch, digest = batch_of(ledger, request)
    folder = output / batch
    plan = Plan.load(folder, digest)
    deployed = found.latest("deployed")
    assert deployed is not None, "only a deployed request can be purged"
    made = deployed["models"]
    with alone_in(folder):
        store(folder, made, match_to_models(folder, made, documents.robustness), folder / CERTIFICATE)
        _require_evidence(folder, made)
        for model, entry in zip(plan.models, made, strict=True):
            if model.level_table is not None:
                carry(Path(model.level_table), folder / str(entry["folder"]))
        take_out(plan, output, RecordKey.load())
        if ledger.request(request).state != "closed":
            ledger.advance_all(plan.requests, "closed", batch=batch, plan=digest)
        record = _record_of(ledger, [ledger.request(name) for name in plan.requests], folder, plan)
        signed = []
        if documents.operator is not None:
            signed = [certify(record, folder, plan, made, documents.operator, documents.auditor or documents.operator)]
        answers = write_documents(record, folder, made, documents, notify)
    return record, [folder / RECORD, *signed, *answers]


def _require_evidence(folder: Path, made: Sequence[Mapping[str, Any]]) -> None:
    """Check that evidence and proofs, from which the documents are written, can be read: closing cannot be undone.

    Raises:
        InputError: an audit's evidence or a proof is missing, damaged or of another version.
        IntegrityError: an audit or a proof is not the one in the ledger.
    """
    for entry in made:
        proof = proof_of(folder, entry)
        if proof is not None:
            Reexecution.load(proof)
        if entry.get("audit") is not None:
            path = folder / entry["audit"] / "evidence.json"
            Evidence.load(path)
            if file_digest(path) != entry["evidence"]:
                raise IntegrityError(
                    f"{path} is not the evidence by which the model went into service ({str(entry['evidence'])[:16]}, by the "
                    "ledger): it was made again or edited. Restore the audit's folder; nothing was closed or signed."
                )


def write_documents(
    record: DeletionRecord, folder: Path, made: Sequence[Mapping[str, Any]], documents: ClosingDocuments, notify: Notify
) -> list[Path]:
    """Write the report and the letters; `made` are the ledger's entries of the deployed models."""
    answers = [*write_report(record, folder, made, documents.pdf, notify), *write_letters(record, folder, documents.templates)]
    return [*answers, _note_head(record, folder), *_stamps(folder, documents.timestamp_url, notify)]


def _note_head(record: DeletionRecord, folder: Path) -> Path:
    """Write the ledger's head to a file: whoever keeps it, or its time stamp, can show that nothing before it was altered."""
    path = folder / HEAD
    if not path.exists():
        write_json(path, {"schema": HEAD_SCHEMA, "head": record.ledger_head, "noted": record.created})
    return path


def _stamps(folder: Path, url: str | None, notify: Notify) -> list[Path]:
    """Get time stamps on the certificate and on the ledger's head; a failure is reported, not raised, once a request is closed."""
    found: list[Path] = []
    for path in (folder / CERTIFICATE, folder / HEAD) if url is not None else ():
        try:
            found += [stamp_file(path, str(url))] if path.exists() else []
        except (InputError, RunError) as error:
            notify(f"no time stamp on {path}: {error}")
    return found


def _close_refused(
    ledger: Ledger, output: Path, found: Request, documents: ClosingDocuments, notify: Notify
) -> tuple[DeletionRecord, list[Path]]:
    folder = output / found.id
    with disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone_in(folder):
        found = ledger.request(found.id)
        if found.state != "closed":
            found = ledger.advance(found.id, "closed")
        forget_statistics(output, [found])
        record = _record_of(ledger, [found], folder, None)
        return record, [folder / RECORD, *write_documents(record, folder, (), documents, notify)]


def _record_of(ledger: Ledger, requests: Sequence[Request], folder: Path, plan: Plan | None) -> DeletionRecord:
    """Return the deletion record, writing it first if it does not exist."""
    if not (folder / RECORD).exists():
        deletion_record(ledger, requests, folder, plan).save(folder / RECORD)
    return DeletionRecord.load(folder / RECORD)
