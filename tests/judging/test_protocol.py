"""The four words, their precedence, and the gates in front of them."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from score_tables import simulated_table

from verify.judging.gates import blind_baseline_gate, controls_gate, references_gate, resolvable_rates
from verify.judging.protocol import Aside, judge
from verify.judging.verdict_text import seen_by_attacks
from verify.schema.attack_results import AttackResult
from verify.schema.parts import Value
from verify.schema.settings import Settings
from verify.scores.table import ScoreBlock, ScoreTable

SETTINGS = Settings(planted_draws=40)
BLIND = Value(value=0.52, low=0.5, high=0.58, n=200, level=0.95, seed=0)


def verdict(**truth: object) -> str:
    return judge(simulated_table(**truth), SETTINGS, Aside(BLIND)).verdict  # type: ignore[arg-type]


def gate(judged: object, name: str) -> object:
    return next(entry for entry in judged.gates if entry.name == name)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_honest_retraining_is_equivalent(seed: int) -> None:
    """One more honest retraining, judged by eight, is certified."""
    assert verdict(references=8, seed=seed) == "EQUIVALENT_WITHIN"


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_the_records_kept_is_found(seed: int, hidden: bool) -> None:
    """20 % of the records remembered is NOT_FORGOTTEN, also where over-forgotten records hide it from the mean."""
    judged = judge(simulated_table(kept=0.2, hidden=hidden, seed=seed), SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_FORGOTTEN"
    remembered = [entry for entry in judged.accused if entry.direction == "remembered"]
    assert len(remembered) >= 15, "the twenty records that were kept are named"


def test_an_untouched_model_is_not_forgotten_with_residual_one() -> None:
    """The original as its own target has residual fraction 1."""
    table = simulated_table()
    blocks = dict(table.blocks)
    for role in ("forget", "retain", "holdout"):
        blocks["target", role] = blocks["original", role]  # type: ignore[index]
    judged = judge(ScoreTable(blocks), SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_FORGOTTEN"
    assert judged.residual is not None
    assert judged.residual.value == pytest.approx(1.0)


def test_a_destroyed_model_is_never_certified() -> None:
    """A model that lost everything fails the utility gate: NOT_TESTABLE, before any other word."""
    judged = judge(simulated_table(destroyed=3.0), SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_TESTABLE"
    assert not gate(judged, "utility").passed  # type: ignore[attr-defined]
    assert any("token probability" in sentence for sentence in judged.explanation)


@pytest.mark.slow
def test_references_that_never_saw_the_retain_set_are_no_yardstick() -> None:
    """A model with five times their retain utility fails the gate, also where it kept records: nothing follows from such a
    comparison. Files without the ceiling, and audits by rule 1, are judged as they were."""
    for kept in (0.0, 0.2):
        judged = judge(simulated_table(destroyed=-1.6, kept=kept), SETTINGS, Aside(BLIND))
        assert judged.verdict == "NOT_TESTABLE"
        assert "at most 2.00" in gate(judged, "utility").reason  # type: ignore[attr-defined]
    for kept, verdict in ((0.0, "INCONCLUSIVE"), (1.0, "NOT_FORGOTTEN")):
        judged = judge(simulated_table(destroyed=-0.3, kept=kept), SETTINGS, Aside(BLIND))
        assert judged.verdict == verdict, "a little better than they is no way out of an accusation"
        assert "at most 1.25 for a certificate" in gate(judged, "utility").reason  # type: ignore[attr-defined]
    without = SETTINGS.model_dump_json(exclude={"utility_ceiling"})
    for earlier in (Settings.model_validate_json(without), Settings(rule=1)):
        assert earlier.utility_ceiling is None
        assert "utility_ceiling" not in earlier.model_dump()
    old = judge(simulated_table(destroyed=-1.6), Settings.model_validate_json(without), Aside(BLIND))
    assert gate(old, "utility").passed  # type: ignore[attr-defined]


def test_what_was_never_memorized_cannot_be_shown_forgotten() -> None:
    """An original that knows the forget set no better than the references fails the positive control."""
    judged = judge(simulated_table(gap=0.01), SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_TESTABLE"
    assert not gate(judged, "positive control").passed  # type: ignore[attr-defined]


@pytest.mark.parametrize(("references", "word"), [(0, "NOT_TESTABLE"), (1, "NOT_TESTABLE")])
def test_too_few_references_are_not_judged(references: int, word: str) -> None:
    """No or one reference gives NOT_TESTABLE with the next step, never a guess."""
    judged = judge(simulated_table(references=references), SETTINGS, Aside(BLIND))
    assert judged.verdict == word
    assert judged.next_step is not None
    assert "references" in judged.next_step


def test_two_references_are_at_best_inconclusive() -> None:
    """With two references the rule cannot be checked on the references themselves."""
    words = {verdict(references=2, seed=seed, model_spread=0.01) for seed in range(6)}
    assert words == {"INCONCLUSIVE"}


def test_a_reference_trained_on_the_forget_set_is_noticed() -> None:
    """The negative control stops an audit whose references differ by more than honest retrainings do."""
    table = simulated_table(references=5)
    blocks = dict(table.blocks)
    poisoned = blocks["reference 3", "forget"]
    original = blocks["original", "forget"]
    blocks["reference 3", "forget"] = ScoreBlock(
        poisoned.records, poisoned.subjects, poisoned.tokens, original.loss, poisoned.scores
    )
    judged = judge(ScoreTable(blocks), SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_TESTABLE"
    assert "3" in gate(judged, "negative control").reason  # type: ignore[attr-defined]


def test_without_a_retain_set_nothing_is_certified() -> None:
    """Utility that nobody looked at cannot stand behind a certificate."""
    judged = judge(simulated_table(references=8, retain=False), SETTINGS, Aside(BLIND))
    assert judged.verdict == "INCONCLUSIVE"
    assert any("--retain" in sentence for sentence in judged.explanation)
    assert "--retain FILE" in (judged.next_step or ""), "more references would not help"


@pytest.mark.slow
def test_the_scope_names_what_it_was_shown_by() -> None:
    """A certificate rests on references alone, an accusation on what accuses; what stays open was examined by all."""
    twins = Settings(planted_draws=40, twins=True)
    certified = judge(simulated_table(references=8), twins, Aside(BLIND, 0.5))
    assert certified.verdict == "EQUIVALENT_WITHIN"
    assert (certified.tiers, certified.accused_by) == (("retrained references", "exchangeable twins"), ())
    assert "these 100 texts, asked exactly as trained, the model's mean loss is within rho* = 0.1 of what 8" in certified.scope
    accused = judge(simulated_table(kept=0.2), SETTINGS, Aside(BLIND))
    assert accused.accused_by == ("retrained references",)
    silent = judge(simulated_table(references=0), twins, Aside(BLIND, 0.5))
    assert silent.verdict == "INCONCLUSIVE"
    assert "stays open: neither that it is gone nor that it is still there was shown. Examined was the mean loss" in silent.scope


def test_losses_out_of_all_proportion_are_no_crash() -> None:
    """Two retain records that the target finds impossible: the ratio's interval has no end, and the model is called broken."""
    table = simulated_table(references=4)
    blocks = dict(table.blocks)
    block = blocks["target", "retain"]
    blocks["target", "retain"] = replace(block, loss=block.loss + np.where(np.arange(len(block.loss)) < 2, [[900.0]], 60.0)[0])
    judged = judge(ScoreTable(blocks), SETTINGS, Aside(BLIND))
    assert judged.verdict == "NOT_TESTABLE"


