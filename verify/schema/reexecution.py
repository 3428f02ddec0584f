"""Schema of a re-execution's proof; reading one needs no torch."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from verify.io.documents import Document, Frozen
from verify.schema.parts import Digest, RecordHash, Share
from verify.schema.tolerance import Deviation, Reading, reading_of

ReexecutionWord = Literal["REBUILT_WITHOUT", "WITHIN_NOISE", "NOT_REBUILT", "NOT_TESTABLE"]
"""Outcomes of a re-execution. They stand beside the four statistical verdicts and are never mixed with them.

REBUILT_WITHOUT is bit equality. WITHIN_NOISE is the outcome on other hardware or software: no recorded state is farther away than
numerical noise explains, and one microbatch with one forget record would have been seen.
"""

Kind = Literal["derived schedule", "own schedule", "shards"]
"""What was executed again: the committed log's schedule with records left out (rollback), a training of its own on the records that
stay (retrain), or the stages of a sharded training that changed."""

PASSING: frozenset[ReexecutionWord] = frozenset({"REBUILT_WITHOUT", "WITHIN_NOISE"})
"""Outcomes that nothing contradicts."""

FindingKind = Literal[
    "base",
    "checkpoint",
    "commitment",
    "configuration",
    "forget record",
    "log",
    "near-duplicate",
    "noise",
    "records",
    "schedule",
    "segment",
    "software",
    "stage",
    "tokenizer",
    "tolerance",
    "weights",
]
ACCUSING: frozenset[FindingKind] = frozenset(
    {
        "base",
        "checkpoint",
        "commitment",
        "configuration",
        "forget record",
        "log",
        "schedule",
        "segment",
        "stage",
        "tokenizer",
        "weights",
    }
)
"""Findings that show that the claim is false. The others say that it could not be checked; "noise", that bits differ no more than
numerical noise explains."""


LEFT_OUT = ("requested", "committed_steps", "trained_with")
"""Fields of a proof that are written only where they say something: those of earlier versions are written as they were read."""


class Finding(Frozen):
    """Something that contradicts the claim, or that keeps it from being checked.

    Attributes:
        kind: what it is about.
        what: one plain sentence; it names places and digests, no record's content.
    """

    kind: FindingKind
    what: str


class Segment(Frozen):
    """Steps between two committed states, executed again.

    Attributes:
        place: folder of the log, "." or a stage's.
        start, end: optimizer steps done before and after it.
        ran_from: the step that it was run from: earlier than `start` where the state at the start is not kept.
        tokens: tokens that went through the model.
        equal: whether the state at its end has the committed digests.
        expected, found: digest of the trained weights at the end, or of the whole model at the end of a run.
        index: its number among all segments of the deletion, from 0; None in proofs of earlier versions.
        deviations: distances from the recorded state, where it is not equal and a tolerance was asked for.
    """

    place: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    ran_from: int = Field(ge=0)
    tokens: int = Field(ge=0)
    equal: bool
    expected: Digest
    found: Digest
    index: int | None = Field(default=None, ge=0)
    deviations: tuple[Deviation, ...] = ()

    @property
    def reading(self) -> Reading:
        """What the comparison with the recorded state shows."""
        return reading_of(self.equal, self.deviations)

    @property
    def passes(self) -> bool:
        """Whether it is equal to the recorded state, or within noise of it."""
        return self.reading in ("equal", "within noise")

    @property
    def tolerated(self) -> float:
        """How much can hide within its tolerance, in units of one microbatch with one forget record; 0 where it is equal."""
        return 0.0 if self.equal else max((one.tolerated for one in self.deviations), default=float("inf"))

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does not apply: proofs of earlier versions are written as they were read."""
        content: dict[str, Any] = handler(self)
        return {
            name: value for name, value in content.items() if name not in ("index", "deviations") or value not in (None, [], ())
        }


class Likeness(Frozen):
    """A training record whose text is nearly that of a forget record.

    Attributes:
        record, forget: keyed hashes of both.
        similarity: estimated Jaccard similarity of their word shingles, or the share of the forget record's that it contains.
    """

    record: RecordHash
    forget: RecordHash
    similarity: Share


class Noise(Frozen):
    """What was measured of segments that ended on other bits, within numerical noise.

    Attributes:
        apart: number of these segments.
        farthest: largest distance from a recorded state, in units of the noise measured where it was executed again.
        least: smallest effect of one forget record in one microbatch, in the same units.
        hidden: how much the tolerance of all segments together can hide, in units of that effect (`Reexecution.tolerated`).
    """

    apart: int = Field(ge=1)
    farthest: float = Field(ge=0)
    least: float = Field(ge=0)
    hidden: float = Field(ge=0)


