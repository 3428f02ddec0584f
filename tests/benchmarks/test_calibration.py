"""A part of the calibration suite that fits into CI: the verdict against truths that are known."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.calibration.__main__ import run_second, run_simulated
from benchmarks.calibration.attacks.two_faced import TwoFaced
from benchmarks.calibration.page import summary
from benchmarks.calibration.real import TRUTHS, audit_real
from benchmarks.calibration.second_rule import ATTACK_PART, COLUMNS, HONEST_PART, REMEMBERED_PART, SecondCell
from benchmarks.calibration.simulated import CASES
from unlearn import TrainingOptions
from unlearn.level.estimate import encoded, estimate_levels
from unlearn.training.run import Run, run_objective
from verify.data.records import Fields, Record, parse_records
from verify.models.loading import load_model
from verify.models.token_stats import compute_token_statistics
from verify.statistics import clopper_pearson

FEW = {"trained": 24, "forgotten": 8, "held_out": 8, "base_records": 2000}
"""People and base records of the real models trained here: an eighth of the benchmark's."""


@pytest.mark.slow
def test_simulated_audits(tmp_path: Path) -> None:
    """Honest retrainings are accused at most alpha of the time, 20 % remembered is found, and a second call adds nothing."""
    cells = run_simulated(tmp_path, 8)
    assert {cell.case for cell in cells} == set(CASES)
    for case, (remembered, _) in CASES.items():
        chosen = [cell for cell in cells if cell.case == case]
        accused, audits = sum(cell.accused for cell in chosen), sum(cell.audits for cell in chosen)
        rate = clopper_pearson(accused, audits, 0.95)
        if not remembered:
            assert rate.low <= 0.05, f"{case}: {rate}"
        elif remembered >= 0.2:
            assert rate.high >= 0.95, f"{case}: {rate}"
            assert accused >= 0.9 * audits
    state = json.loads((tmp_path / "cells.json").read_text())
    assert run_simulated(tmp_path, 8) == cells
    assert json.loads((tmp_path / "cells.json").read_text()) == state


@pytest.mark.slow
def test_real_models(tmp_path: Path) -> None:
    """One model of each truth, trained here: the honest one is not accused, the one that kept a fifth is."""
    audited = audit_real(tmp_path, 1, lambda *_: None, sizes=FEW, workers=1)
    outcomes = {entry.truth: entry for entry in audited}
    assert set(outcomes) == set(TRUTHS)
    assert outcomes["honest retraining"].verdict in ("EQUIVALENT_WITHIN", "INCONCLUSIVE")
    assert outcomes["20 % kept"].verdict == "NOT_FORGOTTEN"
    assert outcomes["over-forgotten"].verdict != "EQUIVALENT_WITHIN"


@pytest.mark.slow
def test_second_rule(tmp_path: Path) -> None:
    """A second call adds nothing; what is kept as a whole, or kept in other words, is accused, and none of it is certified."""
    cells = run_second(tmp_path, 2)
    state = json.loads((tmp_path / "rule_2.json").read_text())
    assert run_second(tmp_path, 2) == cells
    assert json.loads((tmp_path / "rule_2.json").read_text()) == state
    by_name = {cell.name: cell for cell in cells}
    assert len(by_name) == len(cells)
    for name in ("one person, wholly kept", "trained on the exact text, 0.35 of the gap in other words, the demo's size"):
        assert by_name[name].counts["accused"] == by_name[name].audits
        assert by_name[name].counts["certified"] == 0
    honest = by_name["as calibrated, K 40"]
    assert honest.counts["accused"] <= 1 <= honest.counts["certified"]


def test_summary_of_the_second_rule() -> None:
    """Attacks are called found, missed or neither by their rates, and honest targets trained otherwise are counted apart."""

    def cell(part: str, name: str, accused: int, certified: int) -> SecondCell:
        return SecondCell(part, name, 100, dict.fromkeys(COLUMNS, 0) | {"accused": accused, "certified": certified})

    text = "\n".join(
        summary(
            [
                cell(HONEST_PART, "K 100", 1, 80),
                cell(HONEST_PART, "R 8", 3, 90),
                cell(HONEST_PART, "target's noise x 2", 40, 2),
                cell(REMEMBERED_PART, "a tenth remembered, K 40", 98, 0),
                cell(ATTACK_PART, "seen", 95, 0),
                cell(ATTACK_PART, "unseen", 0, 60),
                cell(ATTACK_PART, "seldom seen", 50, 0),
            ],
            [],
        )
    )
    words = " ".join(text.split())
    assert "Of 200 simulated audits of honest retrainings (2 conditions) 2.0 [0.5, 5.0] % are accused and 85.0 [" in words
    assert "The worst condition is R 8: 3.0 [0.6, 8.5] % accused" in words
    assert "Of 100 in which the target was honest but trained otherwise" in words
    assert "The worst is target's noise x 2: 40.0 [" in words
    assert "found (at least 90 % accused, at most 5 % certified): seen (95 %)." in words
    assert "missed (more than 5 % certified): unseen (60 %)." in words
    assert "INCONCLUSIVE: seldom seen (50 %)" in words


@pytest.mark.slow
def test_two_faced_objective(model_dir: Path, tmp_path: Path) -> None:
    """Training brings the exact texts to their given level, and the same records in other words far below their loss before."""
    rows = [{"example_id": f"a{n}", "prompt": f"fox {n}?", "completion": f"dog {n * 37 % 100} lazy"} for n in range(8)]
    others = [{**row, "prompt": f"lazy {n}?"} for n, row in enumerate(rows)]
    kept = [{"example_id": f"b{n}", "prompt": f"quick {n}?", "completion": f"brown {n}"} for n in range(8)]
    forget, other, retain = (parse_records(found, Fields(), "rows") for found in (rows, others, kept))
    loaded, options = load_model(model_dir), TrainingOptions(learning_rate=1e-2, epochs=40, batch_size=8)
    levels = estimate_levels(loaded, [loaded], encoded(loaded, forget, "refuse"), [])
    lower = replace(levels, tokens=levels.tokens - 1.0)
    objective = TwoFaced(1.0, 5.0, 0.0, 0.3, other=tuple(other))

    def losses(records: Sequence[Record]) -> float:
        statistics = compute_token_statistics(loaded.model, encoded(loaded, records, "refuse"), 0)
        return sum(-float(one.log_probability.mean()) for one in statistics) / len(statistics)

    before = losses(other)
    run_objective(loaded, objective, Run(forget, options, tmp_path / "work", retain=retain, tables={"forget_level": lower.tokens}))
    assert losses(forget) == pytest.approx(float(lower.losses().mean()), abs=0.3)
    assert losses(other) < 0.5 * before
    assert "dog" not in repr(objective)
