"""Plan deletions: group approved requests into batches, and choose models, records and methods.

Requests that touch the same models and have close deadlines are answered in one batch: one rebuild instead of several. A plan is a
proposal until it is recorded; `--dry-run` records nothing.

Every plan searches the files again until a request's audits are registered. From then on its records are fixed, so that nobody can
leave out a record because of what an audit has shown.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn.requests.audit_numbers import NextAudits, opened_once_noted
from unlearn.requests.audit_power import can_be_measured, describe_power
from unlearn.requests.awaited_audits import awaited_audits
from unlearn.requests.batch_folder import numbered_folder
from unlearn.requests.batch_proposal import propose
from unlearn.requests.batch_state import PLANNABLE, attempt_by_ledger, planned_weights, replaced_weights
from unlearn.requests.candidates import require_methods
from unlearn.requests.choices import Choices
from unlearn.requests.grouping import Known, in_batches, known_from_ledger
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.matching import Matched, match_requests
from unlearn.requests.models_in_service import in_service, model_roots, origin_of
from unlearn.requests.plan import PLAN, Plan
from unlearn.requests.planned_proofs import Commitments
from unlearn.requests.preflight import Runnable, require_runnable
from unlearn.requests.searched_files import require_all_logged, require_searched
from unlearn.requests.training_sets import require_clean
from unlearn.scan.lineage import AffectedModel, affected_models
from verify.certificate.opened_audits import opening
from verify.data.identity import RecordKey
from verify.errors import InputError, VerifyError
from verify.io.files import is_complete
from verify.provenance.descent import trained_records
from verify.schema.reexecution import Reexecution

DEFAULT_STATES = ("identity_verified", "matched")


@dataclass(frozen=True)
class Draft:
    """A proposal that is not recorded yet.

    Attributes:
        plans: one per batch.
        matched: search results of this call, by request.
        idle: affected models that are not in service; the cleanup deals with them.
        audits: by batch, its audits with controls, as `verify.certificate.opened_audits.opening` describes them.
        drafted: by request, the number of its last event when it was read for the proposal.
    """

    plans: tuple[Plan, ...]
    matched: tuple[Matched, ...]
    idle: tuple[AffectedModel, ...]
    audits: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    drafted: Mapping[str, int] = field(default_factory=dict)


def draft(
    ledger: Ledger,
    requests: Sequence[Request],
    choices: Choices,
    key: RecordKey,
    confirmed: Sequence[str] = (),
    not_same: Collection[str] = (),
) -> Draft:
    """Make plans without recording them.

    Args:
        ledger: the request ledger.
        requests: the requests to plan.
        choices: inputs and options of the plan.
        key: the ledger's record key.
        confirmed: proposals that a human confirmed, as in `match_requests`.
        not_same: ids of requests whose other candidates a human rejected.

    Raises:
        InputError: a file, model, base, reference or setting cannot be used, a request is not approved, a method is unknown, a
            confirmation or rejection matches nothing, it is not clear which models are in service, or another plan against the same
            controls, which is not audited yet, is for another number of audits.
        IntegrityError: a model is damaged, or the base is not the one that it was trained from.
    """
    require_methods(choices.methods)
    for request in requests:
        _require_plannable(request, choices.output)
    fresh = [request for request in requests if request.latest("unlearning") is None]
    _require_decidable(fresh, confirmed, not_same)
    matched = match_requests(fresh, choices.data, key, choices.fields, confirmed, not_same) if fresh else []
    for request, entry in zip(fresh, matched, strict=True):
        _require_records_present(request, entry, choices)
    require_searched(ledger, matched, choices, key)
    require_all_logged(ledger, matched, choices, key)
    known = [
        Known(request, {match.record: match.subject or match.record for match in entry.removed}, entry.places)
        for request, entry in zip(fresh, matched, strict=True)
        if entry.removed
    ]
    known += [known_from_ledger(request) for request in requests if request not in fresh]
    plans, idle = _propose_all(ledger, known, choices) if known else ([], ())
    _require_signed_table(plans, choices)
    # A plan that cannot be run is refused before the models are scored.
    all_requests = ledger.requests()
    opened = opened_once_noted(all_requests, plans, choices.output)
    awaited = awaited_audits(all_requests, [request.id for request in requests])
    checked, audits = [require_runnable(ledger, plan, key, opened, awaited) for plan in plans], NextAudits(opened)
    plans = [_with_power(plan, own, audits) for plan, own in zip(plans, checked, strict=True)]
    openings = {plan.batch: _openings(plan, own) for plan, own in zip(plans, checked, strict=True)}
    return Draft(tuple(plans), tuple(matched), idle, openings, {request.id: request.last_step for request in requests})


def _require_signed_table(plans: Sequence[Plan], choices: Choices) -> None:
    """Refuse a key for the signature of level tables where no table judges: nothing would be checked with it."""
    if plans and choices.level_table_key is not None and not any(model.level_table for plan in plans for model in plan.models):
        raise InputError(
            "--level-table-key has no effect here: no folder of these models holds a level table with rows of all of the records. "
            "Name the table with --level-table DIR, or leave --level-table-key out."
        )


def _openings(plan: Plan, checked: Mapping[str, Runnable]) -> list[dict[str, Any]]:
    """Describe the audits with controls that a plan will open."""
    alpha, expected = plan.settings.alpha, plan.settings.expected_audits
    controls = {model.weights: checked[model.weights].controls for model in plan.models}
    return [opening(weights, used, alpha, expected) for weights, used in controls.items() if used is not None]


def _require_plannable(request: Request, output: Path) -> None:
    """Check that a request may be planned, and that nothing that was found out about it is lost by that."""
    if request.state not in PLANNABLE:
        raise InputError(f"{request.id} is {request.state}; only approved requests can be planned. Approve it, or leave it out.")
    _require_verdict_recorded(request, output)


def _require_decidable(fresh: Sequence[Request], confirmed: Sequence[str], not_same: Collection[str]) -> None:
    """Check that decisions about proposed rows are about requests whose records are not fixed yet."""
    if confirmed and not fresh:
        raise InputError(
            "--confirm comes too late: the records of these requests were fixed when their audits were registered. Leave it out."
        )
    if unknown := sorted(set(not_same) - {request.id for request in fresh}):
        raise InputError(
            f"--not-same names {unknown[0][:80]!r}, which is not a request that is planned now. Name it with --ids as well."
        )


def _propose_all(ledger: Ledger, known: Sequence[Known], choices: Choices) -> tuple[list[Plan], tuple[AffectedModel, ...]]:
    """Return the plan of every batch, and the affected models that are not in service."""
    if absent := [root for root in choices.search if not Path(root).is_dir()]:
        raise InputError(f"{absent[0]} is not a folder. Name the folders to search with --search DIR ...")
    names = {name for entry in known for name in entry.records}
    require_clean(choices.references, names)
    affected = affected_models(model_roots(choices), names)
    serving = in_service(affected, choices.in_service, replaced_weights(ledger.requests()))
    held = {model.weights: trained_records(origin_of(model, affected)) & names for model in serving}
    commitments = Commitments.read(choices.commitments, choices.output)
    commitments.require_fitting([origin_of(model, affected) for model in serving])
    batches = in_batches(known, held, choices.window)
    plans = [propose(group, serving, affected, held, choices, commitments) for group in batches]
    return plans, tuple(model for model in affected if model not in serving)


def _require_verdict_recorded(request: Request, output: Path) -> None:
    """Check that no finished audit or refuting re-execution is unrecorded: a new plan must not suppress its outcome.

    They are known by their folders, not by their times: clocks are set back, and notes are added later.
    """
    begun = request.latest("verifying")
    if request.state != "verifying" or begun is None or "accepted" in begun:  # accepted is what was recorded as inconclusive
        return
    batch, digest = str(begun["batch"]), str(begun["plan"])
    used = str(begun.get("audited", "-*")).rpartition("-")[2]  # earlier versions did not note which references judge
    # By the ledger, not by the plan: its file may be missing or edited.
    for number, weights in enumerate(planned_weights(request, digest)):
        inside, attempt = numbered_folder(output / batch, number), attempt_by_ledger(request, batch, weights)
        done = [("an audit", "verdict", path) for path in inside.glob(f"audit-{attempt}-{used}") if is_complete(path, "audit")]
        proof = inside / f"reexecution-{attempt}.json"
        if proof.is_file() and Reexecution.load(proof).word == "NOT_REBUILT":
            done.append(("a re-execution", "outcome", proof))
        for what, result, path in done[:1]:
            said = _recorded_by(request, output / batch, digest, path)
            raise InputError(f"{what} of {request.id} is done, but its {result} is not recorded yet. {said}")


def _recorded_by(request: Request, folder: Path, digest: str, done: Path) -> str:
    """Return how to record what a finished audit or re-execution found."""
    again = f"Run `unlearn request run {request.id}` first; after that the request can be planned again."
    try:
        Plan.load(folder, digest)
    except VerifyError:
        return (
            f"{folder / PLAN}, which that takes, is missing or not as the ledger names it (SHA-256 {digest[:16]}...): restore it "
            f"from a backup. {again} If nobody has it any more, move {done} out of the folder and keep it, with a note of why: the "
            "ledger goes on counting what was begun there."
        )
    return again


def _require_records_present(request: Request, entry: Matched, choices: Choices) -> None:
    """Check that records which an earlier plan matched and a model was trained on are still in the files.

    Removing the row from the file, or naming another file, does not remove it from the model.
    """
    before = {record["record"] for record in (request.latest("matched") or {"records": []})["records"]}
    lost = before - entry.records - {match.record for match in (*entry.undecided, *entry.candidates)} - entry.rejected
    if lost and affected_models(model_roots(choices), lost):
        raise InputError(
            f"{len(lost)} records that {request.id} was matched with are no longer in the training files, and a model was trained "
            "on them. Name all files with --data, and restore rows that were removed, until the deletion is verified."
        )


def _with_power(plan: Plan, checked: Mapping[str, Runnable], audits: NextAudits) -> Plan:
    """Return a plan that says how often the audit of each model would certify an honest deletion."""
    models = []
    for model in plan.models:
        sets, before = checked[model.weights].sets, audits.take(checked[model.weights].controls)
        more = f"; {describe_power(plan, model, sets, before)}" if can_be_measured(plan, model) else ""
        models.append(model.model_copy(update={"shown": f"{model.shown}{more}"}))
    return plan.model_copy(update={"models": tuple(models)})
