"""Command line of the level table's measurement on real models.

    python -m benchmarks.level_table train --world people|tofu|smollm2 --output DIR [--seeds 0 1 2] [--seconds 400] [--workers 8]
    python -m benchmarks.level_table pack --output DIR --to FILE.zip
    python -m benchmarks.level_table page --output DIR

`train` trains and scores what is missing for a time, in some processes; it can be given again, and several times side by side.
`pack` puts the numbers that it left into one file, without records or weights. `page` writes `benchmarks/results/level_table.md`,
or `level_table_WORLD.md` for other worlds than people, from the folders and packed files in DIR.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from benchmarks.level_table.audits import Audit, audits_of
from benchmarks.level_table.costs import Costs, costs_of
from benchmarks.level_table.measure import missing_of
from benchmarks.level_table.packing import pack, unpack
from benchmarks.level_table.page import page
from benchmarks.level_table.tables import Measured, common_pools, left_out, regressions_of, rows_of
from benchmarks.level_table.tilts import measured_audits, section, tilts
from benchmarks.level_table.trainings import models_of
from benchmarks.level_table.workers import train
from benchmarks.level_table.worlds import DESIGN, Name, measured_world
from verify.io.files import write_text
from verify.io.libraries import quiet_libraries
from verify.statistics.level_fit import MIN_MODELS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Train and score, pack the numbers, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "pack", "page"))
    parser.add_argument("--world", choices=get_args(Name), default="people")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one world of other subjects and models for each")
    parser.add_argument("--output", type=Path, required=True, help="folder with one folder for each world")
    parser.add_argument("--seconds", type=float, default=400, help="begin no model that would end later than this")
    parser.add_argument("--workers", type=int, default=1, help="processes that train side by side")
    parser.add_argument("--to", type=Path, help="file that pack writes")
    parser.add_argument("--resume", type=Path, help="packed file that train begins with")
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--shared-data", type=Path, default=shared)
    given = parser.parse_args()
    quiet_libraries()
    if given.task == "train":
        if given.resume is not None:
            unpack(given.resume, given.output)
        missing = train(given.world, given.seeds, given.output, given.shared_data, given.seconds, given.workers)
        print(f"{missing} models are missing")
    elif given.task == "pack":
        if given.to is None:
            parser.error("pack needs the file to write: --to FILE.zip")
        pack(sorted(path.parent for path in given.output.glob(f"*/{DESIGN}")), given.to)
    else:
        with TemporaryDirectory() as unpacked:
            for path in sorted(given.output.glob("*.zip")):
                unpack(path, Path(unpacked))
            write_pages([path.parent for root in (given.output, Path(unpacked)) for path in sorted(root.glob(f"*/{DESIGN}"))])


def write_pages(folders: Sequence[Path]) -> None:
    """Write one page for every name of a world, from its worlds of which no model is missing, or from those that there are."""
    found: dict[str, list[Measured]] = {}
    machines: dict[str, dict[str, None]] = {}
    for folder in folders:
        world, machine = measured_world(folder)
        measured = Measured(world)
        if measured.of("full"):
            found.setdefault(world.name, []).append(measured)
            machines.setdefault(world.name, {})[machine] = None
    for name, worlds in found.items():
        place = RESULTS / ("level_table.md" if name == "people" else f"level_table_{name}.md")
        whole = [measured for measured in worlds if not missing_of(measured.world)]
        write_text(place, made(whole or worlds, "; ".join(machines[name])))


def missing_said(worlds: Sequence[Measured]) -> str:
    """Return which models of some worlds were not trained, in a sentence; nothing where all were."""
    planned = [model.kind for measured in worlds for model in models_of(measured.world)]
    there = [model.kind for measured in worlds for model in measured.models]
    counts = [(kind, there.count(kind), planned.count(kind)) for kind in dict.fromkeys(planned)]
    short = [f"{found} of {number} of kind `{kind}`" for kind, found, number in counts if found < number]
    return f"Not all models were trained: {len(there)} of {len(planned)} were. There are {', '.join(short)}." if short else ""


def made(worlds: Sequence[Measured], machine: str) -> str:
    """Return the page of worlds of one name, from what was measured."""
    world = worlds[0].world
    names = common_pools(worlds)
    usable = [name for name in names if left_out(worlds[0].pools()[name], worlds[0].of("full")[0]) >= MIN_MODELS]
    regressed = [row for name in names for row in regressions_of(worlds, name)]
    audits, costs = list[Audit](), list[Costs]()
    for measured in worlds:
        audits += audits_of(measured, {name: measured.pools()[name] for name in usable}, world.requests)
    for name in usable:
        costs += costs_of(worlds[0], name, worlds[0].pools()[name], world.requests)
    text = page(list(rows_of(worlds)), regressed, {world.name: audits}, costs, machine, missing_said(worlds))
    halves = [name for name in usable if name.startswith("half")]
    moved = [tilt for name in halves if worlds[0].of("full") for tilt in tilts(name, measured_audits(worlds, name))]
    return "\n".join([text, *section(moved), ""]) if moved else text


if __name__ == "__main__":
    main()
