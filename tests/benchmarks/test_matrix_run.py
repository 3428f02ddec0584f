"""The matrix for real: one seed, few rows, trained here."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.matrix.checks import run_checks
from benchmarks.matrix.rows import Place
from benchmarks.matrix.run import run
from benchmarks.matrix.settings import CI
from verify.errors import InputError
from verify.io.files import MANIFEST

COARSE = dataclasses.replace(CI, subjects=30, forgotten=10, controls=40, uses=15, base_records=1500)
ROWS = ("none", "exact", "control")


@pytest.mark.slow
def test_one_seed_of_the_matrix(tmp_path: Path) -> None:
    """The untouched model leaks in all three ways and is detected, exact deletion is not, and a second call makes only what is
    missing."""
    place = Place(tmp_path, COARSE, "full")
    cells = {cell.row: cell for cell in run(place, "people", tmp_path, lambda *_: None, only=ROWS, workers=1)}
    assert set(cells) == set(ROWS)
    assert [check.passed for check in run_checks(list(cells.values()))] == [None, True, True, True]
    untouched, exact = cells["none"], cells["exact"]
    assert untouched.attack("reference").auc.value > 0.95
    assert exact.attack("reference").auc.low < 0.6
    assert untouched.strength.value > 2 * exact.strength.value
    assert untouched.triggers.gone.value > 0.5
    assert exact.triggers.gone.value < 0.2
    assert exact.triggers.stays.value > 0.5

    before = {row: (place.cell(row, 0) / MANIFEST).stat().st_mtime_ns for row in ROWS}
    (place.cell("control", 0) / MANIFEST).unlink()  # as if it had been killed before its last write
    again = {cell.row: cell for cell in run(place, "people", tmp_path, lambda *_: None, only=ROWS, workers=1)}
    after = {row: (place.cell(row, 0) / MANIFEST).stat().st_mtime_ns for row in ROWS}
    assert {row for row in ROWS if after[row] != before[row]} == {"control"}
    assert again["none"] == untouched
    assert again["control"].attack("loss") == cells["control"].attack("loss")
    with pytest.raises(InputError, match="another matrix"):
        run(Place(tmp_path, CI, "full"), "people", tmp_path, lambda *_: None)
    with pytest.raises(InputError, match="no row called nothing"):
        run(place, "people", tmp_path, lambda *_: None, only=("nothing",))
