"""The record claim by a level table: the target against what models trained before any request show of records they never saw.

No model is trained for the audit. The table holds the losses of M models, each trained without a share of the people; controls, on
which none of them was trained, say how such a loss translates to this target (`verify.statistics.level_table`). Everything rests on
what the gates ask: whether the controls are like the records, whether the table is what it says it is, and whether it was made
before anybody knew who would ask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from verify.judging.gates import Array, planted_subject_by
from verify.judging.innocence import memorized
from verify.judging.level_table_gates import (
    exchangeable_gate,
    made_before_gate,
    pool_gate,
    several_subjects_gate,
    table_gate,
    unseen_controls_gate,
)
from verify.judging.record_claim import RecordClaim, alike
from verify.judging.reference_tests import described_tests
from verify.judging.user_level_claim import named_subjects, units
from verify.schema.channels import EXACT
from verify.schema.inputs import Registered
from verify.schema.judged_by import FIRST_TABLE_RULE, LevelTableUsed
from verify.schema.parts import Gate, Quantity, SetRole, Test
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.level_checks import (
    PoolModelCheck,
    controls_unseen,
    planted_subject_rate,
    pool_innocence,
    support,
    with_original,
)
from verify.statistics.level_contrast import TableLosses
from verify.statistics.level_shape import control_shapes
from verify.statistics.level_table import TableVerdict, judge_table
from verify.statistics.lira import user_level
from verify.statistics.smallest_margin import smallest_margin

SIDES: tuple[SetRole, ...] = ("forget", "holdout")
UNLIKE = 0.01
"""Level at which controls count as unlike the records in length, or in the base model's loss; both together."""


@dataclass(frozen=True, eq=False)
class TableInput:
    """What a level table is asked about: losses by channel, and whom the records are about.

    Attributes:
        losses: losses by channel, the exact text first.
        subjects, controls: subjects of the forget records [K] and of the controls [N].
        texts: equal for records of equal text [K].
        seed: seed of the table's design.
        spends: the share of alpha that accusations of the target use, in (0, 1].
    """

    losses: Mapping[str, TableLosses]
    subjects: Sequence[str]
    controls: Sequence[str]
    texts: Sequence[int]
    seed: int
    spends: float = 1.0

    @classmethod
    def of(cls, table: ScoreTable, seed: int, spends: float = 1.0) -> "TableInput":
        """Take from a score table what every model was asked, the table's pool included.

        Raises:
            KeyError: a model was not scored on forget records and controls.
        """
        pool = table.pool()
        models = ("original", "target", *pool)
        asked = [
            name
            for name in table.channels()
            if all(name in table.blocks[model, role].channels for model in models for role in SIDES)
        ]
        block = table.blocks["target", "forget"]
        known = np.nan_to_num(table.losses(pool, "forget"), nan=-1.0)  # whoever saw one copy saw all
        texts = alike(np.vstack([table.loss("original", "forget"), block.loss, known, block.tokens]))
        subjects, controls = (units(table, role) for role in SIDES)
        return cls({name: _losses(table, name, pool) for name in (EXACT, *asked)}, subjects, controls, texts, seed, spends)

    def judge(self, settings: Settings, margin: float | None = None) -> TableVerdict:
        """Judge the target on every channel, at the settings' margin or another; the former decides which channels may certify."""
        return self._judged(self.losses, settings, margin or settings.margin)

    def judge_original(self, settings: Settings) -> TableVerdict:
        """Judge the original in the target's place, on the exact text."""
        return self._judged(with_original({EXACT: self.losses[EXACT]}), settings, settings.margin)

    def _judged(self, losses: Mapping[str, TableLosses], settings: Settings, margin: float) -> TableVerdict:
        whose, level = (self.subjects, self.controls), (margin, settings.alpha)
        rule, chosen_at = settings.rule, settings.margin
        return judge_table(losses, *whose, *level, self.seed, self.texts, self.spends, rule=rule, chosen_at=chosen_at)

    def judge_pool(self, settings: Settings) -> tuple[PoolModelCheck, ...]:
        """Judge each model of the pool by the others, on what it never saw."""
        level = settings.margin, settings.alpha
        return pool_innocence(self.losses[EXACT], self.subjects, self.controls, *level, self.seed, settings.rule)


