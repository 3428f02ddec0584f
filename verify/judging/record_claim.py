"""The record claim: the target against retrained references, on the exact texts and, by rule 2, in other ways of asking."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from verify.judging.channel_results import Channels, channels_negative_control, described_channels
from verify.judging.copies import copies_gates
from verify.judging.gates import (
    SecondRule,
    negative_control_gate,
    planted_gate,
    planted_subject_gate,
    positive_control_gate,
    references_gate,
    trained_alike_gate,
)
from verify.judging.innocence import innocence_gate, memorized_gate
from verify.judging.user_level_claim import whose
from verify.schema.channels import EXACT, OTHERWISE, ChannelResult
from verify.schema.parts import Gate, Tier, Value, VerdictWord
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.contrasts import CHANNEL_SHARE, ChannelsVerdict
from verify.statistics.level_table import TableVerdict
from verify.statistics.panel import reference_panel
from verify.statistics.residual import ResidualVerdict, residual_verdict
from verify.statistics.smallest_margin import smallest_margin


@dataclass(frozen=True, eq=False)
class RecordClaim:
    """Outcome of the comparison with retrained references, or with a level table.

    Attributes:
        target: the residual test on the exact texts; None with fewer than two references, or without a usable level table.
        asked: the channel tests; None where none could be made.
        gates: the validity checks of this claim.
        weak: hashes of records that were hardly memorized or that the references know.
        smallest_margin: the smallest rho* at which the same tests would certify; None where none up to one half would.
        by: what it was compared with.
        levels: the tests by a level table, calibration included; None by retrained references.
    """

    target: ResidualVerdict | None
    asked: ChannelsVerdict | None
    gates: tuple[Gate, ...]
    weak: tuple[str, ...] = ()
    smallest_margin: float | None = None
    by: Tier = "retrained references"
    levels: TableVerdict | None = None

    @property
    def channels(self) -> tuple[ChannelResult, ...]:
        """Every channel as evidence."""
        return described_channels(self.asked)

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """What of this claim could accuse."""
        otherwise = any(channel.valid and channel.name != EXACT for channel in self.channels)
        return () if self.target is None else (self.by, OTHERWISE) if otherwise else (self.by,)

    @property
    def accused_by(self) -> tuple[Tier, ...]:
        """What of this claim does accuse, gates aside."""
        accusing = [channel.name for channel in self.channels if channel.accused]
        exact = (self.target is not None and self.target.accused) or EXACT in accusing
        otherwise = any(name != EXACT for name in accusing)
        return (*((self.by,) if exact else ()), *((OTHERWISE,) if otherwise else ()))

    def word(self, gates: Sequence[Gate]) -> VerdictWord:
        """Return the outcome of this claim alone, by precedence.

        Failed gates that block "NOT_TESTABLE" come before accusations, accusations before failed gates that block "INCONCLUSIVE",
        those before a certificate.

        Args:
            gates: all gates of the audit; those of other claims are ignored.
        """
        failed = [gate for gate in gates if not gate.passed and "record" in gate.claims]
        if self.target is None or any(gate.blocks == "NOT_TESTABLE" for gate in failed):
            return "NOT_TESTABLE"
        if self.accused_by:
            return "NOT_FORGOTTEN"
        certified = self.target.certified and not self.open_channels
        return "EQUIVALENT_WITHIN" if certified and not any(gate.blocks == "INCONCLUSIVE" for gate in failed) else "INCONCLUSIVE"

    @property
    def open_channels(self) -> tuple[ChannelResult, ...]:
        """Channels that could certify and did not: any of them stands in the way of a certificate."""
        return tuple(channel for channel in self.channels if channel.certifiable and not channel.certified)


@dataclass(frozen=True, eq=False)
class ReferenceTests:
    """The tests by rule 2 of a target against retrained references; what does not depend on the target is computed once.

    Attributes:
        rule: the residual test.
        channels: the other ways of asking, with the first target's losses; None without controls.
        spends: the share of alpha that accusations use, in (0, 1].
    """

    rule: SecondRule
    channels: Channels | None
    spends: float = 1.0

    @classmethod
    def of(cls, table: ScoreTable, references: Sequence[str], spends: float = 1.0) -> "ReferenceTests":
        """Take from a score table what rule 2 judges by."""
        channels = Channels.of(table, references)
        own = 1.0 if channels is None else 1 - CHANNEL_SHARE
        return cls(_second_rule(table, references, spends * own), channels, spends)

    def judge(self, table: ScoreTable, settings: Settings, margin: float | None = None) -> RecordClaim:
        """Judge the target of a score table with these references; the only gate that is checked is that of the target's noise.

        Args:
            table: has the target's scores.
            settings: margin, and alpha as this claim's share of it.
            margin: in place of the settings' own, which still decides which channels are precise enough to certify.
        """
        controls = None if self.rule.control_references is None else table.loss("target", "holdout")
        asked = None if self.channels is None else self.channels.with_target(table).judge(settings, margin, self.spends)
        found = self.rule.judge(table.loss("target", "forget"), settings, controls, margin)
        return RecordClaim(found, asked, (trained_alike_gate(found.noise),))


def record_claim(
    table: ScoreTable, references: Sequence[str], settings: Settings, blind: Value | None, spends: float = 1.0
) -> RecordClaim:
    """Judge the target by retrained references.

    Args:
        table: scores of "original", "target" and the references on "forget" and, for channels, on "holdout".
        references: their labels.
        settings: rule and margin as registered; alpha as this claim's share of it.
        blind: AUC of the blind baseline, for the innocence of the references.
        spends: the share of alpha that accusations use, in (0, 1]: all of it, unless other audits use the same controls.
    """
    enough = references_gate(len(references))
    if len(references) < 2:
        return RecordClaim(None, None, (enough,))
    original, target = (table.loss(model, "forget") for model in ("original", "target"))
    losses = table.losses(references, "forget")
    if settings.rule == 1:
        panel = reference_panel(losses)
        gates = (
            enough,
            positive_control_gate(residual_verdict(original, original, panel, settings.margin, settings.alpha)),
            planted_gate(original, losses, settings),
            negative_control_gate(original, losses, settings),
        )
        return RecordClaim(residual_verdict(original, target, panel, settings.margin, settings.alpha), None, gates)
    tests = ReferenceTests.of(table, references, spends)
    channels, rule = tests.channels, tests.rule
    own = 1.0 if channels is None else 1 - CHANNEL_SHARE
    found = tests.judge(table, settings)
    other = None if channels is None else channels_negative_control(channels, len(references), settings)
    memorized, weak = memorized_gate(table, references)
    checks = (
        enough,
        positive_control_gate(rule.judge(original, settings)),
        planted_subject_gate(rule, settings),
        # References are not requests: they are judged at alpha, whatever was spent.
        negative_control_gate(original, losses, settings, replace(rule, share=own)),
        *(() if other is None else (other,)),
        *found.gates,
        innocence_gate(table, references, settings, blind),
        memorized,
        *copies_gates(table, references),
    )
    smallest = smallest_margin(lambda margin: tests.judge(table, settings, margin).word(()) == "EQUIVALENT_WITHIN")
    return RecordClaim(found.target, found.asked, checks, weak, smallest)


def _second_rule(table: ScoreTable, references: Sequence[str], share: float) -> SecondRule:
    """Take from a score table what rule 2 judges by."""
    block = table.blocks["target", "forget"]
    original, losses = table.loss("original", "forget"), table.losses(references, "forget")
    texts = alike(np.vstack([original, block.loss, losses, block.tokens]))
    held = [table.block(model, "holdout") for model in ("target", *references)]
    if any(each is None for each in held):
        return SecondRule(original, losses, whose(block), texts, share=share)
    controls = table.losses(references, "holdout")
    return SecondRule(original, losses, whose(block), texts, controls, whose(table.blocks["target", "holdout"]), share)


def alike(scores: np.ndarray) -> list[int]:
    """Number records [K] by their scores [M, K]: those with the same from every model, to five digits, are copies of one text."""
    found: list[int] = np.unique(np.round(scores, 5), axis=1, return_inverse=True)[1].ravel().tolist()
    return found
