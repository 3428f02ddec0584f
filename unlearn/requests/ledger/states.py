"""The request life cycle: allowed transitions and their preconditions.

    received -> identity_verified -> matched -> planned -> unlearning -> verifying -> deployed -> purged -> closed

A request ends as deleted only by that way. Denied, exempt, not found and withdrawn are endings of their own; failed and
inconclusive lead back into the way, by the next method or by more evidence. Until new weights are deployed nothing has changed for
anybody, so that up to there a request may also be planned anew, be refused, or be taken back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from verify.errors import InputError
from verify.schema.deletion_record import CERTIFYING, EXACT_REBUILD, UNDECIDED

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
"""What may follow. A state that may follow itself is a step taken again after a crash, or with more known."""


def require_allowed(state: State, following: State, details: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a transition that is not allowed or lacks required facts.

    Args:
        state: where the request is.
        following: where it shall go.
        details: facts of the step.
        history: details of all earlier steps, each with its "state".

    Raises:
        InputError: the message says which steps are possible, or which fact is missing.
    """
    if details.get("batch") is not None:
        _require_last_planned(following, str(details["batch"]), history)
    if following not in NEXT[state]:
        possible = ", ".join(NEXT[state]) or "nothing: it is closed"
        raise InputError(f"a request that is {state} cannot become {following}. Possible now: {possible}.")
    if following in ("matched", "not_found") and any(step["state"] == "unlearning" for step in history):
        raise InputError(f"a request whose records were once registered cannot become {following}: they are fixed since.")
    if following in ("denied", "exempt") and not str(details.get("reason", "")).strip():
        raise InputError(f"a request becomes {following} for a reason, which the person is told. Give it with --reason.")
    if following == "deployed":
        _require_deployable(details)
    if following == "purged" and (unexplained := _unexplained(details.get("residual", ()))):
        raise InputError(f"{unexplained} residual copies have no reason. Remove them, or say for each why it may stay.")
    if following == "closed" and state == "purged":
        _require_retired(history)


def outcome(history: Sequence[Mapping[str, Any]]) -> str:
    """Return how a closed request ended: "deleted", or the reason of refusal.

    Only the last word counts: what was not found once may have been found and deleted since.
    """
    last = next((str(step["state"]) for step in reversed(history) if step["state"] != "closed"), "")
    return last if last in REFUSALS else "deleted"


def _require_last_planned(following: State, batch: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Require a step of the latest plan: stale plans are not continued."""
    planned = [str(step["batch"]) for step in history if step["state"] == "planned" and "batch" in step]
    if planned and planned[-1] != batch and (following != "planned" or batch in planned):
        raise InputError(
            f"{batch} is not the plan of its requests any more: they were planned anew, in {planned[-1]}. Nothing of this step was "
            "noted. `unlearn request run ID` goes on with the new plan."
        )


def _require_deployable(details: Mapping[str, Any]) -> None:
    models = details.get("models") or []
    if not models:
        raise InputError("a request becomes deployed with the models that replaced the old ones; none was named.")
    for model in models:
        accepted = model.get("basis") == EXACT_REBUILD and model.get("verdict") in UNDECIDED
        if model.get("verdict") != CERTIFYING and not accepted:
            raise InputError(
                f"a model goes into service for this request only when its verdict is {CERTIFYING}; it is {model.get('verdict')}. "
                f"Where it is {' or '.join(UNDECIDED)} after an exact rebuild, `run --accept-exact-rebuild` goes by that."
            )


def _unexplained(residual: Sequence[Mapping[str, Any]]) -> int:
    return sum(not str(copy.get("reason", "")).strip() for copy in residual)


def _require_retired(history: Sequence[Mapping[str, Any]]) -> None:
    """Require, before closing as deleted, that old models are retired and every remaining copy has a reason."""
    replaced: set[str] = set()
    retired: set[str] = set()
    for step in history:
        retired |= set(step.get("retired", ()))
        if step["state"] == "deployed":
            replaced |= {str(model["before"]) for model in step["models"]}
    in_service = replaced - retired
    if in_service:
        raise InputError(
            f"{len(in_service)} old models ({', '.join(sorted(digest[:12] for digest in in_service))}) are still in service. "
            "Take them out and say so with --retired DIGEST."
        )
