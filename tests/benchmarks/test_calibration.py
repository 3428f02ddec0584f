"""A part of the calibration suite that fits into CI: the verdict against truths that are known."""

import json
from pathlib import Path

import pytest

from benchmarks.calibration.__main__ import run_simulated
from benchmarks.calibration.real import TRUTHS, audit_real
from benchmarks.calibration.simulated import CASES
from verify.statistics import clopper_pearson


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
    """One model of each truth, trained here: the honest one is not accused, the one that kept a fifth is never certified."""
    outcomes = {entry.truth: entry for entry in audit_real(tmp_path, 1, lambda *_: None)}
    assert set(outcomes) == set(TRUTHS)
    assert outcomes["honest retraining"].verdict in ("EQUIVALENT_WITHIN", "INCONCLUSIVE")
    assert outcomes["20 % kept"].verdict == "NOT_FORGOTTEN"
    assert outcomes["over-forgotten"].verdict != "EQUIVALENT_WITHIN"
