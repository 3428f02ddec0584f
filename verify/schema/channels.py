"""Channels in the evidence: each way in which a model was asked about the records, and what followed from it.

A channel is one way of asking (the exact text, a rewording, an instruction in front, an inner layer, rounded weights, ...). The
verdict names the channels that it rests on, and a file whose verdict contradicts its channels is refused.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from verify.io.documents import Frozen
from verify.schema.parts import RecordHash, Share, Value, VerdictWord

if TYPE_CHECKING:
    from verify.schema.parts import Gate, Test, Tier

EXACT = "exact text"
"""The channel of the audit's own pass: every record exactly as it was trained."""
MEAN_LOSS = f"{EXACT}, mean loss"
OTHERWISE: "Tier" = "asked otherwise"
"""The tier of all channels but the exact text."""

Direction = Literal["remembered", "over-forgotten"]


class ChannelResult(Frozen):
    """One channel: what the target has left there beyond the retrained references, against never-trained controls.

    Attributes:
        name: "exact text", "rewording 1", "instruction", "layer 2", "int8", ...
        subjects, controls: n_F and n_C, the subjects of the forget set and of the controls that were scored.
        contrast: N_c, mean residual of the forget subjects less that of the control subjects, nats per token.
        gap: G_c, the mean of what the original knew better than the references, nats per token.
        standard_error: standard error of the contrast, nats per token.
        statistic: T_c, by how many standard errors the contrast exceeds the margin.
        adjusted_p: p-value of T_c, corrected for the number of channels and both directions.
        direction: on which side the contrast lies.
        residual: N_c / G_c with its interval; None where the original knew nothing there.
        valid: whether the channel can accuse: the same test finds the records in the original.
        certifiable: whether it can certify as well: its noise among the references is small against the margin.
        reason: why it is not valid, or cannot certify; empty where it can do both.
        accused: whether the contrast was found beyond the margin.
        certified: whether it was shown to lie within.
    """

    name: str = Field(min_length=1, max_length=200)
    subjects: int = Field(ge=0)
    controls: int = Field(ge=0)
    contrast: float | None
    gap: float | None
    standard_error: float | None = Field(ge=0)
    statistic: float | None
    adjusted_p: Share | None
    direction: Direction
    residual: Value | None
    valid: bool
    certifiable: bool
    reason: str
    accused: bool
    certified: bool

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.accused and (self.certified or not self.valid):
            raise ValueError(f"the channel {self.name!r} accuses although it is certified or not valid")
        if (self.certified and not self.certifiable) or (self.certifiable and not self.valid):
            raise ValueError(f"the channel {self.name!r} certifies although it cannot")
        if not self.certifiable and not self.reason:
            raise ValueError(f"the channel {self.name!r} cannot certify and does not say why")
        return self


class SubjectFinding(Frozen):
    """A subject (a person, or a document without one) whose records together were found beyond the margin.

    Attributes:
        subject: keyed hash.
        records: how many of the forget records are the subject's.
        residual: the subject's mean residual over its own mean gap; below 0, over-forgotten.
        direction, adjusted_p: as for a record; corrected for the number of subjects.
    """

    subject: RecordHash
    records: int = Field(ge=1)
    residual: float
    direction: Direction
    adjusted_p: Share


def channels_asked(channels: Sequence[ChannelResult]) -> tuple[str, ...]:
    """Return what a certificate rests on: the exact text, and every other channel that was shown to lie within the margin."""
    return (EXACT, *(channel.name for channel in channels if channel.certified and channel.name != EXACT))


def channels_accusing(channels: Sequence[ChannelResult]) -> tuple[str, ...]:
    """Return the channels other than the exact text that were found beyond the margin."""
    return tuple(channel.name for channel in channels if channel.accused and channel.name != EXACT)


def verdict_phrase(
    word: str,
    margin: float,
    alpha: float,
    accused: int,
    records: int,
    channels: Sequence[ChannelResult] | None = None,
    subjects: int = 0,
    *,
    by_table: bool = False,
) -> str:
    """Format a verdict as it is printed: with its parameters, and with what was asked.

    Args:
        word: one of the four.
        margin, alpha: rho* and the level of the audit.
        accused: number of records accused individually.
        records: size of the forget set.
        channels: what was judged; None for a verdict by rule 1, whose word names nothing.
        subjects: number of subjects accused as a whole.
        by_table: whether a level table judged, in place of retrained references.
    """
    judge = "; level table" if by_table else ""
    if word == "EQUIVALENT_WITHIN":
        asked = channels_asked(channels or ())
        named = "" if channels is None else f"; {MEAN_LOSS if len(asked) == 1 else f'{len(asked)} channels'}"
        return f"EQUIVALENT_WITHIN(rho = {margin:g}, alpha = {alpha:g}{named}{judge})"
    if word != "NOT_FORGOTTEN":
        return word
    found = [f"{accused} of {records} records"] if accused else []
    if subjects:
        found.append(f"{subjects} {'subject' if subjects == 1 else 'subjects'}")
    if otherwise := len(channels_accusing(channels or ())):
        found.append(f"asked otherwise: {otherwise} {'channel' if otherwise == 1 else 'channels'}")
    return f"NOT_FORGOTTEN ({'; '.join(found)}{judge})" if found else word


