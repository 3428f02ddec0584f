"""The examples run as they stand, stay short, and use public names only."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unlearn
import verify

FOLDER = Path(__file__).parents[1] / "examples"
SAYS = {
    "audit": r"^original: NOT_FORGOTTEN.*\nnpo: \w+.*\nretrained: EQUIVALENT_WITHIN",
    "delete_one_person": r"^adapters: 3, unchanged: 2, trained again: 1\nexactness: Every shard is",
    "forget": r"^original: forget loss \d\.\d\d, retain loss \d\.\d\d\nunlearned: forget loss \d\.\d\d",
    "read_verdict": r"(?s)^verdict: INCONCLUSIVE\n.*gate:    retrained references: failed\n.*next:    Train 2 more references",
    "sign_and_check": r"(?s)holds .*verdict: .*exit status: 0\n.*FAILS .*\nexit status after the weights were changed: 1",
}
"""What each example prints, as far as it must not change."""


def test_every_example_is_tested() -> None:
    """Five examples and what they share; a new one needs a line above."""
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SAYS, "tiny_world"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAYS))
def test_example_runs(name: str) -> None:
    """It ends without an error and prints what its reader is told."""
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[name], done.stdout), done.stdout


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_public(path: Path) -> None:
    """At most 40 lines, and nothing imported from the packages but what they export."""
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("unlearn", "verify"):
            package = {"unlearn": unlearn, "verify": verify}.get(node.module or "")
            assert package is not None, f"{path.name} imports from {node.module}"
            assert {alias.name for alias in node.names} <= set(package.__all__)
