"""Where requests and batches stand, by the ledger: the last plan of a request, a model's current attempt, what was replaced."""

from collections.abc import Sequence

from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import Plan, PlannedModel
from verify.errors import InputError

PLANNABLE = ("identity_verified", "matched", "planned", "unlearning", "verifying", "failed", "inconclusive")
"""States in which a request can be planned."""


def batch_of(ledger: Ledger, request: str) -> tuple[str, str]:
    """Return the batch in which a request was last planned, and the digest of its plan.

    Raises:
        InputError: the request was never planned.
    """
    planned = ledger.request(request).latest("planned")
    if planned is None:
        raise InputError(f"{request} has not been planned. Run `unlearn request plan` first.")
    return str(planned["batch"]), str(planned["plan"])


def planned_in(request: Request) -> str | None:
    """Return the batch in which a request was last planned, or None."""
    return (request.latest("planned") or {}).get("batch")


def attempt_of(request: Request, plan: Plan, model: PlannedModel) -> int:
    """Return the index of a model's current candidate method: the number of times that the batch has failed for it."""
    return attempt_by_ledger(request, plan.batch, model.weights)


def attempt_by_ledger(request: Request, batch: str, weights: str) -> int:
    """Return the same as `attempt_of` for the model of these weights, without the plan."""
    failures = [step.details for step in request.steps if step.state == "failed" and step.details.get("batch") == batch]
    return sum(weights == entry["before"] for details in failures if not details["final"] for entry in details["models"])


def planned_weights(request: Request, digest: str) -> list[str]:
    """Return the weights of the models of a plan in its order, which is that of their folders, as the ledger has them."""
    plans = (step.details for step in request.steps if step.state == "planned" and step.details.get("plan") == digest)
    return [str(model["weights"]) for model in next(plans, {"models": []})["models"]]


def replaced_weights(requests: Sequence[Request]) -> set[str]:
    """Return digests of the weights that verified deletions have replaced, given all requests of a ledger."""
    steps = [step for request in requests for step in request.steps if step.state == "deployed"]
    return {str(model["before"]) for step in steps for model in step.details["models"]}


def require_not_replaced(requests: Sequence[Request], model: PlannedModel) -> None:
    """Check that no verified deletion has put other weights in a model's place: the old ones still hold what that one removed.

    Args:
        requests: all requests of the ledger.
        model: the model that is to be replaced.

    Raises:
        InputError: a verified deletion has replaced the weights.
    """
    if model.weights in replaced_weights(requests):
        raise InputError(
            f"{model.name} was replaced by the result of an earlier deletion. Run `unlearn request plan` on the new weights: name "
            "their folder with --models and, if several models saw the records, with --in-service."
        )
