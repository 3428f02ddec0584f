"""Parts that all documents share: the words of verdicts and roles, digests, values with intervals, gates, tests, findings.

Strict and frozen: a number is finite or absent with a reason, a verdict is one of four words, and an unknown field is an error.
No field holds a record's text or raw identifier; records appear as keyed hashes.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from verify.io.documents import Frozen

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


class Gate(Frozen):
    """Outcome of a validity check: a condition under which a claim can be judged.

    Attributes:
        name: "retrained references" or "level table", "positive control", "planted records" (rule 1) or "planted subject",
            "negative control", "negative control, asked otherwise", "innocent references", "memorized records",
            "noise of the target", "asked in every way", "all of alpha", "utility", "blind baseline", "enough controls"; only where
            they do not pass "distinct references" and "target among references"; by a level table also "table before the request",
            "controls of the same kind", "controls like the records", "controls unseen", "several subjects".
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