def test_without_controls_attacks_have_no_auc() -> None:
    """A missing holdout set leaves AUC absent; it is never a silent one half."""
    judged = judge(simulated_table(controls=0), SETTINGS, Aside())
    assert all(entry.auc is None and not entry.tpr for entry in judged.attacks)
    assert gate(judged, "blind baseline").passed is None  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_gate_only_touches_its_claims() -> None:
    """The blind baseline condemns attacks on those controls, never the verdict against references."""
    table = simulated_table(references=8)
    told_apart = Value(value=0.8, low=0.7, high=0.9, n=200, level=0.95, seed=0)
    judged = judge(table, SETTINGS, Aside(told_apart))
    assert gate(judged, "blind baseline").passed is False  # type: ignore[attr-defined]
    assert judged.verdict == judge(table, SETTINGS, Aside(BLIND)).verdict == "EQUIVALENT_WITHIN"


@pytest.mark.slow
def test_judgement_is_reproducible() -> None:
    """The same table and settings give the same judgement, field by field."""
    table = simulated_table(kept=0.1)
    assert judge(table, SETTINGS, Aside(BLIND)) == judge(table, SETTINGS, Aside(BLIND))


def test_rates_need_three_over_f_controls() -> None:
    """A claim at FPR f needs at least 3/f controls; 100 carry 10 % but not 1 %."""
    assert resolvable_rates(100, (0.01, 0.1)) == [0.1]
    assert not controls_gate(100, (0.01, 0.1)).passed
    assert controls_gate(300, (0.01, 0.1)).passed
    judged = judge(simulated_table(controls=100), SETTINGS, Aside(BLIND))
    assert {rate.fpr for entry in judged.attacks for rate in entry.tpr} == {0.1}