class Draw(Frozen):
    """How the executed segments were chosen.

    Attributes:
        nonce: the random text that chose them together with the root; None where all were executed.
        given: whether somebody gave it on the command line; else it was drawn when the re-execution began.
        false_found_95, false_found_99: smallest number of false segments that this sample finds with 95 % and with 99 %.
        forget_segments: in how many segments the forget records would be if they were trained on, or None where unknown.
        found: probability that the sample finds one of that many false segments.
    """

    nonce: str | None
    given: bool
    false_found_95: int | None
    false_found_99: int | None
    forget_segments: int | None
    found: Share | None


class Reexecution(Document):
    """Outcome of executing a deletion's training again.

    Attributes:
        created: ISO 8601 in UTC.
        word: the outcome.
        kind: what was executed.
        model, base, tokenizer: digests of the deleted model's weights, of the base's, and of the tokenizer with its template.
        root: root of the committed training's logs; None where there was no earlier log.
        committed: when the commitment was written, by its own clock; None where the root was not committed to beforehand.
        requested: time of the request, as it was given, that the commitment was compared with; None where nothing was compared.
        forget: number of forget records; `forget_digest` is over their keyed hashes, as `AuditedSet.digest`.
        forget_digest: see above.
        records: training records that were shown, each hashed from its text.
        near: training records that are nearly a forget record; `near_accepted` where a person judged that they may stay.
        near_accepted: see above.
        unchanged: states or stages that the deletion left as they were committed, and that were not executed.
        committed_steps: optimizer steps that lead to these states; 0 for stages, and in proofs of earlier versions.
        segments: number of segments that the deletion executed, M.
        executed: those that were executed again.
        draw: how they were chosen.
        findings: what contradicts the claim, or kept it from being checked.
        tokens: tokens of the executed segments; `training_tokens` those of one whole training on the records that stay.
        training_tokens: see above.
        seconds: wall time of the execution.
        environment: software, processor and threads.
        trained_with: those of the recorded training, where a tolerance was asked for.
    """

    called: ClassVar[str] = "proof of a re-execution of this version (unlearn-verify/reexecution/1)"
    remedy: ClassVar[str] = "Run `verify-unlearning reexecute` again."

    schema_: Literal["unlearn-verify/reexecution/1"] = Field(default="unlearn-verify/reexecution/1", alias="schema")
    created: str
    word: ReexecutionWord
    kind: Kind
    model: Digest
    base: Digest
    tokenizer: Digest
    root: Digest | None
    committed: str | None
    requested: str | None = None
    forget: int = Field(ge=1)
    forget_digest: Digest
    records: int = Field(ge=1)
    near: tuple[Likeness, ...]
    near_accepted: bool
    unchanged: int = Field(ge=0)
    committed_steps: int = Field(default=0, ge=0)
    segments: int = Field(ge=0)
    executed: tuple[Segment, ...]
    draw: Draw
    findings: tuple[Finding, ...]
    tokens: int = Field(ge=0)
    training_tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    environment: dict[str, str]
    trained_with: dict[str, str] = Field(default_factory=dict)

    @property
    def tolerated(self) -> float:
        """How much can hide within the tolerance of all segments, in units of one microbatch with one forget record.

        A state that is off by its whole limit is where the next segment starts, so that limits add up. Segments that were not
        executed count as the others on average.
        """
        return tolerated_by(self.executed, self.segments)

    @property
    def noise(self) -> Noise | None:
        """What was measured, where the outcome is WITHIN_NOISE; None for every other."""
        if self.word != "WITHIN_NOISE":
            return None
        apart = [one for one in self.executed if not one.equal]
        measured = [deviation for one in apart for deviation in one.deviations]
        return Noise(
            apart=len(apart),
            farthest=max(one.distance / one.noise for one in measured),
            least=min(one.power / one.noise for one in measured),
            hidden=self.tolerated,
        )

    @property
    def phrase(self) -> str:
        """The outcome as printed: REBUILT_WITHOUT(m of M), WITHIN_NOISE(m of M), or the word alone."""
        return phrase_of(self.word, len(self.executed), self.segments)

    @property
    def claim(self) -> str:
        """What was shown, in one sentence."""
        if self.word not in PASSING:
            return " ".join(finding.what for finding in self.findings)
        schedule = {
            "derived schedule": "the committed training's schedule, with the forget records left out of every step,",
            "own schedule": "the schedule that its training options and seed give",
            "shards": "the training of every stage that held a forget record, without it,",
        }[self.kind]
        before = f" {self._as_committed()}" if self.unchanged else ""
        near = " Training records that are nearly a forget record were judged by a person." if self.near else ""
        return (
            f"{self._executed(schedule)}{before} None of the {self.records} training records is among the forget records "
            f"({self.forget}).{near} {self._age()} What the base model knew is not covered."
        )

    def _as_committed(self) -> str:
        """Say what was taken from the commitment and not executed."""
        kept = "stages that held none of them" if self.kind == "shards" else "states before the first of them"
        until = f", up to step {self.committed_steps}," if self.committed_steps else ""
        date = f" of {self.committed[:10]}" if self.committed else ""
        return f"The {self.unchanged} {kept}{until} are taken from the commitment{date}, and were not executed again."

    def _age(self) -> str:
        """Say what is known of the commitment's age."""
        if self.committed is None:
            return (
                "No commitment to the training from before the request was given: an order of the records that was chosen "
                "afterwards would not be noticed."
            )
        asked = (
            f"before the request ({self.requested})"
            if self.requested
            else "and the date of the request was not given to compare it with"
        )
        return (
            f"The training was committed to on {self.committed[:10]}, {asked}, by the clock of whoever wrote the commitment: "
            "confirm the root with whoever received it then."
        )

    def _executed(self, schedule: str) -> str:
        """Say what the executed segments show; a sample shows only that it found nothing."""
        start = f"when started from the base {self.base[:16]}"
        if (noise := self.noise) is not None:
            return self._within_noise(f"what {schedule} gives {start}", noise)
        if len(self.executed) == self.segments:
            return (
                f"The weights {self.model[:16]} are, bit for bit, what {schedule} gives {start}: all {self.segments} segments were "
                "executed again and ended on the recorded state."
            )
        chosen = "by a nonce that was given" if self.draw.given else "at random"
        least = self.draw.false_found_95
        found = f", so that {least} false ones would have been found with 95 %" if least else ""
        return (
            f"The weights {self.model[:16]} are said to be what {schedule} gives {start}: of {self.segments} segments, "
            f"{len(self.executed)} were drawn {chosen}, executed again, and ended on the recorded state{found}."
        )

    def _within_noise(self, what: str, noise: Noise) -> str:
        """Say what executed segments show whose bits differ from the recorded ones."""
        return (
            f"The weights {self.model[:16]} are, within numerical noise and not bit for bit, {what}: of {self.segments} segments, "
            f"{len(self.executed)} were executed again, and {noise.apart} ended at most {noise.farthest:.1f} times as far from the "
            f"recorded state as executions here lie apart; one forget record in one microbatch would have moved it "
            f"{noise.least:.0f} times as far. The displacement that the tolerance can hide, in all segments together, is "
            f"{noise.hidden:.2g} of such a microbatch's."
        )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does not apply: proofs of earlier versions are written as they were read."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in LEFT_OUT or value}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse an outcome that findings and segments do not support."""
        if self.word != word_of(self.findings):
            raise ValueError("the outcome is not that of the findings")
        if len(self.executed) > self.segments or len({(one.place, one.end) for one in self.executed}) < len(self.executed):
            raise ValueError("more segments were executed than there are, or one twice")
        if self.word == "REBUILT_WITHOUT" and not (self.executed and all(one.equal for one in self.executed)):
            raise ValueError("it was not rebuilt: no segment was executed, or one ended elsewhere")
        if self.word == "WITHIN_NOISE" and not (self.tolerated < 1 and all(one.passes for one in self.executed)):
            raise ValueError("it is not within noise: a segment ended farther away, or the tolerance can hide a forget record")
        if self.word == "WITHIN_NOISE" and all(one.equal for one in self.executed):
            raise ValueError("it is not within noise: no segment was executed, or none ended on other bits")
        return self


def phrase_of(word: ReexecutionWord, executed: int, segments: int) -> str:
    """Format an outcome with its counts: REBUILT_WITHOUT(m of M), WITHIN_NOISE(m of M), or the word alone."""
    return word if word not in PASSING else f"{word}({'all' if executed == segments else executed} of {segments})"


def tolerated_by(executed: Sequence[Segment], segments: int) -> float:
    """Compute how much can hide within the tolerance of all segments; see `Reexecution.tolerated`."""
    return sum(one.tolerated for one in executed) * segments / max(1, len(executed))


def word_of(findings: tuple[Finding, ...]) -> ReexecutionWord:
    """Return the outcome that findings lead to: any that contradicts the claim comes first."""
    if any(finding.kind in ACCUSING for finding in findings):
        return "NOT_REBUILT"
    if any(finding.kind != "noise" for finding in findings):
        return "NOT_TESTABLE"
    return "WITHIN_NOISE" if findings else "REBUILT_WITHOUT"