def _losses(table: ScoreTable, name: str, pool: Sequence[str]) -> TableLosses:
    def of(model: str, role: SetRole) -> Array:
        return table.channel(name, model, role)

    forget, controls = (np.stack([of(model, role) for model in pool]) for role in SIDES)
    return TableLosses(
        pool=forget,
        control_pool=controls,
        original=of("original", "forget"),
        target=of("target", "forget"),
        control_original=of("original", "holdout"),
        control_target=of("target", "holdout"),
    )


def table_claim(
    table: ScoreTable,
    settings: Settings,
    used: LevelTableUsed | None,
    registered: Registered | None,
    blind_p: float | None,
    spends: float = 1.0,
) -> RecordClaim:
    """Judge the target by a level table.

    Args:
        table: scores of "original", "target" and the pool on "forget" and "holdout"; of "base" where there is one.
        settings: margin as registered; alpha as this claim's share of it.
        used: the table's facts; its numbers are in the score table.
        registered: the registration, which names the table; None without one.
        blind_p: permutation p-value of the blind baseline; None where it could not be run.
        spends: the share of alpha that accusations use, in (0, 1]: all of it, unless other audits use the same controls.

    Raises:
        KeyError: the score table lacks a model or a set.
        ValueError: there are no facts about the table, or its numbers do not fit together.
    """
    if used is None:
        raise ValueError("a verdict by a level table needs the facts about its level table")
    asked = TableInput.of(table, used.seed, spends)
    enough = table_gate(used, len(set(asked.controls)))
    if not enough.passed:
        return RecordClaim(None, None, (enough,), by="level table")
    found = asked.judge(settings)
    gap, records = found.residual.gap, table.blocks["original", "forget"].records
    remembered, weak = memorized(gap, records, "known to the table's models")
    gates = (
        enough,
        made_before_gate(used, registered),
        exchangeable_gate(blind_p),
        like_the_records_gate(table, found, asked),
        controls_gate(asked, found, settings),
        table_positive_control(asked.judge_original(settings)),
        planted_gate_of_table(asked, settings),
        pool_gate(asked.judge_pool(settings), table.pool()),
        remembered,
        several_subjects_gate(*named_subjects(table)),
    )

    def certified(margin: float) -> bool:
        at = asked.judge(settings, margin)
        return RecordClaim(at.residual, at.channels, ()).word(()) == "EQUIVALENT_WITHIN"

    return RecordClaim(
        target=found.residual,
        asked=found.channels,
        gates=gates,
        weak=weak,
        smallest_margin=smallest_margin(certified),
        by="level table",
        levels=found,
    )


def controls_gate(asked: TableInput, found: TableVerdict, settings: Settings) -> Gate:
    """Check that the target treats the controls as the original does, which saw none of them either."""
    unseen = controls_unseen(asked.losses[EXACT], asked.controls, found.residual.mean_gap, settings.margin)
    shapes = None
    if settings.rule != FIRST_TABLE_RULE:
        shapes = control_shapes(asked.losses, asked.subjects, asked.controls, settings.margin, asked.seed)
    return unseen_controls_gate(unseen, found.fit.noise, shapes)


def table_positive_control(original: TableVerdict) -> Gate:
    """Check that the same rule finds the records in the original, which was trained on them."""
    exact = original.residual
    found, accused = (exact.accused or original.channels.accused) and exact.mean_gap > 0, int(exact.record_test.accused.sum())
    reason = (
        f"The same rule {'detects' if found else 'does not detect'} the forget set in the model before unlearning (mean "
        f"gap {exact.mean_gap:.3f} nats per token, {accused} of {exact.records} records beyond the margin)."
    )
    if not found:
        reason += " What was never memorized cannot be shown to be forgotten."
    return Gate(name="positive control", claims=("record",), passed=bool(found), blocks="NOT_TESTABLE", reason=reason)


