"""The examples run as they stand, stay short, and use public names only."""

import ast
import re
from pathlib import Path

import pytest
from new_processes import printed_by

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


AS_A_SCRIPT = """
import os, runpy, sys
os.environ.update(PYTHONPATH=sys.argv[2], OMP_NUM_THREADS="1")  # of the commands that an example starts
sys.path.insert(0, os.path.dirname(sys.argv[1]))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


IN_A_FOLDER = """
import os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAYS))
def test_example_runs(name: str) -> None:
    """It ends without an error and prints what its reader is told."""
    printed = printed_by(AS_A_SCRIPT, str(FOLDER / f"{name}.py"), str(FOLDER.parent))
    assert re.search(SAYS[name], printed), printed


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


@pytest.mark.slow
def test_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    """The README's Python, run as it stands in an empty folder, prints the lines below it; numbers within a tenth."""
    blocks = re.findall(r"```(?:python)?\n(.*?)```", (FOLDER.parent / "README.md").read_text(), flags=re.DOTALL)
    place = next(number for number, block in enumerate(blocks) if "evidence.verdict_phrase" in block)
    number = r"-?\d+\.\d+"
    said, printed = blocks[place + 1].strip(), printed_by(IN_A_FOLDER + blocks[place], str(tmp_path), str(FOLDER)).strip()
    assert re.sub(number, "#", printed) == re.sub(number, "#", said)
    assert [float(one) for one in re.findall(number, printed)] == pytest.approx(
        [float(one) for one in re.findall(number, said)], abs=0.1
    )
