"""Request life cycle: states, allowed transitions and their preconditions.

    received -> identity_verified -> matched -> planned -> unlearning -> verifying -> deployed -> purged -> closed

Only this path ends in a deletion. Denied, exempt, not found and withdrawn are the other endings. Failed and inconclusive batches
are retried with the next method or with more references. Until new weights are deployed nothing has changed for anybody, so up to
that point a request can still be replanned, refused or withdrawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from verify.errors import InputError
from verify.schema.deletion_record import CERTIFYING, EXACT_REBUILD, NOTES, REEXECUTED, UNDECIDED

State = Literal[
    "received",
    "identity_verified",
    "matched",
    "planned",
    "unlearning",
    "verifying",
    "deployed",
    "purged",
    "closed",
    "denied",
    "exempt",
    "not_found",
    "withdrawn",
    "failed",
    "inconclusive",
]
STATES: tuple[State, ...] = get_args(State)
REFUSALS: tuple[State, ...] = ("denied", "exempt", "not_found", "withdrawn")

NEXT: Mapping[State, tuple[State, ...]] = {
    "received": ("identity_verified", "denied", "exempt", "withdrawn"),
    "identity_verified": ("matched", "not_found", "denied", "exempt", "withdrawn"),
    "matched": ("planned", "matched", "not_found", "denied", "exempt", "withdrawn"),
    "planned": ("unlearning", "planned", "matched", "not_found", "denied", "exempt", "withdrawn"),
    "unlearning": ("verifying", "failed", "unlearning", "planned", "denied", "exempt", "withdrawn"),
    "verifying": ("deployed", "failed", "inconclusive", "planned", "denied", "exempt", "withdrawn"),
    "failed": ("planned", "denied", "exempt", "withdrawn"),
    "inconclusive": ("verifying", "planned", "denied", "exempt", "withdrawn"),
    "deployed": ("purged",),
    "purged": ("closed", "purged"),
    "denied": ("closed",),
    "exempt": ("closed",),
    "not_found": ("closed", "identity_verified"),
    "withdrawn": ("closed",),
    "closed": (),
}
"""Allowed next states. A state that may follow itself is a step repeated after a crash or with more information."""


def require_allowed(state: State, following: State, details: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Check that a transition is allowed and has all required facts.

    Args:
        state: the current state.
        following: the requested next state.
        details: facts of the step.
        history: details of all earlier steps, each with its "state" added.

    Raises:
        InputError: the message names the possible steps or the missing fact.
    """
    if details.get("batch") is not None:
        _require_last_planned(following, str(details["batch"]), history)
    if following not in NEXT[state]:
        possible = ", ".join(NEXT[state]) or "nothing: it is closed"
        raise InputError(f"a request that is {state} cannot become {following}. Possible now: {possible}.")
    if following in ("matched", "not_found") and any(step["state"] == "unlearning" for step in history):
        raise InputError(f"this request cannot become {following}: its records were fixed when its audit was registered.")
    if following in ("denied", "exempt") and not str(details.get("reason", "")).strip():
        raise InputError(f"a request becomes {following} only for a reason, which is given to the person. State it with --reason.")
    if following == "deployed":
        _require_deployable(details)
    if following == "purged" and (unexplained := _unexplained(details.get("residual", ()))):
        raise InputError(f"{unexplained} residual copies have no reason. Remove them, or state for each why it may stay.")
    if following == "closed" and state == "purged":
        _require_retired(history)


def outcome(history: Sequence[Mapping[str, Any]]) -> str:
    """Return how a closed request ended: "deleted", or its refusing state.

    Only the last state before closing counts: what was once not found may have been found and deleted since.
    """
    last = next((str(step["state"]) for step in reversed(history) if step["state"] not in ("closed", *NOTES)), "")
    return last if last in REFUSALS else "deleted"


def _require_last_planned(following: State, batch: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Check that the step belongs to the latest plan of the request; stale plans are not continued."""
    planned = [str(step["batch"]) for step in history if step["state"] == "planned" and "batch" in step]
    if planned and planned[-1] != batch and (following != "planned" or batch in planned):
        raise InputError(
            f"the plan {batch} is stale: its requests were planned again, in {planned[-1]}. This step was not recorded. "
            "`unlearn request run ID` continues with the new plan."
        )


def _require_deployable(details: Mapping[str, Any]) -> None:
    models = details.get("models") or []
    if not models:
        raise InputError("a request becomes deployed only with the models that replaced the old ones; none was named.")
    for model in models:
        verdict, word = model.get("verdict"), (model.get("reexecution") or {}).get("word")
        accepted = model.get("basis") == EXACT_REBUILD and verdict in UNDECIDED
        proven = model.get("basis") == REEXECUTED and word == "REBUILT_WITHOUT" and verdict != "NOT_FORGOTTEN"
        if verdict != CERTIFYING and not accepted and not proven:
            raise InputError(
                f"a model is deployed for this request only when its verdict is {CERTIFYING}, or its re-execution REBUILT_WITHOUT; "
                f"they are {verdict} and {word}. If an exact rebuild is {' or '.join(UNDECIDED)}, you can accept it with "
                "`run --accept-exact-rebuild`."
            )


def _unexplained(residual: Sequence[Mapping[str, Any]]) -> int:
    return sum(not str(copy.get("reason", "")).strip() for copy in residual)


def _require_retired(history: Sequence[Mapping[str, Any]]) -> None:
    """Check, before a request is closed as deleted, that every replaced model was retired."""
    replaced: set[str] = set()
    retired: set[str] = set()
    for step in history:
        retired |= set(step.get("retired", ()))
        if step["state"] == "deployed":
            replaced |= {str(model["before"]) for model in step["models"]}
    if in_service := replaced - retired:
        raise InputError(
            f"{len(in_service)} old models ({', '.join(sorted(digest[:12] for digest in in_service))}) are still in service. "
            "Take them out of service, then name them with --retired DIGEST."
        )
