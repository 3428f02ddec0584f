"""The deletion record: the operator's facts about a batch of requests, which a certificate signs and a report prints.

It holds what EDPB Opinion 28/2024 and the CCPA's record rule (11 CCR 7101) ask for: what was requested and when, where the data
was, by which method, code and configuration it was removed, what is left, and the outcome. It names no person and no record:
requests carry random ids; records and locations appear as keyed hashes or counts.
"""

from datetime import date
from typing import Any, ClassVar, Literal

from pydantic import Field

from verify.io.documents import Document, Frozen
from verify.schema.parts import Tier, VerdictWord

CERTIFYING = "EQUIVALENT_WITHIN"
UNDECIDED = ("INCONCLUSIVE", "NOT_TESTABLE")
EXACT_REBUILD = "exact rebuild"
"""Basis of a model that went into service by the operator's decision: rebuilt without the records, audit inconclusive."""

EXTENDED = "extended"
"""Event: the person was notified of an extension. It does not change the request's state."""

Outcome = Literal["deleted", "denied", "exempt", "not_found", "withdrawn", "open"]


class Event(Frozen):
    """One step of a request's life.

    Attributes:
        state: the state reached, or "extended".
        at: time, ISO 8601; the day counts in the operator's time zone, as the day of receipt does.
    """

    state: str
    at: str

    @property
    def day(self) -> date:
        """The day of the event, in the operator's time zone."""
        return date.fromisoformat(self.at[:10])


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
        reason: reason for a refusal, as given to the person; None otherwise.
        events: the steps, in order.
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

    @property
    def due(self) -> date:
        """Last day to answer; an extension counts if the person was notified by `answer_by` (GDPR Article 12(3))."""
        notified = any(event.state == EXTENDED and event.day <= self.answer_by for event in self.events)
        return self.extended_to if notified and self.extended_to is not None else self.answer_by


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
        verdict: of the audit.
        verdict_phrase: the verdict with its parameters.
        tested_by: the tiers by which the audit could accuse.
        basis: why it went into service: its audit or, where that was inconclusive, an exact rebuild without the records.
        audit_digest: SHA-256 of the audit's evidence.json.
        rungs: methods that were attempted before, with the reasons why they were not used, in words.
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
    verdict: VerdictWord
    verdict_phrase: str
    tested_by: tuple[Tier, ...]
    basis: Literal["audit", "exact rebuild"] = "audit"
    audit_digest: str
    rungs: tuple[str, ...] = ()


class ResidualCopy(Frozen):
    """A copy of deleted data, or a model that saw it, that was not removed.

    Attributes:
        place: path relative to the folder that was searched; a keyed hash where the name itself would identify somebody.
        kind: what it is: checkpoint, export, log, database, ...
        reason: why it may stay, in words; never empty.
    """

    place: str
    kind: str
    reason: str = Field(min_length=1)


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
