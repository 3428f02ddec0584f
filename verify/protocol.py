"""From scores to a verdict. Pure: the same table and settings give the same judgement, on any machine.

Precedence: a failed gate (NOT_TESTABLE) before an accusation (NOT_FORGOTTEN) before a certificate (EQUIVALENT_WITHIN); whatever
is none of these is INCONCLUSIVE, with the number that would decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.blind_baseline import blind_auc
from verify.evidence import (
    AttackResult,
    Figures,
    Gate,
    Quantity,
    RateAtFPR,
    RecordFinding,
    SetRole,
    Settings,
    Test,
    Utility,
    Value,
    VerdictWord,
)
from verify.figures import figures
from verify.gates import (
    blind_baseline_gate,
    controls_gate,
    negative_control_gate,
    planted_gate,
    positive_control_gate,
    references_gate,
    resolvable_rates,
    utility_gate,
)
from verify.scores import ScoreTable
from verify.statistics.intervals import clopper_pearson
from verify.statistics.means import mean_with_interval
from verify.statistics.residual import ResidualVerdict, residual_verdict
from verify.statistics.roc import membership_auc, tpr_at_fpr

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """The part of the evidence that follows from the scores; fields as in `verify.evidence.Evidence`."""

    verdict: VerdictWord
    explanation: tuple[str, ...]
    scope: str
    not_shown: tuple[str, ...]
    next_step: str | None
    gates: tuple[Gate, ...]
    residual: Value | None
    tests: tuple[Test, ...]
    accused: tuple[RecordFinding, ...]
    accused_share: Value | None
    attacks: tuple[AttackResult, ...]
    utility: tuple[Utility, ...]
    figures: Figures


def judge(table: ScoreTable, settings: Settings, blind: Value | None) -> Judged:
    """Judge a table of scores.

    Args:
        table: scores of "original", "target" and "reference 1", "reference 2", ... (and "base") on the forget set, and on the
            retain and holdout sets where there are some.
        settings: what was decided beforehand.
        blind: AUC of the blind baseline between forget and holdout texts, or None without a holdout set. It is the one number
            that needs texts; everything else follows from the table.
    """
    references = [model for model in _models(table) if model.startswith("reference")]
    original, target = table.loss("original", "forget"), table.loss("target", "forget")
    utility = _utility(table, references, settings)
    holdout = table.block("target", "holdout")
    controls = 0 if holdout is None else len(holdout.records)
    gates = [references_gate(len(references))]
    verdict_of_target = None
    if len(references) >= 2:
        losses = table.losses(references, "forget")
        verdict_of_target = residual_verdict(original, target, losses, settings.margin, settings.alpha)
        gates += [
            positive_control_gate(residual_verdict(original, original, losses, settings.margin, settings.alpha)),
            planted_gate(original, losses, settings),
            negative_control_gate(original, losses, settings),
        ]
    ratio = next((entry.ratio for entry in utility if entry.model == "target"), None)
    gates += [
        utility_gate(ratio, _yardstick(references), settings),
        blind_baseline_gate(None if blind is None else lambda: blind),
        controls_gate(controls, settings.fpr),
    ]
    verdict = _verdict(gates, verdict_of_target)
    accused = _accused(table, verdict_of_target)
    return Judged(
        verdict=verdict,
        explanation=_explain(verdict, gates, verdict_of_target, settings),
        scope=_scope(settings),
        not_shown=_not_shown(controls, ratio),
        next_step=_next_step(verdict, gates, len(references)),
        gates=tuple(gates),
        residual=None if verdict_of_target is None or verdict_of_target.rho is None else Value.of(verdict_of_target.rho),
        tests=() if verdict_of_target is None else _tests(verdict_of_target),
        accused=accused,
        accused_share=None
        if verdict_of_target is None
        else Value.of(clopper_pearson(len(accused), len(original), settings.confidence)),
        attacks=tuple(_attacks(table, settings)),
        utility=utility,
        figures=figures(table, verdict_of_target),
    )


def blind_value(
    texts: Mapping[SetRole, Sequence[str]], subjects: Mapping[SetRole, Sequence[str]], settings: Settings
) -> Value | None:
    """The blind baseline between the forget and holdout texts, or None without a holdout set."""
    if "holdout" not in texts:
        return None
    estimate = blind_auc(
        texts["forget"],
        texts["holdout"],
        subjects["forget"],
        subjects["holdout"],
        confidence=settings.confidence,
        seed=settings.seed,
    )
    return Value.of(estimate)


def _models(table: ScoreTable) -> list[str]:
    return list(dict.fromkeys(model for model, _ in table.blocks))


def _verdict(gates: Sequence[Gate], target: ResidualVerdict | None) -> VerdictWord:
    """The four words in their precedence."""
    failed = [gate for gate in gates if not gate.passed and "record" in gate.claims]
    if target is None or any(gate.blocks == "NOT_TESTABLE" for gate in failed):
        return "NOT_TESTABLE"
    if target.accused:
        return "NOT_FORGOTTEN"
    if target.certified and not any(gate.blocks == "INCONCLUSIVE" for gate in failed):
        return "EQUIVALENT_WITHIN"
    return "INCONCLUSIVE"


def _utility(table: ScoreTable, references: Sequence[str], settings: Settings) -> tuple[Utility, ...]:
    """Geometric-mean token probability on the retain set, and its ratio to an honest model's."""
    if table.block("target", "retain") is None:
        return ()
    yardstick = table.losses(references or ["original"], "retain").mean(axis=0)
    rows = []
    for model in _models(table):
        loss = table.loss(model, "retain")
        held_out = table.block(model, "holdout")
        rows.append(
            Utility(
                model=model,
                retain=_exponential(-loss, settings),
                holdout=None if held_out is None else _exponential(-held_out.loss, settings),
                ratio=_exponential(yardstick - loss, settings),  # paired: the same records under both
            )
        )
    return tuple(rows)


