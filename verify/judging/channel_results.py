"""Channels: what every way of asking shows, from the score table, and as evidence.

A model can be trained to give the losses of a retraining on the exact texts and still know the records in other words. So the
record claim is also made on every other channel that was measured: any of them may accuse, and a certificate requires all that can
certify.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verify.judging.gates import MIN_REFERENCES
from verify.judging.user_level_claim import whose
from verify.schema.channels import EXACT, ChannelResult
from verify.schema.parts import Gate, SetRole, Value
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.channels import ChannelLosses, judge_channels
from verify.statistics.contrasts import CHANNEL_SHARE, ChannelsVerdict, ChannelTest

SIDES: tuple[SetRole, ...] = ("forget", "holdout")


@dataclass(frozen=True, eq=False)
class Channels:
    """Losses of all channels on which every model was asked, and whom the records are about.

    Attributes:
        losses: losses by channel, the exact text first.
        subjects, control_subjects: subjects of the forget records and of the controls.
    """

    losses: Mapping[str, ChannelLosses]
    subjects: Sequence[str]
    control_subjects: Sequence[str]

    @classmethod
    def of(cls, table: ScoreTable, references: Sequence[str]) -> "Channels | None":
        """Take the channels from a score table; None without controls or references, which every channel needs."""
        models = ("original", "target", *references)
        if not references or any(table.block(model, role) is None for model in models for role in SIDES):
            return None
        asked = [
            name
            for name in table.channels()
            if all(name in table.blocks[model, role].channels for model in models for role in SIDES)
        ]
        losses = {name: _losses(table, name, references) for name in (EXACT, *asked)}
        subjects, controls = (whose(table.blocks["target", role]) for role in SIDES)
        return cls(losses, subjects, controls)

    def with_target(self, table: ScoreTable) -> "Channels":
        """Return the same channels with the losses of another score table's target."""
        losses = {
            name: replace(
                one, target=table.channel(name, "target", "forget"), control_target=table.channel(name, "target", "holdout")
            )
            for name, one in self.losses.items()
        }
        return replace(self, losses=losses)

    def judge(self, settings: Settings, margin: float | None = None, spends: float = 1.0) -> ChannelsVerdict:
        """Judge the target on every channel, at the settings' margin or another, spending a share of alpha on accusations.

        The settings' margin decides at every other which channels are precise enough to certify.
        """
        level, share, whose = margin or settings.margin, spends * CHANNEL_SHARE, (self.subjects, self.control_subjects)
        return judge_channels(self.losses, *whose, level, settings.alpha, share, chosen_at=settings.margin)

    def reference_accused(self, held_out: int, settings: Settings, alpha: float) -> tuple[str, ...]:
        """Return the channels on which a reference, judged by the others, is accused at level `alpha`."""
        losses = {name: _with_reference_as_target(losses, held_out) for name, losses in self.losses.items()}
        found = judge_channels(losses, self.subjects, self.control_subjects, settings.margin, alpha)
        return tuple(test.name for test in found.tests if test.accused)


def _losses(table: ScoreTable, name: str, references: Sequence[str]) -> ChannelLosses:
    def of(model: str, role: SetRole) -> np.ndarray:
        return table.channel(name, model, role)

    forget, controls = (np.stack([of(model, role) for model in references]) for role in SIDES)
    return ChannelLosses(
        original=of("original", "forget"),
        target=of("target", "forget"),
        references=forget,
        control_target=of("target", "holdout"),
        control_original=of("original", "holdout"),
        control_references=controls,
    )


def _with_reference_as_target(losses: ChannelLosses, held_out: int) -> ChannelLosses:
    return ChannelLosses(
        original=losses.original,
        target=losses.references[held_out],
        references=np.delete(losses.references, held_out, axis=0),
        control_target=losses.control_references[held_out],
        control_original=losses.control_original,
        control_references=np.delete(losses.control_references, held_out, axis=0),
    )


def channels_negative_control(channels: Channels, references: int, settings: Settings) -> Gate | None:
    """Check that no channel accuses an honest retraining: each reference is judged by the others, at level alpha / R.

    Returns:
        the gate, or None with too few references, which the negative control of the exact texts says already.
    """
    if references < MIN_REFERENCES:
        return None
    accused = {number: channels.reference_accused(number, settings, settings.alpha / references) for number in range(references)}
    found = {number: names for number, names in accused.items() if names}
    reason = (
        f"Judged against the others on {len(channels.losses)} channels, {len(found)} of {references} references are accused "
        f"(at level alpha / {references} each)."
    )
    if found:
        listed = "; ".join(f"reference {number + 1} on {', '.join(names)}" for number, names in found.items())
        reason += f" These differ from the rest: {listed}."
    return Gate(
        name="negative control, asked otherwise", claims=("record",), passed=not found, blocks="NOT_TESTABLE", reason=reason
    )


def described_channels(verdict: ChannelsVerdict | None) -> tuple[ChannelResult, ...]:
    """Return every channel as evidence."""
    return () if verdict is None else tuple(_described(test) for test in verdict.tests)


def _described(test: ChannelTest) -> ChannelResult:
    return ChannelResult(
        name=test.name,
        subjects=test.subjects,
        controls=test.control_subjects,
        contrast=test.contrast,
        gap=test.gap,
        standard_error=test.standard_error,
        statistic=test.statistic,
        adjusted_p=test.p_value,
        direction=test.direction,
        residual=None if test.residual is None else Value.of(test.residual),
        valid=test.valid,
        certifiable=test.certifiable,
        reason=test.reason,
        accused=test.accused,
        certified=test.certified,
    )
