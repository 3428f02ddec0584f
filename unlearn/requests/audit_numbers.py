"""Numbers of the desk's audits: which of those against the same controls each is, and which were opened and never made."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.requests.batch_folder import model_folder
from unlearn.requests.batch_state import attempt_of
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import Plan, PlannedModel
from verify.auditing.accounts import require_same_plan
from verify.certificate.opened_audits import AUDITS, NOT_MADE, OpenedAudits, not_made, opened_audits
from verify.errors import InputError
from verify.io.files import is_complete
from verify.schema.settings import Settings

SCORED = "scored-"
"""Prefix of the name of an empty file beside an audit's folder, written when its first score is read: from then on the audit
counts."""


def opened_by(requests: Sequence[Request]) -> OpenedAudits:
    """Return the audits that a ledger opened, given all of its requests."""
    return opened_audits(_events(requests))


def opened_once_noted(requests: Sequence[Request], plans: Sequence[Plan], output: Path) -> OpenedAudits:
    """Return the audits that a ledger opened, counted as they will be once some drafted plans are noted.

    Args:
        requests: all requests of the ledger.
        plans: the plans, in the order in which they will be noted.
        output: folder of the batches.
    """
    own = {request.id: request for request in requests}
    left = {plan.batch: left_by([own[name] for name in plan.requests], output) for plan in plans}
    noted = [(name, "planned", left[plan.batch]) for plan in plans for name in plan.requests]
    return opened_audits([*_events(requests), *noted])


def _events(requests: Sequence[Request]) -> list[tuple[str, str, Mapping[str, Any]]]:
    steps = [(step.sequence, request.id, step) for request in requests for step in request.steps]
    return [(name, step.state, step.details) for _, name, step in sorted(steps, key=lambda one: one[0])]


class NextAudits:
    """Numbers of the audits that plans propose, one after another, if every one of them is made in this order.

    Args:
        opened: the audits before them (`opened_once_noted`).
    """

    def __init__(self, opened: OpenedAudits) -> None:
        self._audits, self._taken = opened, Counter[str]()

    def take(self, controls: str | None) -> int | None:
        """Return how many audits against some controls come before the next one, and count that one; None without controls."""
        if controls is None:
            return None
        before = self._audits.before_next(controls) + self._taken[controls]
        self._taken[controls] += 1
        return before


def require_planned_levels(opened: OpenedAudits, controls: str | None, settings: Settings) -> None:
    """Check that earlier audits against some controls accused at the levels that an audit's account will count them with.

    Audits that were never made accused nobody at any level.

    Args:
        opened: the audits that the ledger opened.
        controls: what identifies the controls of the audit; None without controls.
        settings: settings of the audit.

    Raises:
        InputError: one had another alpha or planned number.
    """
    same = [one for one in opened.counted if one.controls == controls]
    require_same_plan(((one.alpha, one.expected) for one in same), settings)


def noting_scores(audited: Path, done: Callable[[float], None]) -> Callable[[str, float], None]:
    """Return the progress callback of an audit that first marks that scores were read.

    Args:
        audited: the audit's folder.
        done: called with the share that is done.
    """

    def progress(_: str, share: float) -> None:
        if share > 0:
            audited.with_name(SCORED + audited.name).touch(mode=0o600)
        done(share)

    return progress


def was_scored(audited: Path) -> bool:
    """Return whether an audit was made, or was broken off after a score had been read."""
    return is_complete(audited, "audit") or audited.with_name(SCORED + audited.name).exists()


def left_by(requests: Sequence[Request], output: Path) -> dict[str, Any]:
    """Return, as a fact of a new plan, which audits of its requests stopped before a score was read; empty without any.

    Args:
        requests: the requests that are planned again.
        output: folder of the batches. An audit about which they do not say enough counts as made.
    """
    found = [entry for request in requests for entry in _left_by(request, output)]
    return {NOT_MADE: found} if found else {}


def _left_by(request: Request, output: Path) -> list[dict[str, Any]]:
    begun, planned = request.latest("verifying") or {}, request.latest("planned") or {}
    if request.state != "verifying" or not begun.get(AUDITS):
        return []
    folder = output / str(planned["batch"])
    try:
        plan = Plan.load(folder, str(planned["plan"]))
    except InputError:
        return []
    opened = {str(entry["before"]) for entry in begun[AUDITS]}
    left = [model for model in plan.models if model.weights in opened and not _any_scored(folder, plan, model, request)]
    return [not_made(plan.batch, model.weights) for model in left]


def _any_scored(folder: Path, plan: Plan, model: PlannedModel, request: Request) -> bool:
    """Return whether any audit of a model's current attempt, against whichever references, read a score."""
    inside, attempt = model_folder(folder, plan, model), attempt_of(request, plan, model)
    return any(was_scored(inside / path.name.removeprefix(SCORED)) for path in inside.glob(f"*audit-{attempt}-*"))