def _exponential(logs: Array, settings: Settings) -> Value:
    """exp of a mean of logarithms, with the interval of the mean."""
    mean = mean_with_interval(logs, settings.confidence)
    return Value(
        value=float(np.exp(mean.value)), low=float(np.exp(mean.low)), high=float(np.exp(mean.high)), n=mean.n, level=mean.level
    )


def _yardstick(references: Sequence[str]) -> str:
    return "the retrained references" if references else "the model before unlearning"


def _attacks(table: ScoreTable, settings: Settings) -> list[AttackResult]:
    """Every attack against every model."""
    from verify.attacks import attack_classes

    results = []
    for name in table.attacks():
        kind = attack_classes()[name]
        for model in _models(table):
            block = table.blocks[model, "forget"]
            if name not in block.scores:
                continue
            forget = block.scores[name]
            control = table.block(model, "holdout")
            against = None if control is None else control.scores[name]
            results.append(
                AttackResult(
                    attack=name,
                    family=kind.family,
                    model=model,
                    unit=kind.unit,
                    mean=Value.of(mean_with_interval(forget, settings.confidence)),
                    holdout_mean=None if against is None else Value.of(mean_with_interval(against, settings.confidence)),
                    auc=None if against is None else Value.of(membership_auc(forget, against, settings.confidence)),
                    tpr=() if against is None else _rates(forget, against, settings),
                )
            )
    return results


def _rates(forget: Array, against: Array, settings: Settings) -> tuple[RateAtFPR, ...]:
    return tuple(
        RateAtFPR(fpr=rate, tpr=Value.of(tpr_at_fpr(forget, against, rate, settings.confidence)))
        for rate in resolvable_rates(len(against), settings.fpr)
    )


def _accused(table: ScoreTable, target: ResidualVerdict | None) -> tuple[RecordFinding, ...]:
    """The records beyond the margin, the worst first."""
    if target is None:
        return ()
    block = table.blocks["target", "forget"]
    test = target.record_test
    found = np.flatnonzero(test.accused)
    return tuple(
        RecordFinding(
            record=block.records[index],
            subject=block.subjects[index],
            residual=float(target.residual[index] / target.mean_gap) if target.mean_gap else 0.0,
            direction="remembered" if test.remembered[index] else "over-forgotten",
            adjusted_p=float(test.rejections.adjusted[index]),
        )
        for index in sorted(found, key=lambda index: -abs(target.residual[index]))
    )


