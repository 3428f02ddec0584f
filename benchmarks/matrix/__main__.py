"""Command line of the matrix of threats and defences.

    python -m benchmarks.matrix --setting small|ci|large --data people|tofu --output DIR [--tuning full|lora] [--rows ROW ...]

Writes `matrix_DATA_TUNING.md`, `.json` and `.svg` into DIR, with `--publish` into benchmarks/results and docs/matrix.md as well.
Resumable: a cell whose manifest verifies is kept. The exit status is 1 if a check fails. `large` is meant for a GPU and has not
been run.
"""

import argparse
import os
from pathlib import Path

from benchmarks.matrix.checks import run_checks
from benchmarks.matrix.publish import update_page, write_results
from benchmarks.matrix.rows import Place
from benchmarks.matrix.run import run
from benchmarks.matrix.settings import SETTINGS, setting_for
from verify.cli.console import FAILURE, progress_bar, run_command

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run what is missing and write the results; return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=tuple(SETTINGS), required=True)
    parser.add_argument("--data", choices=("people", "tofu"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tuning", choices=("full", "lora"), default="full")
    parser.add_argument("--approximate", help="approximate method to use instead of the setting's, by its command-line name")
    parser.add_argument("--rows", nargs="*", default=(), help="rows to run, by name; default: all")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="number of cells made in parallel")
    parser.add_argument("--publish", action="store_true", help="also into benchmarks/results and docs/matrix.md")
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--shared-data", type=Path, default=shared)
    given = parser.parse_args()
    place = Place(given.output, setting_for(given.setting, given.data, given.approximate), given.tuning)
    with progress_bar("the matrix") as progress:
        cells = run(place, given.data, given.shared_data, progress, only=given.rows, workers=given.workers)
    checks = run_checks(cells)
    path = write_results(place, given.data, cells, checks, given.output)
    print(path.read_text())
    if given.publish:
        write_results(place, given.data, cells, checks, ROOT / "benchmarks" / "results")
        update_page(ROOT / "docs" / "matrix.md", place, given.data, cells, checks)
    return FAILURE if any(check.passed is False for check in checks) else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
