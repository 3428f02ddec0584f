"""The matrix for real: one seed, few rows, trained by its notebook."""

import dataclasses
from pathlib import Path

import pytest
from notebook_runs import run_notebook

from benchmarks.matrix.checks import run_checks
from benchmarks.matrix.rows import Place
from benchmarks.matrix.run import ABOUT, run
from benchmarks.matrix.settings import CI
from verify.errors import InputError
from verify.io.files import MANIFEST

COARSE = dataclasses.replace(CI, subjects=30, forgotten=10, controls=40, uses=15, base_records=1500)
ROWS = ("none", "exact", "control")


@pytest.mark.slow
def test_one_seed_of_the_matrix(tmp_path: Path) -> None:
    """The notebook runs; the untouched model leaks in all three ways and is detected, exact deletion is not, and a call in the
    same folder makes only what is missing."""
    run_notebook("matrix", tmp_path)
    (folder,) = (path.parent for path in tmp_path.glob(f"*/{ABOUT}"))
    place = Place(folder, COARSE, "full")
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob(MANIFEST)}
    cells = {cell.row: cell for cell in run(place, "people", tmp_path, lambda *_: None, only=ROWS, workers=1)}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob(MANIFEST)} == trained, "the notebook made them all"
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
        run(Place(folder, CI, "full"), "people", tmp_path, lambda *_: None)
    with pytest.raises(InputError, match="no row called nothing"):
        run(place, "people", tmp_path, lambda *_: None, only=("nothing",))
