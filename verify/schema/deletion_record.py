"""The deletion record: the operator's facts about a batch of requests, which a certificate signs and a report prints.

It holds what EDPB Opinion 28/2024 and the CCPA's record rule (11 CCR 7101) ask for: what was requested and when, where the data
was, by which method, code and configuration it was removed, what is left, and the outcome. It names no person and no record:
requests carry random ids; records and locations appear as keyed hashes or counts.
"""

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from verify.io.documents import Document, Frozen
from verify.io.files import file_digest
from verify.schema.moments import day_in, read_time
from verify.schema.parts import Digest, Tier, VerdictWord
from verify.schema.reexecution import Kind, Reexecution, ReexecutionWord

CERTIFYING = "EQUIVALENT_WITHIN"
UNDECIDED = ("INCONCLUSIVE", "NOT_TESTABLE")
EXACT_REBUILD = "exact rebuild"
"""Basis of a model that went into service by the operator's decision: rebuilt without the records, audit inconclusive."""

REEXECUTED = "re-execution"
"""Basis of a model that went into service because its training without the records was executed again, bit for bit."""

EXTENDED = "extended"
"""Event: the person was notified of an extension. It does not change the request's state."""

CONFIRMED = "receipt_confirmed"
"""Event: the person was notified that the request was received (11 CCR 7021). It does not change the request's state."""

RECIPIENTS = "recipients"
"""Event: what is known of those to whom the data were passed on. It does not change the request's state."""

TOKENS = "search_tokens"
"""Event: the tokens by which similar spellings are searched for were recorded again. It does not change the request's state."""

NOTES = (EXTENDED, CONFIRMED, RECIPIENTS, TOKENS)
"""Events that are not states."""

RecipientKind = Literal["processor", "recipient", "fine-tune", "vector-store", "prompt-log", "other"]
PARTIES: tuple[RecipientKind, ...] = ("processor", "recipient", "fine-tune")
"""Kinds that are somebody else: who processes for the controller, who received the data, who trained on from our weights. The other
kinds are places of the controller's own."""

Outcome = Literal["deleted", "denied", "exempt", "not_found", "withdrawn", "open"]


class Event(Frozen):
    """One step of a request's life.

    Attributes:
        state: the state reached, or one of `NOTES`.
        at: time, ISO 8601; the day counts in the operator's time zone, as the day of receipt does.
    """

    state: str
    at: str

    @property
    def day(self) -> date:
        """The day of the event, in the operator's time zone."""
        return date.fromisoformat(self.at[:10])


class Recipient(Frozen):
    """Somebody to whom the data were passed on, or a further place that holds them; without its name.

    Attributes:
        kind: what it is.
        due: the last day by which deletion is to be confirmed there.
        told: the day on which it was notified to delete; None before.
        confirmed: the day on which deletion there was confirmed; None before.
        evidence: SHA-256 of the confirmation; None without one.
        unreachable: telling it is impossible or takes a disproportionate effort (GDPR Article 19).
    """

    kind: RecipientKind
    due: date
    told: date | None = None
    confirmed: date | None = None
    evidence: Digest | None = None
    unreachable: bool = False

    @property
    def open(self) -> bool:
        """Whether it still has to be notified or has not confirmed."""
        return self.confirmed is None and not self.unreachable


