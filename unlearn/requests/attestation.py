"""Attestation of a closed batch: the operator's deletion record, which the certificate signs (`unlearn.requests.certifying`).

All content is read from the ledger, the plan, and the manifests of models and audits; nothing depends on the memory of a run.
"""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from unlearn.requests.batch_folder import REGISTRATION, model_folder
from unlearn.requests.grouping import matched_records
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import Plan
from unlearn.requests.request_facts import facts_of
from verify.auditing.registration import Registration
from verify.errors import IntegrityError
from verify.io.files import MANIFEST, file_digest, read_json
from verify.schema.deletion_record import (
    EXACT_REBUILD,
    DeletionRecord,
    ReexecutedModel,
    ReplacedModel,
    ResidualCopy,
)
from verify.schema.evidence import Evidence

RECORD = "deletion.json"
PACKAGES = ("unlearn-verify", "torch", "transformers", "peft", "accelerate", "numpy", "scipy")

# Limits of the deletion itself; the limits of an audit are in its evidence.
LIMITS = (
    "Copies outside the folders that were searched, such as backups and copies at other companies, were not looked for.",
    "The state of the service is attested by the operator: which weights answer users was not observed.",
)


def deletion_record(ledger: Ledger, requests: Sequence[Request], folder: Path, plan: Plan | None) -> DeletionRecord:
    """Build the record of a batch, or of a request that ended without a deletion (then `plan` is None).

    Raises:
        InputError: an audit or manifest of the batch cannot be read.
    """
    deployed = None if plan is None else requests[0].latest("deployed")
    purged = None if plan is None else requests[0].latest("purged")
    made = () if deployed is None else deployed["models"]
    models = () if plan is None else tuple(_replaced(requests, folder, plan, entry) for entry in made)
    return DeletionRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        requests=tuple(facts_of(request) for request in requests),
        data=() if plan is None else plan.places,
        records=0 if plan is None or deployed is None else len(plan.records),
        models=models,
        removed={} if purged is None else _removed(requests[0]),
        residual=() if purged is None else tuple(_residual(copy) for copy in purged["residual"]),
        retired=_retired(requests[0]),
        registration=None if plan is None else _registration(folder, plan),
        ledger_head=ledger.head(),
        environment={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        limits=(*(_not_by_audit(model) for model in models if model.basis == EXACT_REBUILD), *LIMITS) if models else (),
    )


def _residual(copy: Mapping[str, Any]) -> ResidualCopy:
    """Describe a copy that stays, from the ledger's entry."""
    whose = {"requests": tuple(copy["requests"])} if "requests" in copy else {}
    return ResidualCopy(place=copy["place"], kind=copy["kind"], reason=copy["reason"], **whose)


def _replaced(requests: Sequence[Request], folder: Path, plan: Plan, made: dict[str, Any]) -> ReplacedModel:
    """Describe one replaced model from its manifest, and its audit or re-execution."""
    manifest = read_json(folder / made["folder"] / MANIFEST)["about"]
    proof = proof_of(folder, made)
    facts, training = manifest.get("facts") or {}, manifest.get("training") or {}
    return ReplacedModel(
        name=made["name"],
        before=made["before"],
        after=made["after"],
        method=manifest["method"],
        parameters=_shown_parameters(manifest["parameters"]),
        options=manifest["options"],
        exactness=_exactness(manifest["method"], facts),
        facts={name: value for name, value in facts.items() if name != "exactness"},
        seconds=float(training.get("seconds", 0.0)),
        share_of_retraining=_share(manifest["method"], facts),
        basis=made.get("basis", "audit"),
        rungs=_tried(requests[0], made["before"]),
        reexecution=None if proof is None else ReexecutedModel.of(proof),
        requests=_learned_from(requests, plan, made["before"]) if len(requests) > 1 else None,
        **_audited(folder, made),
    )


