"""The schema of everything an audit writes down.

Strict and frozen: a number is finite or absent with a reason, a verdict is one of four words, and an unknown field is an error.
No field holds a record's text or raw identifier; records appear as keyed hashes.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from verify.errors import InputError
from verify.files import read_json, write_text
from verify.statistics.estimate import Estimate

VerdictWord = Literal["NOT_TESTABLE", "NOT_FORGOTTEN", "EQUIVALENT_WITHIN", "INCONCLUSIVE"]
"""In order of precedence; there are no other words."""

Claim = Literal["record", "process", "attack"]
ModelRole = Literal["target", "original", "base", "reference"]
SetRole = Literal["forget", "retain", "holdout"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RecordHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Frozen(BaseModel):
    """Base of all parts: strict types, no unknown fields, no NaN, no infinity, no change after the fact."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Value(Frozen):
    """A number with its interval, sample size, level and seed (see `verify.statistics.Estimate`)."""

    value: float
    low: float
    high: float
    n: int = Field(ge=1)
    level: float = Field(gt=0, lt=1)
    seed: int | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """The schema's form of a statistic's result."""
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


class AuditedModel(Frozen):
    """One model that was scored."""

    label: str
    role: ModelRole
    name: str
    weights: Digest
    tokenizer: Digest
    dtype: str


class AuditedSet(Frozen):
    """One set of records: how many, and a digest over their keyed hashes that names exactly this set."""

    role: SetRole
    records: int = Field(ge=1)
    scored_tokens: int = Field(ge=1)
    digest: Digest


class Gate(Frozen):
    """A condition under which a claim may be judged at all.

    Attributes:
        name: "retrained references", "positive control", "planted records", "negative control", "utility", "blind baseline",
            "enough controls".
        claims: the claims it concerns.
        passed: None where the gate could not be evaluated.
        blocks: what a failure means for the verdict: "NOT_TESTABLE", "INCONCLUSIVE" (at best) or "nothing".
        reason: one plain sentence with the numbers.
        value: the number it was decided on, if it has one.
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
    """One test of the record claim: C1 and C2 certify, A1 and A2 accuse.

    Attributes:
        name: "C1", "C2", "A1" or "A2".
        question: what it asks, in one sentence.
        fired: for C1 and C2, that equivalence was shown; for A1 and A2, that a residual was found.
        quantities: every intermediate value, so that a reader can recompute it.
    """

    __test__ = False  # not a pytest class

    name: str
    question: str
    fired: bool
    quantities: tuple[Quantity, ...]


class RecordFinding(Frozen):
    """A record whose residual exceeds the margin."""

    record: RecordHash
    subject: RecordHash | None = None
    residual: float = Field(description="d_i / G: its share of the set's mean memorization that is left; below 0, over-forgotten")
    direction: Literal["remembered", "over-forgotten"]
    adjusted_p: Share


class RateAtFPR(Frozen):
    """True-positive rate at a fixed false-positive rate."""

    fpr: Share
    tpr: Value


class AttackResult(Frozen):
    """How one attack does against one model.

    Attributes:
        attack: its name, as on the command line.
        family: "membership" or "extraction".
        model: label of the attacked model.
        unit: unit of the scores.
        mean: mean score over the forget set, with a t interval over records.
        holdout_mean: the same over the never-trained controls, where there are some.
        auc: area under the ROC of forget set against controls, where there are some.
        tpr: true-positive rates at fixed false-positive rates that the number of controls can resolve.
    """

    attack: str
    family: Literal["membership", "extraction"]
    model: str
    unit: str
    mean: Value
    holdout_mean: Value | None = None
    auc: Value | None = None
    tpr: tuple[RateAtFPR, ...] = ()


class NotRun(Frozen):
    """An attack that was asked for but could not be run, and why."""

    attack: str
    reason: str


class Utility(Frozen):
    """What the model still knows of the retain set: geometric-mean probability of a scored token, exp(-loss).

    Attributes:
        model: label.
        retain: over the retain records that were scored.
        holdout: over never-trained records, where there are some.
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


