"""Audits that a request ledger opened, numbered against the controls that they use.

An audit is numbered when the ledger notes that it begins, so that its number, and the level of its accusations, is fixed before
anybody sees its result (`verify.schema.alpha_spending`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from verify.schema.parts import VerdictWord

AUDITS = "audits"
"""Fact of the event `verifying`: the audits that begin with it."""
ENDS = ("deployed", "failed", "inconclusive")
"""Events that say how the audits of a batch ended."""


@dataclass(frozen=True)
class OpenedAudit:
    """An audit that a ledger opened.

    Attributes:
        batch: of the requests that it is for.
        before: digest of the weights before the deletion.
        controls: what identifies its controls (`verify.schema.judged_by.ControlsAccount`).
        alpha, expected: level, and the number of audits that was planned for against these controls, or None.
        number: which audit against these controls it was when it was opened, from 1.
    """

    batch: str
    before: str
    controls: str
    alpha: float
    expected: int | None
    number: int


def opening(before: str, controls: str, alpha: float, expected: int | None) -> dict[str, Any]:
    """Return what a ledger notes of an audit that begins."""
    return {"before": before, "controls": controls, "alpha": alpha, "expected": expected}


def opened_audits(events: Iterable[tuple[str, str, Mapping[str, Any]]]) -> Iterator[OpenedAudit]:
    """Yield the audits that a ledger opened, in order.

    The requests of a batch have the same events, and those of one of them are read. An audit that was opened and not made, because
    its model was executed again instead, leaves its number to the next one as soon as the ledger says so.

    Args:
        events: (request, state, facts) in the ledger's order.

    Raises:
        KeyError, TypeError, ValueError: the facts of an event are not what this version writes.
    """
    speakers: dict[str, str] = {}
    counted: list[OpenedAudit] = []
    for request, state, facts in events:
        batch = str(facts.get("batch"))
        if state == "verifying" and facts.get(AUDITS) and speakers.setdefault(batch, request) == request:
            for entry in facts[AUDITS]:
                number = 1 + sum(one.controls == entry["controls"] for one in counted)
                expected = None if entry["expected"] is None else int(entry["expected"])
                audit = OpenedAudit(batch, str(entry["before"]), str(entry["controls"]), float(entry["alpha"]), expected, number)
                counted.append(audit)
                yield audit
        elif state in ENDS and speakers.get(batch) == request:
            _without_unmade(counted, batch, facts["models"])


def _without_unmade(counted: list[OpenedAudit], batch: str, models: Iterable[Mapping[str, Any]]) -> None:
    """Remove the last audit of every model of a batch that ended without the word of an audit."""
    for model in models:
        if model.get("verdict") not in get_args(VerdictWord):
            own = [one for one in counted if (one.batch, one.before) == (batch, model["before"])]
            if own:
                counted.remove(own[-1])
