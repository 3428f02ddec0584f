"""Parts of evidence: values with intervals, gates, tests, claims, attack results and the numbers behind figures.

Strict and frozen: a number is finite or absent with a reason, a verdict is one of four words, and an unknown field is an error.
No field holds a record's text or raw identifier; records appear as keyed hashes.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from verify.io.documents import Frozen
from verify.schema.differences import ReferenceDifference

if TYPE_CHECKING:
    from verify.statistics.estimate import Estimate

VerdictWord = Literal["NOT_TESTABLE", "NOT_FORGOTTEN", "EQUIVALENT_WITHIN", "INCONCLUSIVE"]
"""The four verdicts, in order of precedence."""

Claim = Literal["record", "process", "attack"]
Tier = Literal[
    "retrained references",
    "level table",
    "asked otherwise",
    "shard siblings",
    "exchangeable twins",
    "canaries",
    "fresh texts",
]
"""What a verdict can rest on: Tier B on the exact texts, by retrained references or by a level table, and asked otherwise; shards
that never saw the records; Tier C (held-out controls), Tier A, and texts of the same people that no model saw."""

ModelRole = Literal["target", "original", "base", "reference"]
SetRole = Literal["forget", "retain", "holdout", "canary", "fresh"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RecordHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Value(Frozen):
    """A number with its interval, sample size, level and seed (see `verify.statistics.Estimate`)."""

    value: float
    low: float
    high: float
    n: int = Field(ge=1)
    level: float = Field(gt=0, lt=1)
    seed: int | None = None

    @classmethod
    def of(cls, estimate: "Estimate") -> Self:
        """Convert a statistic's result to the schema."""
        return cls(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            n=estimate.n,
            level=estimate.level,
            seed=estimate.seed,
        )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("the interval is reversed")
        return self

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def short(self) -> str:
        """Format the value with its interval to two digits, for table cells."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class AuditedModel(Frozen):
    """One model that was scored.

    Attributes:
        label, role: its place in the audit.
        name: of its folder or file.
        weights: digest of its weights; of a GGUF file, of the dequantized weights.
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


class Gate(Frozen):
    """Outcome of a validity check: a condition under which a claim can be judged.

    Attributes:
        name: "retrained references" or "level table", "positive control", "planted records" (rule 1) or "planted subject",
            "negative control", "negative control, asked otherwise", "innocent references", "memorized records",
            "noise of the target", "asked in every way", "all of alpha", "utility", "blind baseline", "enough controls"; by a level
            table also "table before the request", "controls of the same kind", "controls like the records", "controls unseen",
            "several subjects".
        claims: the claims it concerns.
        passed: None where the gate could not be evaluated.
        blocks: what a failure means for the verdict: "NOT_TESTABLE", "INCONCLUSIVE" (at best) or "nothing".
        reason: one plain sentence with the numbers.
        value: the number it was decided on, if any.
    """

    name: str
    claims: tuple[Claim, ...]
    passed: bool | None
    blocks: Literal["NOT_TESTABLE", "INCONCLUSIVE", "nothing"]
    reason: str
    value: Value | None = None


class Quantity(Frozen):
    """A named intermediate number of a test."""

    name: str
    value: float
    unit: str = ""


class Test(Frozen):
    """One test of the record claim: C1 and C2 certify, A1, A2 and A3 accuse.

    Attributes:
        name: "C1", "C2", "A1", "A2" or "A3".
        question: what it tests, in one sentence.
        fired: for C1 and C2, that equivalence was shown; for A1, A2 and A3, that a residual was found.
        quantities: every intermediate value, so that a reader can recompute it.
    """

    __test__ = False  # not a pytest class

    name: str
    question: str
    fired: bool
    quantities: tuple[Quantity, ...]


class RecordFinding(Frozen):
    """A record whose residual was found to exceed the margin."""

    record: RecordHash
    subject: RecordHash | None = None
    residual: float = Field(description="d_i / G: its share of the set's mean memorization that is left; below 0, over-forgotten")
    direction: Literal["remembered", "over-forgotten"]
    adjusted_p: Share


