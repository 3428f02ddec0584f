"""Audits that a request ledger opened, numbered against the controls that they use.

An audit is numbered when the ledger notes that it begins, so that its number, and the level of its accusations, is fixed before
anybody sees its result (`verify.schema.alpha_spending`). From then on it counts, whatever becomes of it: one that was broken off
may have been looked at. Only where the ledger notes that it was never made, no score having been read, does it leave its number to
the next: a re-execution decided in its place, or it stopped at a check and the request was planned again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from verify.schema.parts import VerdictWord

AUDITS = "audits"
"""Fact of the event `verifying`: the audits that begin with it."""
NOT_MADE = "audits_not_made"
"""Fact of a later event: the opened audits of which no score was read, as `not_made` describes them."""
ENDS = ("deployed", "failed", "inconclusive")
"""Events that say how the audits of a batch ended."""


@dataclass(frozen=True)
class OpenedAudit:
    """An audit that a ledger opened.

    Attributes:
        batch: batch of the requests that it is for.
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


@dataclass(frozen=True)
class OpenedAudits:
    """The audits that a ledger opened.

    Attributes:
        opened: all of them, in order.
        counted: those that were made or may have been, in order; the others left their numbers to later ones.
    """

    opened: tuple[OpenedAudit, ...]
    counted: tuple[OpenedAudit, ...]

    def before_next(self, controls: str) -> int:
        """Return how many audits against these controls the next one comes after."""
        return sum(one.controls == controls for one in self.counted)

    def last(self, batch: str | None, before: str) -> OpenedAudit | None:
        """Return the last audit of a batch's model that was made or may have been; None without one."""
        return next((one for one in reversed(self.counted) if (one.batch, one.before) == (batch, before)), None)


def opening(before: str, controls: str, alpha: float, expected: int | None) -> dict[str, Any]:
    """Return what a ledger notes of an audit that begins."""
    return {"before": before, "controls": controls, "alpha": alpha, "expected": expected}


def not_made(batch: str, before: str) -> dict[str, Any]:
    """Return what a ledger notes of the last audit that it opened of a batch's model, where no score of it was read."""
    return {"batch": batch, "before": before}


def opened_audits(events: Iterable[tuple[str, str, Mapping[str, Any]]]) -> OpenedAudits:
    """Read the audits that a ledger opened.

    The requests of a batch have the same events, and those of one of them are read.

    Args:
        events: (request, state, facts) in the ledger's order.

    Raises:
        KeyError, TypeError, ValueError: the facts of an event are not what this version writes.
    """
    count = _Count()
    for request, state, facts in events:
        batch = str(facts.get("batch"))
        if state == "verifying" and facts.get(AUDITS) and count.speakers.setdefault(batch, request) == request:
            for entry in facts[AUDITS]:
                count.open(batch, entry)
        if NOT_MADE in facts:
            for entry in facts[NOT_MADE]:
                if count.speakers.get(str(entry["batch"])) == request:
                    count.leave(str(entry["batch"]), str(entry["before"]))
        if state in ENDS and count.speakers.get(batch) == request:
            # What the ledger does not name was made; one without the fact says it by the words of the models.
            unsaid = () if NOT_MADE in facts else _without_word(facts["models"])
            count.end(batch, unsaid)
    return OpenedAudits(tuple(count.opened), tuple(one for place, one in enumerate(count.opened) if place not in count.left))


@dataclass
class _Count:
    """The state of the count.

    Attributes:
        speakers: the request of each batch whose events are read.
        opened: all audits so far.
        left: places of those that left their number to a later one.
        unended: places of those whose end the ledger has not noted.
    """

    speakers: dict[str, str] = field(default_factory=dict)
    opened: list[OpenedAudit] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    unended: set[int] = field(default_factory=set)

    def open(self, batch: str, entry: Mapping[str, Any]) -> None:
        """Number an audit."""
        controls, expected = str(entry["controls"]), None if entry["expected"] is None else int(entry["expected"])
        number = 1 + sum(one.controls == controls for place, one in enumerate(self.opened) if place not in self.left)
        self.unended.add(len(self.opened))
        self.opened.append(OpenedAudit(batch, str(entry["before"]), controls, float(entry["alpha"]), expected, number))

    def leave(self, batch: str, before: str) -> None:
        """Free the number of a model's last audit, unless the ledger has noted its end."""
        own = [place for place in sorted(self.unended) if (self.opened[place].batch, self.opened[place].before) == (batch, before)]
        self.left |= set(own[-1:])
        self.unended -= set(own[-1:])

    def end(self, batch: str, unmade: Iterable[str]) -> None:
        """Note that a batch's audits ended, except those of some models, whose numbers become free."""
        for before in unmade:
            self.leave(batch, before)
        self.unended -= {place for place in self.unended if self.opened[place].batch == batch}


def _without_word(models: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the models, by their weights before, whose batch ended without the word of an audit about them."""
    yield from (str(model["before"]) for model in models if model.get("verdict") not in get_args(VerdictWord))
