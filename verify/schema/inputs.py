"""What an audit was given, as its evidence describes it: models, sets, registration, rewordings, and checks of references."""

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from verify.io.documents import Frozen
from verify.schema.differences import ReferenceDifference
from verify.schema.parts import Digest, ModelRole, RecordHash, SetRole

CLOCKS = timedelta(hours=1)
"""Time by which the clocks of hosts that work for the same signers may lie apart, so that what was written later bears an earlier
time."""


class AuditedModel(Frozen):
    """One model that was scored.

    Attributes:
        label, role: its place in the audit.
        name: name of its folder or file.
        weights: digest of its weights; for a GGUF file, of the dequantized weights.
        tokenizer: digest of its tokenizer.
        dtype: precision in which it was scored.
        file: digest of the GGUF file that it was read from; None for a model from a folder or in memory.
        configuration: digest of the configuration that decides what the weights compute: the same weights with another one are
            another model. None in evidence of older versions.
    """

    label: str
    role: ModelRole
    name: str
    weights: Digest
    tokenizer: Digest
    dtype: str
    file: Digest | None = None
    configuration: Digest | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does not apply: evidence of earlier versions is written as it was read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in ("file", "configuration") or value is not None}


class ConfigurationDifference(Frozen):
    """An entry of a model's configuration that differs from the original's.

    Attributes:
        label: "target", "reference 1", ...
        entry: its dotted name, such as `rope_parameters.rope_theta`; "dtype" for the precision of the weights.
        value, original: its values in this model and in the original, as JSON.
    """

    label: str
    entry: str
    value: str
    original: str


class AuditedSet(Frozen):
    """One set of records: its size, and a digest over the keyed hashes that identifies exactly this set."""

    role: SetRole
    records: int = Field(ge=1)
    scored_tokens: int = Field(ge=1)
    digest: Digest


class Registered(Frozen):
    """The registration under which an audit was made.

    Attributes:
        digest: SHA-256 of the registration file's canonical content.
        created: time of writing, by the writer's clock.
    """

    digest: Digest
    created: str


class AcceptedDifference(Frozen):
    """A difference of a reference that was found, and that the auditor accepted as intended."""

    kind: ReferenceDifference
    what: str


class ReferenceExecution(Frozen):
    """Outcome of executing a reference's training again, from the base on and without the forget records.

    Attributes:
        phrase: the outcome as printed, such as REBUILT_WITHOUT(all of 6).
        proof: SHA-256 of the proof's file.
        segments, executed: parts of its training, and how many of them were executed again.
    """

    phrase: str
    proof: Digest
    segments: int = Field(ge=1)
    executed: int = Field(ge=1)


class ReferenceCheck(Frozen):
    """What the training log and manifest of a reference showed.

    Attributes:
        label: "reference 1", ...
        compared: what its log and manifest were checked for.
        not_compared: what could not be checked, and why, one sentence each. Whoever supplied the models vouches for that.
        accepted: differences that were found and accepted.
        log: SHA-256 of the training log that was read; None where there was none.
        execution: outcome of executing its training again; None where that was not done.
    """

    label: str
    compared: tuple[ReferenceDifference, ...]
    not_compared: tuple[str, ...]
    accepted: tuple[AcceptedDifference, ...] = ()
    log: Digest | None = None
    execution: ReferenceExecution | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does not apply: evidence of earlier versions is written as it was read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name != "execution" or value is not None}

    @property
    def checked(self) -> bool:
        """Whether its log was checked for forget records."""
        return "forget" in self.compared


class HoldoutCheck(Frozen):
    """Whether the unlearning read the audit's holdout records, by the target's manifest.

    Attributes:
        records: holdout records of the audit.
        used: how many of them the unlearning read; None where the manifest does not say.
        method: the method that read them; None where none were read.
        reason: why it is unknown; None where it is known.
    """

    records: int = Field(ge=1)
    used: int | None = Field(default=None, ge=0)
    method: str | None = None
    reason: str | None = None


class RewordingsUsed(Frozen):
    """Where an audit's rewordings came from. Their texts are nowhere in the evidence.

    Attributes:
        source: who worded them: the auditor, record by record or by templates, or a local model.
        count: rewordings of each record.
        digest: keyed hash of the rewordings of every record.
        committed: whether the registration held a commitment to them, which they open; False where they were chosen after the
            unlearning, or nobody can tell.
        model: digest of the weights of the model that worded them, if one did.
    """

    source: Literal["records", "templates", "model"]
    count: int = Field(ge=1)
    digest: RecordHash
    committed: bool
    model: Digest | None = None

    @property
    def said(self) -> str:
        """One sentence about them, for the report."""
        by = {"records": "by the auditor", "templates": "by the auditor's templates", "model": "by a local model"}[self.source]
        number = "once" if self.count == 1 else f"in {self.count} ways"
        when = (
            "the wordings had been committed to before the unlearning, and the commitment was opened"
            if self.committed
            else "the wordings were chosen after the unlearning, as far as anybody can tell: no registration commits to them"
        )
        return f"Each record was put into other words {number}, {by}; {when}."