class CoinBatch(Frozen):
    """Counts of one deletion's guesses about its own canaries."""

    commitment: Digest
    guesses: int = Field(ge=1)
    correct: int = Field(ge=0)


class Process(Frozen):
    """Tier A: a test of the deletion procedure by randomly assigned canaries, without retraining.

    Attributes:
        commitment: digest that fixed the canaries and their assignments before training.
        pairs, guesses, correct: m pairs, r guesses about those with the largest score differences, v of them correct.
        accuracy: v / r with its exact interval; perfect deletion gives one half.
        remembered_p, inverted_p: exact p-values in both directions under perfect deletion.
        epsilon: lower bound at `significance` on the epsilon of (epsilon, delta)-privacy, the larger of both directions, nats.
        against_retraining: half of it, the bound by the definition "as if retrained".
        limit: epsilon*, the largest epsilon that counts as deleted, decided beforehand.
        calibrated_by: how many canary-free models were subtracted.
        original_accuracy: the same guesses on the model before deletion, after the fact: what the test can see at all.
        batches: this deletion's counts after those of earlier audits.
        log_e_value: natural logarithm of the e-value over all batches; an alarm at log(1 / alpha).
        verdict, reason: this claim's own word, and why.
    """

    commitment: Digest
    pairs: int = Field(ge=1)
    guesses: int = Field(ge=1)
    correct: int = Field(ge=0)
    accuracy: Value
    remembered_p: Share
    inverted_p: Share
    epsilon: float = Field(ge=0)
    against_retraining: float = Field(ge=0)
    delta: Share
    significance: Share
    limit: float = Field(gt=0)
    calibrated_by: int = Field(ge=0)
    original_accuracy: Value
    batches: tuple[CoinBatch, ...]
    log_e_value: float
    verdict: VerdictWord
    reason: str


class TwinFinding(Frozen):
    """A record (or a person) that differs from the never-trained controls."""

    record: RecordHash
    direction: Literal["remembered", "over-forgotten"]
    adjusted_p: Share


class Twins(Frozen):
    """Tier C: forget records against controls that were held out at random at data collection, without retraining.

    Attributes:
        records, controls: K and N.
        statistic: what was compared.
        accused: records that a Benjamini-Hochberg test over conformal p-values rejects.
        original_accused: number rejected in the model before unlearning; with none, the test has no power here.
        smallest_p: the smallest p-value that this number of controls can give.
        blind_p: label-permutation p-value of the blind baseline (texts only); below 0.01 the controls are not exchangeable.
        still_in: DUCI, the share of the set that is still in the model, where the original's rates allow it.
        record_power: probability of detecting one record's residual of one standard deviation.
        verdict, reason: this claim's own verdict, and why.
    """

    records: int = Field(ge=1)
    controls: int = Field(ge=1)
    statistic: str
    accused: tuple[TwinFinding, ...]
    original_accused: int = Field(ge=0)
    smallest_p: Share
    blind_p: Share
    still_in: Value | None
    record_power: Share
    verdict: VerdictWord
    reason: str


class People(Frozen):
    """User level: texts of the data subjects that no model was trained on, against those of other people.

    Attributes:
        subjects, controls: number of people on each side.
        texts: fresh texts of the forget set's subjects.
        statistic: what was averaged per person.
        auc, original_auc: forget subjects against others, under the target and under the original.
        p_value, original_p: p-values of the same comparison by a rank-sum test over people; these decide.
        blind_p: label-permutation p-value of the blind baseline between fresh and holdout texts; below 0.01, or where it was not
            computed, nothing is judged.
        accused: people that a Benjamini-Hochberg test over conformal p-values rejects, as keyed hashes.
        verdict, reason: this claim's own word, and why.
    """

    subjects: int = Field(ge=1)
    controls: int = Field(ge=1)
    texts: int = Field(ge=1)
    statistic: str
    auc: Value
    original_auc: Value
    p_value: Share
    original_p: Share
    blind_p: Share | None
    accused: tuple[TwinFinding, ...]
    verdict: VerdictWord
    reason: str


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


