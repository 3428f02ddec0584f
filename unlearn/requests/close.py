"""The last two steps: clean up after a deployed deletion, and close it with its record and certificate.

A request that was refused closes by its reason alone. One that was deleted closes when every old model is retired and every copy
that stays has a reason; then the record is written and signed, and the report and the letters beside it. A crash in between is
mended by the same command.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.requests.attestation import CERTIFICATE, RECORD, certify, deletion_record
from unlearn.requests.batch_folder import CACHE
from unlearn.requests.cleanup import Left, carried_over, clean, reasons_of, suppress
from unlearn.requests.ledger.ledger import Ledger, Request
from unlearn.requests.ledger.states import NEXT, REFUSALS
from unlearn.requests.letters import write_letters, write_report
from unlearn.requests.pipeline import Tell, batch_of
from unlearn.requests.plan import Plan
from unlearn.requests.robustness_check import keep, matched
from verify.certificate.statements import load_signer
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.io.files import alone_in
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence

SHORTEST_DIGEST = 8


@dataclass(frozen=True)
class Cleaning:
    """How to clean; fields as in `unlearn.requests.cleanup.clean`."""

    remove: bool = False
    rewrite_data: bool = False
    reasons: Mapping[str, str] | None = None


def purge_batch(
    ledger: Ledger, output: Path, request: str, key: RecordKey, suppression: Path, how: Cleaning, retired: Sequence[str] = ()
) -> Left:
    """Clean up after a deployed batch, and note it where nothing is left without a reason.

    Args:
        ledger: the requests.
        output: where batches live.
        request: any request of the batch.
        key: the ledger's.
        suppression: the list of what must not come back; made where there is none.
        how: what to remove, and reasons for what stays.
        retired: weights that are out of service by now, each by its digest (eight characters are enough) or its folder.

    Raises:
        InputError: the batch is not deployed, or what is named as retired was not replaced by it.
    """
    batch, digest = batch_of(ledger, request)
    folder = output / batch
    plan = Plan.load(folder, digest)
    with alone_in(folder):
        requests = [ledger.request(name) for name in plan.requests]
        if {entry.state for entry in requests} - {"deployed", "purged"}:
            raise InputError(f"{batch} is not deployed, so nothing of it is cleaned up. Run `unlearn request run {request}` first.")
        _forget_statistics(output, requests)
        gone = _resolve(retired, plan)
        suppress(plan, requests, suppression, key)
        closing = bool(gone) or requests[0].state == "purged"
        before = {weights for step in requests[0].steps for weights in step.details.get("retired", ())}
        earlier = (requests[0].latest("purged") or {"residual": []})["residual"]
        left = clean(
            ledger,
            folder,
            plan,
            key,
            retired={*before, *gone},
            remove=how.remove,
            closing=closing,
            rewrite_data=how.rewrite_data,
            reasons={**reasons_of(earlier), **(how.reasons or {})},
        )
        left = carried_over(earlier, left, [*plan.roots, str(folder.parent)])
        if not left.unexplained:
            residual = [{name: copy[name] for name in ("place", "kind", "reason")} for copy in left.residual]
            facts = {"residual": residual, "removed": dict(left.removed), "retired": gone}
            ledger.advance_all(plan.requests, "purged", batch=batch, plan=digest, **facts)
    return left


def _forget_statistics(output: Path, requests: Sequence[Request]) -> None:
    """Remove what was computed of single records for audits, also under plans that were left for another; only audits need it."""
    for batch in {str(step.details["batch"]) for request in requests for step in request.steps if step.state == "planned"}:
        shutil.rmtree(output / batch / CACHE, ignore_errors=True)


def _resolve(retired: Sequence[str], plan: Plan) -> list[str]:
    """Whole digests of the weights that are named as retired."""
    found = []
    for given in retired:
        place = str(Path(given).resolve())
        matching = [
            model.weights
            for model in plan.models
            if model.folder == place or (len(given) >= SHORTEST_DIGEST and model.weights.startswith(given))
        ]
        if len(matching) != 1:
            named = ", ".join(f"{model.weights[:16]} ({model.name})" for model in plan.models)
            raise InputError(f"--retired {given} names no model that was replaced. Replaced were: {named}.")
        found += matching
    return found


@dataclass(frozen=True)
class Papers:
    """What goes into the papers of a closed request beside what the pipeline knows.

    Attributes:
        operator: the operator's private key; without it nothing is signed.
        auditor: the auditor's private key, where somebody else answers for the audit.
        robustness: what `verify-unlearning probe` wrote about the new weights; one file for each model at most.
        pdf: whether the report is printed to PDF as well, where Chromium is there.
    """

    operator: Path | None = None
    auditor: Path | None = None
    robustness: Sequence[Path] = ()
    pdf: bool = False


def require_usable(ledger: Ledger, output: Path, request: str, papers: Papers) -> None:
    """Refuse, before anything is removed or noted, keys and probes that cannot go into this request's papers.

    Raises:
        InputError: a key cannot be used, or a probe is about other weights than the new ones, or about other records.
    """
    if papers.auditor is not None and papers.operator is None:
        raise InputError("a certificate begins with the operator's statement. Give --operator-key as well.")
    for key in (papers.operator, papers.auditor):
        if key is not None:
            load_signer(key)
    if papers.robustness:
        deployed = ledger.request(request).latest("deployed")
        matched(output / batch_of(ledger, request)[0], [] if deployed is None else deployed["models"], papers.robustness)


def close_request(
    ledger: Ledger, output: Path, request: str, papers: Papers | None = None, tell: Tell = lambda _: None
) -> tuple[DeletionRecord, list[Path]]:
    """Close a request and all of its batch: deletion record, certificate, report, letters. Doing it again changes nothing.

    Args:
        ledger: the requests.
        output: where batches live.
        request: any request of the batch, or one that was refused.
        papers: keys, probes and forms.
        tell: told what could not be written.

    Returns:
        the record and the files that were written, the record's first.

    Raises:
        InputError: the request cannot be closed yet; the message says what is missing.
    """
    papers = papers or Papers()
    found = ledger.request(request)
    require_usable(ledger, output, request, papers)
    if found.state in REFUSALS or found.outcome not in (None, "deleted"):
        return _close_refused(ledger, output, found, papers, tell)
    if found.state not in ("purged", "closed"):
        raise InputError(f"{request} is {found.state} and cannot be closed. Next possible: {', '.join(NEXT[found.state])}.")
    batch, digest = batch_of(ledger, request)
    folder = output / batch
    plan = Plan.load(folder, digest)
    deployed = found.latest("deployed")
    assert deployed is not None, "no other way leads to purged"
    made = deployed["models"]
    with alone_in(folder):
        keep(folder, made, matched(folder, made, papers.robustness), folder / CERTIFICATE)
        _require_evidence(folder, made)
        if ledger.request(request).state != "closed":
            ledger.advance_all(plan.requests, "closed", batch=batch, plan=digest)
        record = _written(ledger, [ledger.request(name) for name in plan.requests], folder, plan)
        signed = []
        if papers.operator is not None:
            signed = [certify(record, folder, plan, made, papers.operator, papers.auditor or papers.operator)]
        answers = told(record, folder, made, papers, tell)
    return record, [folder / RECORD, *signed, *answers]


def _require_evidence(folder: Path, made: Sequence[Mapping[str, Any]]) -> None:
    """Before the step that cannot be taken back: the papers are written from what the audits found.

    Raises:
        InputError: an audit's evidence is missing, damaged or of another version.
    """
    for entry in made:
        Evidence.load(folder / entry["audit"] / "evidence.json")


def told(record: DeletionRecord, folder: Path, made: Sequence[Mapping[str, Any]], papers: Papers, tell: Tell) -> list[Path]:
    """Write what people read, the report and the letters; `made` are the ledger's entries of the deployed models."""
    return [*write_report(record, folder, made, papers.pdf, tell), *write_letters(record, folder)]


def _close_refused(ledger: Ledger, output: Path, found: Request, papers: Papers, tell: Tell) -> tuple[DeletionRecord, list[Path]]:
    if found.state != "closed":
        found = ledger.advance(found.id, "closed")
    _forget_statistics(output, [found])
    folder = output / found.id
    record = _written(ledger, [found], folder, None)
    return record, [folder / RECORD, *told(record, folder, (), papers, tell)]


def _written(ledger: Ledger, requests: Sequence[Request], folder: Path, plan: Plan | None) -> DeletionRecord:
    """The record: as it was written, or written now."""
    if not (folder / RECORD).exists():
        deletion_record(ledger, requests, folder, plan).save(folder / RECORD)
    return DeletionRecord.load(folder / RECORD)
