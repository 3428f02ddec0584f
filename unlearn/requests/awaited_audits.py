"""Audits that noted plans will open: the first to be opened fixes the levels of all against its controls, and others are refused.

So plans against the same controls must agree on these levels from the start; else the second of them could not be run.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn.requests.batch_state import planned_in
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.states import State
from verify.auditing.accounts import planned_levels
from verify.errors import InputError
from verify.schema.settings import Settings

AWAITED = "audits_awaited"
"""Fact of the event `planned`: the audits with controls that the plan is for, as `verify.certificate.opened_audits.opening` writes
them. Earlier versions noted none."""
NOTED: tuple[State, ...] = ("planned", "unlearning")
"""States of a batch whose audits are not opened yet."""
BEGUN: tuple[State, ...] = ("unlearning",)
"""State of a batch whose audits are registered, and not opened yet."""


@dataclass(frozen=True)
class AwaitedAudit:
    """An audit that a noted plan will open.

    Attributes:
        request: id of a request of the plan.
        controls: what identifies its controls.
        alpha, expected: level, and the number of audits that is planned for against these controls, or None.
    """

    request: str
    controls: str
    alpha: float
    expected: int | None


def awaited_audits(requests: Sequence[Request], apart: Collection[str], states: Sequence[State] = NOTED) -> list[AwaitedAudit]:
    """Return the audits that a ledger's plans will open, of batches that can still be run.

    Args:
        requests: all requests of the ledger.
        apart: ids of requests whose batches do not count: they are planned again, or are the ones that are run.
        states: states of the batches that count.
    """
    return list(_awaited(requests, apart, states))


def _awaited(requests: Sequence[Request], apart: Collection[str], states: Sequence[State]) -> Iterator[AwaitedAudit]:
    stale = {
        step.details.get("batch")
        for request in requests
        for step in request.steps
        if step.state == "planned"
        and (request.id in apart or request.state not in states or step.details.get("batch") != planned_in(request))
    }
    read = set[Any]()
    for request in requests:
        for step in request.steps:
            batch = step.details.get("batch")
            if step.state != "planned" or batch in stale or batch in read or AWAITED not in step.details:
                continue
            read.add(batch)  # its other requests have the same events
            for entry in step.details[AWAITED]:
                yield AwaitedAudit(request.id, entry["controls"], entry["alpha"], entry["expected"])


def require_agreeing_plans(awaited: Sequence[AwaitedAudit], controls: str | None, settings: Settings) -> None:
    """Check that no other plan against the same controls counts with other levels than an audit's.

    Args:
        awaited: the audits of the other plans.
        controls: what identifies the controls of the audit; None without controls.
        settings: settings of the audit.

    Raises:
        InputError: one does, so that in one order, or in both, the later of the two would be refused.
    """
    own = settings.alpha, settings.expected_audits
    for other in awaited:
        levels = other.alpha, other.expected
        if other.controls != controls or levels == own or (own[1], levels[1]) == (None, None):
            continue
        said, remedy = planned_levels(*levels)
        first = f"run {other.request} first, " if own[1] is None else ""  # an audit at all of alpha may follow, and not precede
        raise InputError(
            f"the plan of {other.request}, which is not audited yet, is against the same controls with {said}: the levels of "
            f"accusations are fixed before the first audit, and the later of the two may be refused. {remedy} in `unlearn request "
            f"plan`, {first}use other controls, or plan {other.request} again with the levels of this one."
        )


def awaited_facts(audits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the ledger records of a plan's audits with controls: nothing without any."""
    return {AWAITED: [dict(audit) for audit in audits]} if audits else {}
