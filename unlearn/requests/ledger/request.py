"""A deletion request: what is recorded of a new one, and what its events say of a known one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from unlearn.requests.ledger.deadlines import Deadlines, Regime, deadlines
from unlearn.requests.ledger.states import REFUSALS, State, outcome
from unlearn.scan.spellings import TOKENS_FORM
from verify.data.canonical import FORM_VERSION
from verify.errors import InputError
from verify.schema.deletion_record import CONFIRMED, EXTENDED, NOTES, TOKENS


@dataclass(frozen=True)
class NewRequest:
    """A new request; no field identifies the person without the record key.

    Attributes:
        subjects: keyed hashes of the given identifiers.
        regime: the law whose deadlines apply.
        received: the day of receipt.
        country: ISO 3166 code of the country whose public holidays count, or None.
        source: "command line", "csv", "opendsr", or "http:" followed by the name of the caller.
        external_id: the random identifier that the sender gave the request (OpenDSR's `subject_request_id`), or None.
        likenesses: tokens of similar spellings of the identifiers (`unlearn.scan.spellings.likenesses`).
        identifier_form: version of the canonical form of which `subjects` are hashes (`verify.data.canonical.FORM_VERSION`).
        tokens_form: version of what `likenesses` are (`unlearn.scan.spellings.TOKENS_FORM`).
        language: code of the language in which the person is written to, or None.
        body: keyed hash of the request as it was sent over HTTP, by which it is recognized when it is sent again; else None.
        callbacks: addresses that are notified when the status changes; they are not part of the chain.
    """

    subjects: tuple[str, ...]
    regime: Regime
    received: date
    country: str | None = None
    source: str = "command line"
    external_id: str | None = None
    likenesses: tuple[str, ...] = ()
    identifier_form: int = FORM_VERSION
    tokens_form: int = TOKENS_FORM
    language: str | None = None
    body: str | None = None
    callbacks: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what the ledger records of it; language and body only where there are any."""
        found = {**asdict(self), "received": self.received.isoformat()}
        del found["callbacks"]
        return {name: value for name, value in found.items() if value is not None or name not in ("language", "body")}


@dataclass(frozen=True)
class Step:
    """One event of a request.

    Attributes:
        sequence: number in the whole ledger, from 1.
        state: the state it led to, or a note that is not a state (`verify.schema.deletion_record.NOTES`).
        at: time in UTC, ISO 8601.
        details: facts of the step; no personal data.
    """

    sequence: int
    state: State
    at: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """A request, reconstructed from its events."""

    id: str
    steps: tuple[Step, ...]

    @property
    def state(self) -> State:
        """Return the current state."""
        return next(step.state for step in reversed(self.steps) if step.state not in NOTES)

    @property
    def last_step(self) -> int:
        """Return the number of the last event that is not a note."""
        return next(step.sequence for step in reversed(self.steps) if step.state not in NOTES)

    @property
    def first(self) -> Mapping[str, Any]:
        """Return the details of the first event."""
        return self.steps[0].details

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return keyed hashes of the identifiers."""
        return tuple(self.first["subjects"])

    @property
    def likenesses(self) -> tuple[str, ...]:
        """Return tokens of similar spellings of the identifiers; empty for requests recorded by release 0.1.0."""
        return tuple((self.latest_note(TOKENS) or self.first).get("likenesses", ()))

    @property
    def lacks_tokens(self) -> bool:
        """Return whether an earlier version made its tokens, by which fewer spellings are found than by those of this one."""
        return self.tokens_form < TOKENS_FORM

    @property
    def tokens_form(self) -> int:
        """Return the version of its tokens."""
        return int((self.latest_note(TOKENS) or self.first).get("tokens_form", 1))

    @property
    def identifier_form(self) -> int:
        """Return the version of the canonical form of which `subjects` are hashes."""
        return int(self.first.get("identifier_form", 1))

    @property
    def rejected(self) -> frozenset[str]:
        """Return keyed hashes of records with a similar identifier that an operator rejected as another person's."""
        return frozenset(name for step in self.steps for name in step.details.get("not_same", ()))

    @property
    def deadlines(self) -> Deadlines:
        """Return the statutory deadlines."""
        return deadlines(self.first["regime"], date.fromisoformat(self.first["received"]), self.first["country"])

    @property
    def extension(self) -> Mapping[str, Any] | None:
        """Return when and why the person was notified of an extension, or None."""
        return next((step.details for step in self.steps if step.state == EXTENDED), None)

    @property
    def confirmation(self) -> Mapping[str, Any] | None:
        """Return when the person was notified that the request was received, or None."""
        return next((step.details for step in self.steps if step.state == CONFIRMED), None)

    @property
    def unconfirmed_by(self) -> date | None:
        """Return the last day to confirm receipt, if the regime sets one and nobody has confirmed it; None once it is closed."""
        return None if self.confirmation is not None or self.state == "closed" else self.deadlines.confirm

    @property
    def language(self) -> str | None:
        """Return the code of the language in which the person is written to, or None."""
        return self.first.get("language")

    @property
    def due(self) -> date:
        """Return the last day to answer; an extension counts only if the person was notified in time."""
        last = self.deadlines
        return last.answer if self.extension is None or last.extended is None else last.extended

    @property
    def outcome(self) -> str | None:
        """Return how the request ended, or None while it is open."""
        return outcome(history(self.steps)) if self.state == "closed" else None

    def latest_note(self, event: str) -> Mapping[str, Any] | None:
        """Return the details of the latest note of a kind, or None."""
        return next((step.details for step in reversed(self.steps) if step.state == event), None)

    def latest(self, state: State) -> Mapping[str, Any] | None:
        """Return the details of the latest transition to a state, or None."""
        return next((step.details for step in reversed(self.steps) if step.state == state), None)


def history(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the details of steps, each with its state, as the rules of states and roles take them."""
    return [{**step.details, "state": step.state} for step in steps]


def require_extendable(request: Request, notified: date) -> None:
    """Check that a request's deadline can be extended, and that the person is notified in time.

    Raises:
        InputError: the deadline cannot be extended; the message says why.
    """
    last = request.deadlines
    if request.extension is not None:
        raise InputError(f"{request.id} was already extended, on {request.extension['told']} ({request.extension['reason']}).")
    if request.state in (*REFUSALS, "closed"):
        raise InputError(f"{request.id} is {request.state}; its deadline can no longer be extended.")
    if last.extended is None:
        raise InputError(f"{request.first['regime']}, which applies to {request.id}, allows no extension. Answer by {last.answer}.")
    if notified > last.answer:
        raise InputError(
            f"{request.id} was due on {last.answer}, and the person must be notified of an extension by that day. Answer now."
        )