def test_blind_limit_is_an_upper_limit() -> None:
    """An interval that merely contains one half is no pass: 0.55 [0.45, 0.67] fails."""
    assert not blind_baseline_gate(Value(value=0.55, low=0.45, high=0.67, n=40, level=0.95), 20).passed
    assert blind_baseline_gate(BLIND, 20).passed
    assert "--holdout" not in blind_baseline_gate(None, 20).reason
    assert "No holdout" in blind_baseline_gate(None, 0).reason


def test_reference_gate_says_what_to_type() -> None:
    """Each refusal of references names the flag to use."""
    for count in (0, 1, 2):
        assert "--references" in references_gate(count).reason


@pytest.mark.slow
def test_every_word_says_what_it_does_not_show() -> None:
    """No verdict goes out without its limits."""
    for truth in ({}, {"kept": 0.3}, {"references": 1}, {"references": 2}):
        judged = judge(simulated_table(**truth), SETTINGS, Aside(BLIND))  # type: ignore[arg-type]
        assert any("single record" in sentence for sentence in judged.not_shown)
        assert any("EDPB" in sentence for sentence in judged.not_shown)
        assert judged.explanation


def attack(model: str, auc: float, half: float = 0.05, family: Literal["membership", "extraction"] = "membership") -> AttackResult:
    """One attack's result on one model; an extraction attack has a mean in place of an AUC."""
    value = Value(value=auc, low=auc - half, high=auc + half, n=80, level=0.95)
    return AttackResult(
        attack="a", family=family, model=model, unit="nats", mean=value, auc=value if family == "membership" else None
    )


@pytest.mark.parametrize("family", ["membership", "extraction"])
def test_what_attacks_see_beside_the_verdict_is_said(family: Literal["membership", "extraction"]) -> None:
    """Where an attack's interval lies above, or below, those of all references, and nowhere else."""

    def said(target: float, *references: float) -> tuple[str, ...]:
        known = [attack(f"reference {number}", value, family=family) for number, value in enumerate(references, 1)]
        return seen_by_attacks([attack("target", target, family=family), attack("original", 1.0, family=family), *known])

    (sentence,) = said(0.8, 0.5, 0.6)
    assert "a 0.80 [0.75, 0.85], references at most 0.60" in sentence
    assert said(0.69, 0.5, 0.6) == ()
    (below,) = said(0.2, 0.5, 0.6)
    assert "a 0.20 [0.15, 0.25], references at least 0.50" in below
    assert said(0.8, 0.5) == (), "one reference does not show how far two are apart"


@pytest.mark.slow
def test_a_verdict_does_not_pass_over_what_another_attack_sees() -> None:
    """Certified by the loss while another signal tells the records apart: it stands first in what is not shown. An honest
    retraining, by the same attack, has no such sentence; where the verdict accuses, none is needed."""
    for kept, remembered, expected in ((0.0, 0.0, False), (2.0, 0.0, True), (2.0, 0.2, False)):
        table = simulated_table(references=8, controls=100, kept=remembered)
        random = np.random.default_rng(1)
        shifted = {
            (model, role): replace(
                block,
                scores={"loss": random.normal(kept if (model, role) == ("target", "forget") else 0.0, 1.0, len(block.records))},
            )
            for (model, role), block in table.blocks.items()
        }
        judged = judge(ScoreTable(shifted), SETTINGS, Aside(BLIND))
        assert judged.verdict == ("NOT_FORGOTTEN" if remembered else "EQUIVALENT_WITHIN")
        assert any("have no vote" in sentence for sentence in judged.not_shown[:1]) is expected


def test_figures_are_finite_and_sorted() -> None:
    """The numbers behind the figures are complete: counts add up, rates rise, residuals are sorted."""
    judged = judge(simulated_table(records=700), SETTINGS, Aside(BLIND))
    for histogram in judged.figures.losses:
        assert sum(histogram.counts) == 700
    for curve in judged.figures.roc:
        assert all(np.diff(curve.tpr) >= 0)
    residuals = judged.figures.residuals
    assert residuals is not None
    assert len(residuals.residual) == 500
    assert all(np.diff(residuals.residual) >= 0)
