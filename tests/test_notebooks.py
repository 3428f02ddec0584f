"""The notebooks run from top to bottom."""

from pathlib import Path

import pytest
from notebook_runs import NAMES, run_notebook

ELSEWHERE = {"matrix"}
"""Run in `benchmarks/test_matrix_run.py`, which looks at what it leaves."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*NAMES} - ELSEWHERE))
def test_notebook_runs(name: str, tmp_path: Path) -> None:
    """Every cell runs without an error."""
    run_notebook(name, tmp_path)


def test_every_notebook_is_tested() -> None:
    """Here or elsewhere."""
    assert {*NAMES} >= ELSEWHERE
    assert {*NAMES} - ELSEWHERE