def planted_gate_of_table(asked: TableInput, settings: Settings) -> Gate:
    """Check that the rule would find one subject of whom everything was kept, planted among the controls."""
    whose, level = (asked.subjects, asked.controls), (settings.margin, settings.alpha)
    try:
        rate = planted_subject_rate(
            asked.losses[EXACT], *whose, *level, asked.seed, settings.planted_draws, asked.spends, settings.rule
        )
    except ValueError:
        reason = "This check needs more control subjects: some of them stand in for the forget set."
        return Gate(name="planted subject", claims=("record",), passed=None, blocks="INCONCLUSIVE", reason=reason)
    return planted_subject_by(rate, "planted among the controls was found")


def like_the_records_gate(table: ScoreTable, found: TableVerdict, asked: TableInput) -> Gate:
    """Check that controls are as long as the records, as hard for the base model, and cover their levels in the table."""
    range_ = support(found, asked.subjects, asked.controls)
    compared = {"length": _by_subject(table, "target", "tokens")}
    if all(table.block("base", role) is not None for role in SIDES):
        compared["the base model's loss"] = _by_subject(table, "base", "loss")
    unlike = {name: float(stats.mannwhitneyu(*sides).pvalue) for name, sides in compared.items()}
    failed = [f"{name} (rank-sum p = {p:.2g})" for name, p in unlike.items() if p < UNLIKE / len(unlike)]
    reason = (
        f"{range_.outside} of {range_.records} records lie outside the levels that the controls cover "
        f"({range_.low:.2f} to {range_.high:.2f} nats per token in the table); the means lie {range_.distance:.2f} standard "
        f"deviations apart, which widens the error by a factor of {range_.inflation:.2f}."
    )
    said = f"By rank sums, subject by subject: {', '.join(f'{name} p = {p:.2g}' for name, p in unlike.items())}."
    reason += f" Controls differ from the records in {', '.join(failed)}." if failed else f" {said}"
    passed = bool(range_.held and not failed)
    return Gate(name="controls like the records", claims=("record",), passed=passed, blocks="INCONCLUSIVE", reason=reason)


def _by_subject(table: ScoreTable, model: str, what: Literal["tokens", "loss"]) -> tuple[Array, Array]:
    """Average tokens or losses by subject, of forget records and of controls."""

    def averaged(role: SetRole) -> Array:
        block = table.blocks[model, role]
        return np.asarray(user_level(block.tokens if what == "tokens" else block.loss, units(table, role))[1])

    forget, controls = (averaged(role) for role in SIDES)
    return forget, controls


def described_table_tests(found: TableVerdict) -> tuple[Test, ...]:
    """Describe the tests by a level table as evidence, with the calibration that they rest on."""
    fit, conformal = found.fit, found.conformal
    tests = described_tests(
        found.residual,
        {
            "N_mean_residual": found.residual.mean_residual,
            "G_mean_gap": found.residual.mean_gap,
            "standard_error_of_N": fit.standard_error,
            "degrees": fit.degrees,
            "R_models_without_a_record": fit.models,
            "K_records": found.residual.records,
            "subjects": fit.subjects,
            "control_subjects": fit.control_subjects,
            "a_level_of_the_target": fit.a,
            "b_slope_of_the_target": fit.b,
            "a0_level_of_the_original": fit.a0,
            "b0_slope_of_the_original": fit.b0,
            "reliability_of_levels": fit.reliability,
        },
    )
    smallest = float(min(conformal.remembered.min(initial=1.0), conformal.over_forgotten.min(initial=1.0)))
    added = (
        Quantity(name="smallest conformal p of a subject", value=smallest),
        Quantity(name="smallest possible conformal p", value=conformal.smallest),
    )
    return tuple(test.model_copy(update={"quantities": test.quantities + added}) if test.name == "A1" else test for test in tests)