def _learned_from(requests: Sequence[Request], plan: Plan, weights: str) -> tuple[str, ...]:
    """Return the ids of the requests whose records a model in service was trained on."""
    model = next(model for model in plan.models if model.weights == weights)
    return model.learned_from(matched_records(requests))


def _audited(folder: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a model's audit; none where it was executed again instead."""
    if made.get("audit") is None:
        return {}
    evidence = Evidence.load(folder / made["audit"] / "evidence.json")
    return {
        "verdict": evidence.verdict,
        "verdict_phrase": evidence.verdict_phrase,
        "tested_by": evidence.tiers,
        "audit_digest": made["evidence"],
    }


def proof_of(folder: Path, made: Mapping[str, Any]) -> Path | None:
    """Return the proof of a deployed model's re-execution; None where it was not executed again.

    Raises:
        IntegrityError: it is not the proof that the ledger names.
    """
    if made.get("reexecution") is None:
        return None
    path = folder / str(made["reexecution"]["file"])
    if not path.is_file() or file_digest(path) != made["reexecution"]["proof"]:
        raise IntegrityError(
            f"{path} is missing or not the proof in the ledger: it was edited. Restore the file; its SHA-256 begins with "
            f"{made['reexecution']['proof'][:16]}."
        )
    return path


def _exactness(method: str, facts: dict[str, Any]) -> str | None:
    """Return what "exact" means for these weights, or None; for `auto`, what it means for its last attempt."""
    return facts["rungs"][-1].get("exactness") if method == "auto" and facts.get("rungs") else facts.get("exactness")


def _not_by_audit(model: ReplacedModel) -> str:
    """State what an exact rebuild rests on that was neither certified by an audit nor executed again to the end."""
    tried = model.reexecution
    again = "it was not executed again" if tried is None else f"its re-execution is {tried.phrase}"
    if tried is not None and tried.word == "REBUILT_WITHOUT":
        again += ", of a training that was not committed to before the request"
    return (
        f"No audit showed that {model.name} is free of these records: its audit is {model.verdict}, and {again}. It was "
        f"deployed because it was rebuilt without them by {_rebuilt_by(model)}, which is attested by the operator and rests on the "
        "training log."
    )


def _rebuilt_by(model: ReplacedModel) -> str:
    """Return the method that made the weights; for `auto`, the one with which it ended."""
    return f"{model.facts['rungs'][-1]['method']}, which auto chose" if model.method == "auto" else model.method


def _shown_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a method's parameters, with folders by their names: paths of this machine mean nothing to a reader."""
    shown = dict(parameters)
    if "references" in shown:
        shown["references"] = [Path(folder).name for folder in shown["references"]]
    if shown.get("table"):
        shown["table"] = Path(str(shown["table"])).name
    return shown


def _share(method: str, facts: dict[str, Any]) -> float | None:
    share = facts.get("share_of_retraining_tokens")
    return 1.0 if method == "retrain" else None if share is None else float(share)


def _tried(request: Request, weights: str) -> tuple[str, ...]:
    """Return failed attempts under this plan and earlier ones: method, verdict and reason."""
    failures = [step.details for step in request.steps if step.state == "failed"]
    tried = [entry for details in failures for entry in details["models"] if entry["before"] == weights]
    return tuple(f"{entry['method']}: {entry['verdict']}. {entry['why']}" for entry in tried)


def _removed(request: Request) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in request.steps:
        for kind, count in step.details.get("removed", {}).items():
            found[kind] = found.get(kind, 0) + int(count)
    return found


def _retired(request: Request) -> tuple[str, ...]:
    return tuple(dict.fromkeys(digest for step in request.steps for digest in step.details.get("retired", ())))


def _registration(folder: Path, plan: Plan) -> str | None:
    """Return the digest of the first model's registration; each audit's evidence names its own."""
    path = model_folder(folder, plan, plan.models[0]) / REGISTRATION
    return Registration.load(path).digest if path.exists() else None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
