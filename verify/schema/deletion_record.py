"""What was done about a deletion request, as the operator states it: the facts that a certificate signs and a report prints.

EDPB Opinion 28/2024 and the CCPA's record rule (11 CCR 7101) ask for what is here: what was asked and when, where the data was,
by which method, code and configuration it was removed, what is left, and what came out. Nothing in it names a person or a record:
requests carry random ids, records and places keyed hashes or counts.
"""

from datetime import date
from typing import Any, ClassVar, Literal

from pydantic import Field

from verify.io.documents import Document, Frozen
from verify.schema.parts import Tier, VerdictWord

CERTIFYING = "EQUIVALENT_WITHIN"
UNDECIDED = ("INCONCLUSIVE", "NOT_TESTABLE")
EXACT_REBUILD = "exact rebuild"
"""What a model goes into service on, by the operator's decision, where it was made without the records and no audit objects."""

EXTENDED = "extended"
"""The event that says that the person was told of an extension; it leads to no state."""

Outcome = Literal["deleted", "denied", "exempt", "not_found", "withdrawn", "open"]


class Event(Frozen):
    """One step of a request's life.

    Attributes:
        state: the state it came to, or "extended".
        at: when, ISO 8601; its day is the operator's, as that of receipt is.
    """

    state: str
    at: str

    @property
    def day(self) -> date:
        """The day of it, where the operator is."""
        return date.fromisoformat(self.at[:10])


class RequestFacts(Frozen):
    """What was asked and when it had to be answered.

    Attributes:
        id: random; says nothing about the person.
        received: day of receipt.
        regime: whose rules apply: gdpr, ccpa or drop.
        confirm_by, answer_by: last days, inclusive; None where the regime sets none.
        extended_to: the last day after an extension. It counts where an event says that the person was told in time (`due`).
        source: how it came in.
        identifiers: how many identifiers were given.
        outcome: how it ended, or "open".
        reason: of a refusal, as the person is told; None else.
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
        """The last day to answer; an extension that the person was not told of by `answer_by` is none (GDPR Article 12(3))."""
        told = any(event.state == EXTENDED and event.day <= self.answer_by for event in self.events)
        return self.extended_to if told and self.extended_to is not None else self.answer_by


class DataPlace(Frozen):
    """A training file that held records of the request.

    Attributes:
        file: its name, without the folders.
        digest: SHA-256 of the file as it was searched.
        records: how many of its rows were matched.
        near_duplicates: how many of these are near-duplicates that a human confirmed.
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
        exactness: in which sense an exact rebuild is exact; None for an approximate method.
        facts: what else the method reports.
        seconds: how long it took.
        share_of_retraining: cost in retrainings, by tokens; None where it is not known.
        verdict: of the audit.
        verdict_phrase: the same with its parameters.
        tested_by: what the audit could accuse by.
        basis: what it went into service on: its audit, or, where the audit left it open, that it was rebuilt without the records.
        audit_digest: SHA-256 of the audit's evidence.json.
        rungs: methods that were tried before, with why they were left, in words.
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
    """A copy of deleted data, or a model that saw it, that stays.

    Attributes:
        place: where, relative to the folder that was searched; a keyed hash where the name itself would tell.
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
        requests: the requests it answers.
        data: where their records were.
        records: how many distinct records were removed.
        models: the models that were replaced.
        removed: how many files the cleaning removed, by kind.
        residual: what stays, each with its reason.
        retired: weight digests of the old models that are out of service.
        registration: SHA-256 of the audit's registration, made before unlearning; None where there is none.
        ledger_head: digest of the ledger's last event when this was made.
        environment: versions of code and libraries.
        limits: what this does not show, one plain sentence each.
    """

    called: ClassVar[str] = "deletion record of this version (unlearn-verify/deletion/1)"
    remedy: ClassVar[str] = "Only what the schema names may stand in it: no text, no name, no identifier. Make it again."

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
