"""Contest: which approximate method brings forget records to the loss level of a retraining?

    python -m benchmarks.contest --world people|tofu01|tofu05|tofu10|knowundo --output DIR [--seeds 0 1 2] [--methods NAME ...]
    python -m benchmarks.contest --output DIR         all worlds that were run, in one table

Every approximate method of the catalogue is tuned over six settings on one half of the forget set and judged on the other against
retrained references, with relearning and 4-bit rounding. Writes `contest_WORLD.md`, `.json` and `.svg` into DIR, with `--publish`
into benchmarks/results as well. An interrupted run resumes.
"""

import argparse
import os
from pathlib import Path
from typing import get_args

from benchmarks.contest.data import World
from benchmarks.contest.run import Place, approximate_methods, run_contest
from benchmarks.contest.table import summary, write_results
from verify.cli.console import progress_bar
from verify.io.libraries import quiet_libraries

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=get_args(World))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=approximate_methods())
    parser.add_argument("--publish", action="store_true")
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--shared-data", type=Path, default=shared)
    given = parser.parse_args()
    quiet_libraries()
    folders = (given.output, RESULTS) if given.publish else (given.output,)
    if given.world is None:
        print(summary(RESULTS if given.publish else given.output))
        return
    runs = {}
    for seed in given.seeds:
        place = Place(given.output / f"{given.world}-{seed}", given.world, seed, given.references)
        with progress_bar(f"seed {seed}") as progress:
            runs[seed] = run_contest(place, given.shared_data, given.methods, progress)
        for folder in folders:
            table = write_results(folder, given.world, runs, given.references)
    print(table)


if __name__ == "__main__":
    main()