class WithoutAdapter(Frozen):
    """The audited model with its adapter switched off, on the forget set: what deleting one file would bring back.

    Attributes:
        state: "original" where every record has the loss of the model before unlearning; "remembers" where records were found to
            be remembered beyond the margin; "knows no more" where the residual was shown to be below the margin; else "open".
        loss, with_adapter, original, references: mean losses over the forget set, nats per token; None without references.
        residual: residual fraction without the adapter, against at least two references; None where it is undefined.
        reason: what that means, in plain sentences.
    """

    state: Literal["original", "remembers", "knows no more", "open"]
    loss: float
    with_adapter: float
    original: float
    references: float | None
    residual: Value | None
    reason: str


class RateAtFPR(Frozen):
    """True-positive rate at a fixed false-positive rate."""

    fpr: Share
    tpr: Value


class AttackResult(Frozen):
    """Result of one attack against one model.

    Attributes:
        attack: its name, as on the command line.
        family: "membership" or "extraction".
        model: label of the attacked model.
        unit: unit of the scores.
        mean: mean score over the forget set, with a t interval over records.
        holdout_mean: the same over the never-trained controls, if any.
        auc: area under the ROC curve of forget set against controls, if any.
        tpr: true-positive rates at fixed false-positive rates that the number of controls can resolve.
        tpr_reversed: the same with the sign of the scores reversed, which finds records that were pushed too far (membership only).
            Whoever reads the better of the two looks twice: at confidence c both have intervals at (1 + c) / 2. Empty in
            verdicts by rule 1, whose rates have intervals at c. The AUC reversed is 1 - AUC; its interval has two sides.
    """

    attack: str
    family: Literal["membership", "extraction"]
    model: str
    unit: str
    mean: Value
    holdout_mean: Value | None = None
    auc: Value | None = None
    tpr: tuple[RateAtFPR, ...] = ()
    tpr_reversed: tuple[RateAtFPR, ...] = ()

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not read: evidence of earlier versions is written as it was."""
        content: dict[str, Any] = handler(self)
        return content if self.tpr_reversed else {name: value for name, value in content.items() if name != "tpr_reversed"}


class NotRun(Frozen):
    """An attack that was requested but could not be run, and why."""

    attack: str
    reason: str


class ChannelNotRun(Frozen):
    """A way of asking that was wanted but could not be measured, and why.

    Attributes:
        channel: its name, or that of a group of channels.
        reason: one plain sentence.
        model: label of the model on which it failed; None where it was asked of none.
    """

    channel: str
    reason: str
    model: str | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a model that was not asked: evidence of earlier versions is written as it was."""
        content: dict[str, Any] = handler(self)
        return content if self.model is not None else {name: value for name, value in content.items() if name != "model"}


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


class Utility(Frozen):
    """Retain-set utility of a model: geometric-mean probability of a scored token, exp(-loss).

    Attributes:
        model: label.
        retain: over the retain records that were scored.
        holdout: over never-trained records, if any.
        ratio: retain utility over that of the yardstick (mean of the references, else the original).
    """

    model: str
    retain: Value
    holdout: Value | None = None
    ratio: Value


class Histogram(Frozen):
    """Mean losses of the forget records under one model, counted in common bins."""

    model: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class RocCurve(Frozen):
    """True-positive rate of one attack against one model on a fixed grid of false-positive rates."""

    attack: str
    model: str
    fpr: tuple[Share, ...]
    tpr: tuple[Share, ...]


class Residuals(Frozen):
    """Per-record residual d_i in nats per token, sorted, with the margin rho* g_i beside it (at most 500 quantiles)."""

    residual: tuple[float, ...]
    margin: tuple[float, ...]
    gap: tuple[float, ...]


class Figures(Frozen):
    """The numbers behind the report's figures."""

    losses: tuple[Histogram, ...] = ()
    roc: tuple[RocCurve, ...] = ()
    residuals: Residuals | None = None