class RequestFacts(Frozen):
    """What was requested and by when it had to be answered.

    Attributes:
        id: random; says nothing about the person.
        received: day of receipt.
        regime: which rules apply: gdpr, ccpa or drop.
        confirm_by, answer_by: last days, inclusive; None where the regime sets none.
        extended_to: last day after an extension. It counts only if an event says that the person was notified in time (`due`).
        source: how it came in.
        identifiers: number of identifiers given.
        outcome: how it ended, or "open".
        reason: reason for a refusal, as given to the person; else None.
        events: the steps, in order.
        language: code of the language in which the person is written to; None where none was noted.
        records: number of records about this person that were deleted, in all training files; None in records of earlier versions
            and where nothing was deleted.
        recipients: those to whom the data were passed on, and further places; None where nothing was stated.
        nobody: whether the operator states that the data were passed on to nobody, where `recipients` has further places alone;
            None in other cases and in records of earlier versions.
        removed: number of copies that the cleanup removed and that held data of this person, by kind; noted only where several
            requests were answered together, and for copies of which it is known whose data they held.
        near_left: number of rows that are nearly one of this person's records and were left in the training data by decision; None
            in records of earlier versions and where nothing was deleted.
    """

    id: str
    received: date
    regime: str
    confirm_by: date | None
    answer_by: date
    extended_to: date | None
    source: str
    identifiers: int = Field(ge=0)
    outcome: Outcome
    reason: str | None = None
    events: tuple[Event, ...]
    language: str | None = None
    records: int | None = Field(default=None, ge=0)
    recipients: tuple[Recipient, ...] | None = None
    nobody: bool | None = None
    removed: dict[str, int] | None = None
    near_left: int | None = Field(default=None, ge=0)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not noted: records of earlier versions are written as they were read."""
        content: dict[str, Any] = handler(self)
        later = ("language", "records", "recipients", "nobody", "removed", "near_left")
        return {name: value for name, value in content.items() if name not in later or value is not None}

    @property
    def due(self) -> date:
        """Last day to answer; an extension counts if the person was notified by `answer_by` (GDPR Article 12(3))."""
        notified = any(event.state == EXTENDED and event.day <= self.answer_by for event in self.events)
        return self.extended_to if notified and self.extended_to is not None else self.answer_by

    def is_after(self, moment: datetime) -> bool:
        """Return whether the request came in, and was recorded, later than a moment with a time zone.

        The day of receipt has no hour: on that day the time of recording decides. It did not come later than a moment whose day is
        outside the calendar where it was recorded.
        """
        recorded = read_time(self.events[0].at) if self.events else None
        if recorded is None or recorded.tzinfo is None or moment.tzinfo is None:
            return moment.date() < self.received
        day = day_in(recorded.tzinfo, moment)
        return day is not None and moment < recorded and day <= self.received


class DataPlace(Frozen):
    """A training file that held records of the request.

    Attributes:
        file: its name, without folders.
        digest: SHA-256 of the file as it was searched.
        records: number of matching rows.
        near_duplicates: how many of these are near-duplicates confirmed by a person.
    """

    file: str
    digest: str
    records: int = Field(ge=0)
    near_duplicates: int = Field(default=0, ge=0)


class ReexecutedModel(Frozen):
    """Outcome of the re-execution of a replaced model's training, as its proof states it.

    Attributes:
        word: the outcome.
        phrase: the outcome with its counts, as printed.
        kind: what was executed.
        proof: SHA-256 of the proof's file.
        forget: number of forget records that it was made for.
        segments, executed: segments that the deletion executed, and how many of them were executed again.
        root: root of the training's logs before the deletion; None where there was no earlier log.
        committed: when the commitment was written, by its own clock; None without one.
    """

    word: ReexecutionWord
    phrase: str
    kind: Kind
    proof: Digest
    forget: int = Field(ge=1)
    segments: int = Field(ge=0)
    executed: int = Field(ge=0)
    root: Digest | None = None
    committed: str | None = None

    @classmethod
    def of(cls, proof: str | Path) -> Self:
        """Summarise a proof's file.

        Raises:
            InputError: the file is not a proof of a re-execution.
        """
        found = Reexecution.load(proof)
        return cls(
            word=found.word,
            phrase=found.phrase,
            kind=found.kind,
            proof=file_digest(proof),
            forget=found.forget,
            segments=found.segments,
            executed=len(found.executed),
            root=found.root,
            committed=found.committed,
        )

    def objection(self, requests: "Iterable[RequestFacts]") -> str | None:
        """Return why this outcome alone does not put the model into service; None where it does.

        The order of the records is the operator's to choose unless it was fixed beforehand: by a log whose commitment is older than
        the requests or, in a training of its own, by its seed.

        Args:
            requests: the batch's requests; those that ended without a deletion do not count.
        """
        if self.word != "REBUILT_WITHOUT":
            return f"executing its training again ended as {self.word}"
        if self.kind == "own schedule":
            return None
        if self.committed is None:
            return "no commitment to its training from before the request was given"
        since = read_time(self.committed)
        if since is None:
            return "the commitment to its training bears no date"
        if any(one.outcome in ("deleted", "open") and not one.is_after(since) for one in requests):
            return f"the commitment to its training is of {self.committed}, which is not before the request"
        return None


class ReplacedModel(Frozen):
    """A model in service that was replaced.

    Attributes:
        name: the folder's name.
        before, after: weight digests (SHA-256).
        method: what made the new weights from the old.
        parameters, options: its configuration, seeds included.
        exactness: what "exact" means for an exact rebuild; None for an approximate method.
        facts: what else the method reports.
        seconds: duration.
        share_of_retraining: cost as a fraction of a retraining, by tokens; None where unknown.
        verdict: verdict of the audit; None where there was none.
        verdict_phrase: the verdict with its parameters; None without an audit.
        tested_by: the tiers by which the audit could accuse.
        basis: why it went into service: its audit; an exact rebuild without the records, by the operator's decision, where the
            audit was inconclusive; or a re-execution of that rebuild.
        audit_digest: SHA-256 of the audit's evidence.json; None without an audit.
        rungs: methods that were attempted before, with the reasons why they were not used, in words.
        reexecution: outcome of executing its training again; None where that was not done.
        requests: ids of the requests whose records the old weights had learned from; noted only where several requests were
            answered together.
    """

    name: str
    before: str
    after: str
    method: str
    parameters: dict[str, Any]
    options: dict[str, Any]
    exactness: str | None
    facts: dict[str, Any]
    seconds: float = Field(ge=0)
    share_of_retraining: float | None = Field(default=None, ge=0)
    verdict: VerdictWord | None = None
    verdict_phrase: str | None = None
    tested_by: tuple[Tier, ...] = ()
    basis: Literal["audit", "exact rebuild", "re-execution"] = "audit"
    audit_digest: str | None = None
    rungs: tuple[str, ...] = ()
    reexecution: ReexecutedModel | None = None
    requests: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _examined(self) -> Self:
        """Require the facts of an audit together, and an audit or a re-execution."""
        audit = (self.verdict, self.verdict_phrase, self.audit_digest)
        if any(fact is None for fact in audit) and any(fact is not None for fact in (*audit, *self.tested_by)):
            raise ValueError("verdict, verdict_phrase and audit_digest belong together")
        if self.verdict is None and self.reexecution is None:
            raise ValueError("it has neither an audit's verdict nor a re-execution")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an audit or a re-execution that was not made: records of earlier versions are written as they were read."""
        content: dict[str, Any] = handler(self)
        absent = {name for name in ("reexecution", "requests") if getattr(self, name) is None}
        absent |= {"verdict", "verdict_phrase", "tested_by", "audit_digest"} if self.verdict is None else set()
        return {name: value for name, value in content.items() if name not in absent}


