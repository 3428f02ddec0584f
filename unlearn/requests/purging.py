"""Clean up after a deployed deletion: suppress its data, remove or explain every copy, and note which old models are retired.

Nothing is recorded while a copy has no reason to stay; the same command is run again until none is left.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.requests.batch_folder import CACHE
from unlearn.requests.batch_state import batch_of
from unlearn.requests.cleanup import clean
from unlearn.requests.copies_left import Left, carried_over, reasons_of
from unlearn.requests.deleted_rows import suppress
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import Plan
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.io.files import alone_in

SHORTEST_DIGEST = 8


@dataclass(frozen=True)
class Cleaning:
    """Options of the cleanup; fields as in `unlearn.requests.cleanup.clean`."""

    remove: bool = False
    rewrite_data: bool = False
    reasons: Mapping[str, str] | None = None


def purge_batch(
    ledger: Ledger, output: Path, request: str, key: RecordKey, suppression: Path, how: Cleaning, retired: Sequence[str] = ()
) -> Left:
    """Clean up after a deployed batch, and record it if nothing is left without a reason.

    Args:
        ledger: the request ledger.
        output: folder of the batches.
        request: id of any request of the batch.
        key: the ledger's record key.
        suppression: path of the list of data that must not be trained on again; created if missing.
        how: what to remove, and reasons for what stays.
        retired: weights that are now out of service, each by its digest (eight characters are enough) or its folder.

    Raises:
        InputError: the batch is not deployed, or a model named as retired was not replaced by it.
    """
    batch, digest = batch_of(ledger, request)
    folder = output / batch
    plan = Plan.load(folder, digest)
    with alone_in(folder):
        requests = [ledger.request(name) for name in plan.requests]
        if {entry.state for entry in requests} - {"deployed", "purged"}:
            raise InputError(f"{batch} is not deployed, so it cannot be cleaned up. Run `unlearn request run {request}` first.")
        forget_statistics(output, requests)
        now_retired = _resolve(retired, plan)
        suppress(plan, requests, suppression, key)
        closing = bool(now_retired) or requests[0].state == "purged"
        before = {weights for step in requests[0].steps for weights in step.details.get("retired", ())}
        earlier = (requests[0].latest("purged") or {"residual": []})["residual"]
        left = clean(
            ledger,
            folder,
            plan,
            key,
            retired={*before, *now_retired},
            remove=how.remove,
            closing=closing,
            rewrite_data=how.rewrite_data,
            reasons={**reasons_of(earlier), **(how.reasons or {})},
        )
        left = carried_over(earlier, left, [*plan.roots, str(folder.parent)])
        if not left.unexplained:
            said = ("place", "kind", "reason", "requests")
            residual = [{name: copy[name] for name in said if name in copy} for copy in left.residual]
            facts = {"residual": residual, "removed": dict(left.removed), "retired": now_retired}
            facts |= {"removed_for": dict(left.removed_for)} if len(requests) > 1 else {}
            ledger.advance_all(plan.requests, "purged", batch=batch, plan=digest, **facts)
    return left


def forget_statistics(output: Path, requests: Sequence[Request]) -> None:
    """Remove statistics of single records, which only audits need, also those of plans that were replaced."""
    for batch in {str(step.details["batch"]) for request in requests for step in request.steps if step.state == "planned"}:
        shutil.rmtree(output / batch / CACHE, ignore_errors=True)


def _resolve(retired: Sequence[str], plan: Plan) -> list[str]:
    """Return the full digests of the weights that are named as retired."""
    found = []
    for given in retired:
        path = str(Path(given).resolve())
        matching = [
            model.weights
            for model in plan.models
            if model.folder == path or (len(given) >= SHORTEST_DIGEST and model.weights.startswith(given))
        ]
        if len(matching) != 1:
            named = ", ".join(f"{model.weights[:16]} ({model.name})" for model in plan.models)
            raise InputError(f"--retired {given} does not name exactly one replaced model. Replaced were: {named}.")
        found += matching
    return found