NEEDED_GATES = ("retrained references", "positive control", "planted subject", "negative control", "utility")
"""Validity checks without which no audit by rule 2 certifies; `verify.judging` makes them all."""
NEEDED_REFERENCES = 3
"""Retrained references without which no audit by rule 2 certifies."""


def contradiction(
    word: VerdictWord,
    channels: Sequence[ChannelResult],
    tiers: Iterable[str],
    accused_by: Iterable[str],
    found: int,
    tests: Sequence["Test"],
    gates: Sequence["Gate"],
    references: int | None,
) -> str | None:
    """Return the first way in which a verdict by rule 2 contradicts what it is said to follow from, or None.

    Args:
        word: the verdict.
        channels: the channels that were judged.
        tiers: what is said to be able to accuse.
        accused_by: the tiers that are said to accuse.
        found: number of records and subjects that were accused.
        tests: the tests of the record claim.
        gates: the validity checks.
        references: number of retrained references that were scored; None where a level table judged in their place.
    """
    tiers, accused_by = tuple(tiers), tuple(accused_by)
    if repeated := next((one.name for one in channels if sum(other.name == one.name for other in channels) > 1), None):
        return f"the channel {repeated!r} is listed twice"
    if (OTHERWISE in tiers) != any(channel.valid and channel.name != EXACT for channel in channels):
        return "it lists other channels than those that it was asked on"
    accusing = [channel.name for channel in channels if channel.accused]
    if bool(accused_by) != (word == "NOT_FORGOTTEN"):
        return f"it is {word}, and {f'{accused_by[0]!r} is' if accused_by else 'nothing is'} said to accuse"
    if word == "EQUIVALENT_WITHIN":
        return _not_certified(channels, accusing, found, tests, gates) or _not_compared(tiers, gates, references)
    if word == "NOT_TESTABLE" and not any(gate.passed is not True and gate.blocks == word for gate in gates):
        return "it is NOT_TESTABLE although every check that could forbid a judgement passed"
    if word == "INCONCLUSIVE" and (accusing or found):
        return f"it is INCONCLUSIVE although {accusing[0] if accusing else 'a record'} was found beyond the margin"
    if word == "NOT_FORGOTTEN":
        claimed, otherwise = OTHERWISE in accused_by, bool(channels_accusing(channels))
        # Channels may stand out without a say: where a check failed and another claim accuses.
        if claimed != otherwise and not (otherwise and _failed(gates, "NOT_TESTABLE")):
            return f"it is {'' if claimed else 'not '}said to rest on {OTHERWISE!r}, which its channels contradict"
    return None


def _not_certified(
    channels: Sequence[ChannelResult], accusing: Sequence[str], found: int, tests: Sequence["Test"], gates: Sequence["Gate"]
) -> str | None:
    if accusing or found:
        return f"it certifies although {accusing[0] if accusing else 'a record'} was found beyond the margin"
    if unshown := next((channel.name for channel in channels if channel.certifiable and not channel.certified), None):
        return f"it certifies although the channel {unshown!r} was not shown to be within the margin"
    fired = {test.name: test.fired for test in tests}
    if not fired or any(fired[name] != name.startswith("C") for name in fired):
        return "it certifies against its own tests"
    failed = _failed(gates, "NOT_TESTABLE", "INCONCLUSIVE")
    return f"it certifies although the check {failed[0]!r} did not pass" if failed else None


def _not_compared(tiers: Sequence[str], gates: Sequence["Gate"], references: int | None) -> str | None:
    """Return what a certificate by retrained references lacks of what every such audit has, or None."""
    if references is None:
        return None
    if references < NEEDED_REFERENCES or "retrained references" not in tiers:
        return f"it certifies by {references} retrained references; {NEEDED_REFERENCES} are needed"
    missing = sorted(set(NEEDED_GATES) - {gate.name for gate in gates})
    return f"it certifies without the check {missing[0]!r}" if missing else None


def _failed(gates: Sequence["Gate"], *blocks: str) -> list[str]:
    return [gate.name for gate in gates if not gate.passed and "record" in gate.claims and gate.blocks in blocks]