class ResidualCopy(Frozen):
    """A copy of deleted data, or a model that saw it, that was not removed.

    Attributes:
        place: path relative to the folder that was searched; a keyed hash where the name itself would identify somebody.
        kind: what it is: checkpoint, export, log, database, ...
        reason: why it may stay, in words; never empty.
        requests: ids of the requests whose data it holds; None where that is not known, and where one request was answered alone.
    """

    place: str
    kind: str
    reason: str = Field(min_length=1)
    requests: tuple[str, ...] | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not known: records of earlier versions are written as they were read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name != "requests" or value is not None}


class DeletionRecord(Document):
    """Everything the operator states about one batch of requests.

    Attributes:
        created: ISO 8601 in UTC.
        requests: the requests it covers.
        data: the training files that held their records.
        records: number of distinct records removed.
        models: the models that were replaced.
        removed: number of files that the cleanup removed, by kind.
        residual: what remains, each with its reason.
        retired: weight digests of the old models that are out of service.
        registration: SHA-256 of the audit's registration, made before unlearning; None where there is none.
        ledger_head: digest of the ledger's last event when this was written.
        environment: versions of code and libraries.
        limits: what this does not show, one plain sentence each.
    """

    called: ClassVar[str] = "deletion record of this version (unlearn-verify/deletion/1)"
    remedy: ClassVar[str] = "It may contain only the schema's fields: no text, no name, no identifier. Make it again."

    schema_: Literal["unlearn-verify/deletion/1"] = Field(default="unlearn-verify/deletion/1", alias="schema")
    created: str
    requests: tuple[RequestFacts, ...] = Field(min_length=1)
    data: tuple[DataPlace, ...]
    records: int = Field(ge=0)
    models: tuple[ReplacedModel, ...]
    removed: dict[str, int]
    residual: tuple[ResidualCopy, ...]
    retired: tuple[str, ...]
    registration: str | None
    ledger_head: str
    environment: dict[str, str]
    limits: tuple[str, ...]

    @model_validator(mode="after")
    def _dated(self) -> Self:
        """Require that every step bears a date: pages and letters say when a request ended."""
        if any(read_time(event.at) is None for request in self.requests for event in request.events):
            raise ValueError("a step of a request bears no date")
        return self