def _tests(target: ResidualVerdict) -> tuple[Test, ...]:
    mean, spread, record = target.mean_test, target.spread_test, target.record_test

    def quantities(**named: float) -> tuple[Quantity, ...]:
        return tuple(Quantity(name=name.replace("_", " "), value=float(value)) for name, value in named.items())

    shared = quantities(
        N_mean_residual=target.mean_residual,
        G_mean_gap=target.mean_gap,
        s_M_spread_of_references=target.spread,
        R_references=target.references,
        K_records=target.records,
    )
    tail = () if record.tail is None else quantities(fitted_tail_degrees=record.tail.degrees, fitted_tail_scale=record.tail.scale)
    d0 = record.variances.prior_degrees
    return (
        Test(
            name="C1",
            question="Is the set's mean residual inside the margin, on both sides?",
            fired=mean.certified,
            quantities=shared + quantities(t_above=mean.above, t_below=mean.below, must_be_below=-mean.certify_at),
        ),
        Test(
            name="C2",
            question="Is the spread of the residuals inside twice the margin, so that the mean hides nothing?",
            fired=spread.certified,
            quantities=quantities(upper_limit=spread.upper_limit, allowed=spread.allowed),
        ),
        Test(
            name="A1",
            question="Is the set's mean residual beyond the margin, on either side?",
            fired=mean.accused,
            quantities=quantities(t_above=mean.above, t_below=mean.below, must_exceed=mean.accuse_at),
        ),
        Test(
            name="A2",
            question="Is any single record's residual beyond the margin, corrected for their number?",
            fired=bool(record.accused.any()),
            quantities=quantities(
                records_accused=record.accused.sum(),
                smallest_adjusted_p=record.rejections.adjusted.min(),
                level=record.rejections.level,
                prior_variance=record.variances.prior_variance,
                # An infinite prior means that all records share one variance; the schema holds finite numbers only.
                prior_degrees_or_minus_1=d0 if np.isfinite(d0) else -1.0,
            )
            + tail,
        ),
    )


def _scope(settings: Settings) -> str:
    return (
        "A claim about this forget set as a whole, shown for the mean loss per token against retrained references, "
        f"with the margin rho* = {settings.margin:g} at level alpha = {settings.alpha:g}."
    )


def _explain(verdict: VerdictWord, gates: Sequence[Gate], target: ResidualVerdict | None, settings: Settings) -> tuple[str, ...]:
    failed = [gate for gate in gates if not gate.passed and "record" in gate.claims]
    if verdict == "NOT_TESTABLE":
        return tuple(gate.reason for gate in failed if gate.blocks == "NOT_TESTABLE")
    assert target is not None
    rho = "is not defined" if target.rho is None else f"is {target.rho.value:.3f} [{target.rho.low:.3f}, {target.rho.high:.3f}]"
    residual = f"The residual fraction {rho}: 1 is untouched, 0 is what retraining gives, below 0 is over-forgotten."
    test = target.record_test
    over = int((test.accused & ~test.remembered).sum())
    records = (
        f"{int(test.accused.sum())} of {target.records} records are beyond the margin of {settings.margin:g}: "
        f"{int(test.accused.sum()) - over} remembered, {over} over-forgotten."
    )
    if verdict == "NOT_FORGOTTEN":
        side = "more of the set is left" if target.mean_residual > 0 else "the set is further from the original"
        mean = f"On average {side} than between two honest retrainings, by more than the margin."
        return (residual, *([mean] if target.mean_test.accused else []), records)
    if verdict == "EQUIVALENT_WITHIN":
        return (residual, "Mean and spread of the residuals are inside the margin, and no record is beyond it.")
    open_tests = [name for name, shown in (("C1", target.mean_test.certified), ("C2", target.spread_test.certified)) if not shown]
    reasons = [f"Nothing was found, but equivalence was not shown either ({' and '.join(open_tests)})."] if open_tests else []
    return (residual, *reasons, *(gate.reason for gate in failed if gate.blocks == "INCONCLUSIVE"))


def _not_shown(controls: int, ratio: Value | None) -> tuple[str, ...]:
    """What no reader may take from this audit."""
    sentences = [
        "It is a claim about the set: it cannot exclude that a single record is still remembered.",
        "An attack that fails is evidence of resistance to that attack, not to others (EDPB Opinion 28/2024, paragraph 55).",
        "What the base model was pre-trained on is outside this audit: a record it held before fine-tuning is still there.",
        "Other copies of the records (data files, backups, other models) are not examined here.",
    ]
    if not controls:
        sentences.append("Membership attacks were not judged: no never-trained controls were given (--holdout FILE).")
    if ratio is None:
        sentences.append("Whether the model still works was not examined: no retain set was given (--retain FILE).")
    return tuple(sentences)


def _next_step(verdict: VerdictWord, gates: Sequence[Gate], references: int) -> str | None:
    if verdict in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN"):
        return None
    failed = [gate.name for gate in gates if not gate.passed and "record" in gate.claims]
    if "retrained references" in failed:
        return f"Train {max(4 - references, 1)} more references without the forget set, each with another --seed, and audit again."
    if verdict == "NOT_TESTABLE":
        return f"Mend what failed ({', '.join(failed)}) and audit again."
    more = max(8, 2 * references)
    return f"Audit again with {more} references: the width of every interval shrinks with their number."
