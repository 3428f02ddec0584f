"""Command line of the level table's measurement on real models.

    python -m benchmarks.level_table train --world people|tofu|smollm2 --output DIR [--seconds 400]
    python -m benchmarks.level_table page --output DIR

`train` trains and scores what is missing for a time; it can be given again, and several times side by side. `page` writes
`benchmarks/results/level_table.md` from what there is.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.level_table.audits import Audit, audits_of
from benchmarks.level_table.costs import Costs, costs_of
from benchmarks.level_table.measure import measure_world
from benchmarks.level_table.page import page
from benchmarks.level_table.tables import Measured, Row, left_out, regressions_of, rows_of
from benchmarks.level_table.worlds import Name, World, open_world
from verify.io.files import write_text
from verify.io.libraries import quiet_libraries
from verify.statistics.level_fit import MIN_MODELS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Train and score, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "page"))
    parser.add_argument("--world", choices=get_args(Name), default="people")
    parser.add_argument("--output", type=Path, required=True, help="folder with one folder for each world")
    parser.add_argument("--seconds", type=float, default=400, help="begin no model that would end later than this")
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--shared-data", type=Path, default=shared)
    given = parser.parse_args()
    quiet_libraries()
    if given.task == "train":
        world = open_world(given.world, given.output / given.world, given.shared_data)
        missing = measure_world(world, given.seconds, lambda name, done: print(f"{100 * done:.0f} % {name}", flush=True))
        print(f"{missing} models are missing")
        return
    worlds = [open_world(name, given.output / name, given.shared_data) for name in get_args(Name) if (given.output / name).is_dir()]
    write_text(RESULTS / "level_table.md", made(worlds))


def made(worlds: Sequence[World]) -> str:
    """Return the page of the worlds, from what was measured."""
    rows, regressed, costs = list[Row](), list[Row](), list[Costs]()
    audits: dict[str, list[Audit]] = {}
    for measured in map(Measured, worlds):
        if not measured.of("full"):
            continue
        rows += rows_of(measured)
        name, sizes = measured.world.name, measured.world.requests
        for pool, models in measured.pools().items():
            regressed += regressions_of(measured, pool)
            if left_out(models, measured.of("full")[0]) < MIN_MODELS:
                continue
            audits[f"{name}, {pool}"] = list(audits_of(measured, models, sizes))
            costs += costs_of(measured, pool, models, sizes)
    return page(rows, regressed, audits, costs)


if __name__ == "__main__":
    main()
