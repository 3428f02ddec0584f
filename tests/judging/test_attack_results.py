"""Attack results in both orientations: known answers, the price of two looks, and how often honest retrainings stand out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from score_tables import simulated_table

from verify.judging.attack_results import attack_results
from verify.judging.verdict_text import beyond_references
from verify.schema.attack_results import AttackResult
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics import tpr_at_fpr

SETTINGS = Settings(fpr=(0.1,))
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "wbc")


def table(rng: np.random.Generator, shift: float = 0.0, spread: float = 0.1) -> ScoreTable:
    """Scores by several attacks that share most of their noise; on the target's forget records they are shifted."""
    whole = simulated_table(references=4, records=60, controls=60)
    level = {role: rng.normal(size=60) for role in ("forget", "holdout")}
    blocks = {}
    for (model, role), block in whole.blocks.items():
        scores: dict[str, Any] = {}
        if role != "retain":
            own = level[role] + spread * rng.normal() * (role == "forget") + 0.3 * rng.normal(size=60)
            moved = shift if (model, role) == ("target", "forget") else 0.0
            scores = {name: own + moved + 0.3 * rng.normal(size=60) for name in ATTACKS}
        blocks[model, role] = replace(block, scores=scores)
    return ScoreTable(blocks)


def of_target(results: list[AttackResult], attack: str = "loss") -> AttackResult:
    return next(entry for entry in results if (entry.attack, entry.model) == (attack, "target"))


def test_rates_are_read_with_the_sign_reversed_too() -> None:
    """Records pushed down are found by the reversed rate and not by the other; both intervals are at (1 + c) / 2."""
    scored = table(np.random.default_rng(0), shift=-3.0)
    found = of_target(attack_results(scored, SETTINGS))
    forget, against = (scored.blocks["target", role].scores["loss"] for role in ("forget", "holdout"))
    (forward,), (reversed_,) = found.tpr, found.tpr_reversed
    assert forward.tpr.value == 0
    assert reversed_.tpr.value == tpr_at_fpr(-forget, -against, 0.1).value > 0.8
    assert forward.tpr.level == reversed_.tpr.level == pytest.approx(0.975)
    assert reversed_.tpr.low < tpr_at_fpr(-forget, -against, 0.1).low, "two looks cost width"
    assert found.auc is not None
    assert found.auc.level == 0.95


def test_rule_1_read_one_orientation() -> None:
    """Verdicts by rule 1 keep their numbers and their bytes: one orientation, at the level of the settings."""
    found = of_target(attack_results(table(np.random.default_rng(0)), SETTINGS.model_copy(update={"rule": 1})))
    assert found.tpr_reversed == ()
    assert found.tpr[0].tpr.level == 0.95
    assert "tpr_reversed" not in found.model_dump_json()
    both = of_target(attack_results(table(np.random.default_rng(0)), SETTINGS))
    assert AttackResult.model_validate_json(both.model_dump_json()) == both


def test_extraction_is_read_one_way() -> None:
    """A share of text that is given away has no reverse."""
    scored = simulated_table(references=4, controls=60)
    found = of_target(attack_results(scored, SETTINGS), "exact_memorization")
    assert found.tpr
    assert found.tpr_reversed == ()


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0, 2), (2.0, 20, 20), (-2.0, 20, 20)])
def test_how_often_an_attack_stands_out(shift: float, low: int, high: int) -> None:
    """Any of six attacks, in any orientation: in at most 2 of 20 audits of honest retrainings, always where records are moved."""
    rng = np.random.default_rng(1)
    found = sum(bool(beyond_references(attack_results(table(rng, shift), SETTINGS), "membership")) for _ in range(20))
    assert low <= found <= high