class Settings(Frozen):
    """Everything that was decided before looking."""

    margin: float = Field(default=0.10, gt=0, lt=1, description="rho*: largest residual fraction that counts as forgotten")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="level of every test")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of every interval")
    fpr: tuple[Share, ...] = (0.01, 0.10)
    utility_tolerance: float = Field(default=0.10, ge=0, lt=1, description="largest loss of retain utility that is accepted")
    planted_share: float = Field(default=0.20, gt=0, lt=1, description="share of records planted back in the positive control")
    planted_draws: int = Field(default=200, ge=20)
    retain_records: int = Field(default=400, ge=2, description="at most so many retain records are scored, drawn by seed")
    attacks: tuple[str, ...] = ()
    seed: int = 0
    overflow: Literal["refuse", "split"] = "refuse"
    dtype: str = "auto"


class Environment(Frozen):
    """What it was run with."""

    unlearn_verify: str
    python: str
    torch: str
    transformers: str
    numpy: str
    scipy: str
    platform: str
    device: str


class Evidence(Frozen):
    """The outcome of one audit.

    Attributes:
        verdict: one of the four words.
        explanation: why, one plain sentence each.
        scope: which claim the verdict is about, and the statistics it was shown for.
        not_shown: what this audit does not show, one plain sentence each.
        next_step: what would decide, where the verdict is INCONCLUSIVE or NOT_TESTABLE.
        residual: rho = N/G, the fraction of the set's memorization that is left.
        accused: the records whose residual exceeds the margin.
        accused_share: share of forget records whose residual exceeds the margin, with its exact interval over records.
    """

    schema_: Literal["unlearn-verify/evidence/1"] = Field(default="unlearn-verify/evidence/1", alias="schema")
    created: str
    duration_seconds: float = Field(ge=0)
    verdict: VerdictWord
    explanation: tuple[str, ...]
    scope: str
    not_shown: tuple[str, ...]
    next_step: str | None
    pre_registered: bool
    settings: Settings
    models: tuple[AuditedModel, ...]
    sets: tuple[AuditedSet, ...]
    gates: tuple[Gate, ...]
    residual: Value | None
    tests: tuple[Test, ...]
    accused: tuple[RecordFinding, ...]
    accused_share: Value | None
    attacks: tuple[AttackResult, ...]
    not_run: tuple[NotRun, ...]
    utility: tuple[Utility, ...]
    figures: Figures
    environment: Environment

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @property
    def verdict_phrase(self) -> str:
        """The verdict as it is printed, with its parameters where it has some."""
        if self.verdict == "EQUIVALENT_WITHIN":
            return f"EQUIVALENT_WITHIN(rho = {self.settings.margin:g}, alpha = {self.settings.alpha:g})"
        if self.verdict == "NOT_FORGOTTEN" and self.accused:
            return f"NOT_FORGOTTEN ({len(self.accused)} of {self.set('forget').records} records)"
        return self.verdict

    def set(self, role: SetRole) -> AuditedSet:
        """The audited set of that role.

        Raises:
            KeyError: the audit had none.
        """
        for entry in self.sets:
            if entry.role == role:
                return entry
        raise KeyError(role)

    def attack(self, name: str, model: str) -> AttackResult | None:
        """One attack's result against one model, or None if it was not run."""
        return next((entry for entry in self.attacks if (entry.attack, entry.model) == (name, model)), None)

    def table(self) -> str:
        """A plain-text summary: the verdict, then one row per attack and model."""
        from verify.report.text import summary

        return summary(self)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path."""
        from verify.report.html import render

        write_text(path, render(self))
        return Path(path)

    def save(self, path: str | Path) -> None:
        """Write `evidence.json`, atomically."""
        write_text(path, self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read `evidence.json`.

        Raises:
            InputError: the file is missing, truncated, of another version, or not what the schema allows.
        """
        content = read_json(path)
        try:
            # JSON has no tuples, so lists are accepted for them; everything else stays strict.
            return cls.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            found = content.get("schema") if isinstance(content, dict) else None
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{path} is not evidence of this version (it says {found!r}, expected 'unlearn-verify/evidence/1'): "
                f"{place}: {first['msg']}. Run the audit again."
            ) from None
