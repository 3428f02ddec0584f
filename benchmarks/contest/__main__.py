"""Contest: which approximate method brings forget records to the loss level of a retraining?

    python -m benchmarks.contest --world people|tofu01|tofu05|tofu10|knowundo --output DIR [--seeds 0 1 2] [--methods NAME ...]
    python -m benchmarks.contest --world smollm2|smollm2_all|smollm2_short --output DIR --work DIR --workers 10 --seconds 500
    python -m benchmarks.contest --merge contest_WORLD.json ... --output DIR     tables and figure from results alone
    python -m benchmarks.contest --output DIR         all worlds that were run, in one table

Every approximate method of the catalogue is tuned over some settings on one half of the forget set and judged on the other against
retrained references: by the verdict on every channel, and by the probes. `smollm2` teaches TOFU's authors to SmolLM2-135M-Instruct
(from `make model`, or the folder in UNLEARN_SMOLLM2) by an adapter, `smollm2_all` in all weights; `smollm2_short`, for two cores,
has fewer texts of more authors, and the settings that `smollm2` found. `rollback` can be named there, too, and `sisa` with the
adapter. On small models "level, table" can be named: `level` with the aim of a level table, whose pool of eight models is trained
first. Models stay in the working folder until their entry is judged. Writes `contest_WORLD.md`, `.json` and `.svg` into the output,
with `--publish` into benchmarks/results as well. An interrupted run resumes.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.contest.data import LLM_OPTIONS, World
from benchmarks.contest.place import Place
from benchmarks.contest.run import entries, run_contest
from benchmarks.contest.settings import BY_TABLE, EXACT, approximate_methods
from benchmarks.contest.table import merged, summary, write_results
from verify.io.libraries import quiet_libraries

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WRITTEN_EVERY = 30
"""Seconds between two writings of the results while a contest runs."""


def main() -> None:
    """Run what is missing and write the results."""
    given = _parser().parse_args()
    quiet_libraries()
    folders = (given.output, RESULTS) if given.publish else (given.output,)
    if given.merge:
        world, runs = merged(given.merge)
        for folder in folders:
            tables = write_results(folder, world, runs, given.suffix)
        print(tables)
    elif given.world is None:
        print(summary(RESULTS if given.publish else given.output))
    else:
        print(_run(given, folders))


def _run(given: argparse.Namespace, folders: Sequence[Path]) -> str:
    """Run a world; its results are written now and then, so that a run that is ended from outside leaves some."""
    references = given.references or (4 if given.world in LLM_OPTIONS else 8)
    work = given.work or given.output
    places = [Place(work / f"{given.world}-{seed}", given.world, seed, references) for seed in given.seeds]
    start = written = time.monotonic()

    def write() -> str:
        runs = {place.seed: entries(place, given.methods) for place in places}
        return [write_results(folder, given.world, runs, given.suffix) for folder in folders][-1]

    def progress(what: str, share: float) -> None:
        nonlocal written
        print(f"{time.monotonic() - start:.0f} s, {share:.0%}: {what}", flush=True)
        if time.monotonic() - written > WRITTEN_EVERY:
            write()
            written = time.monotonic()

    run_contest(places, given.shared_data, given.methods, workers=given.workers, seconds=given.seconds, progress=progress)
    return write()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=get_args(World))
    parser.add_argument("--output", type=Path, required=True, help="folder of tables, JSON and figure")
    parser.add_argument("--work", type=Path, help="folder of data and models; the default is the output")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--references", type=int, help="8 on small models, 4 on a pretrained one")
    parser.add_argument("--methods", nargs="+", default=approximate_methods(), choices=[*approximate_methods(), BY_TABLE, *EXACT])
    parser.add_argument("--workers", type=int, default=1, help="processes side by side, on one device")
    parser.add_argument("--seconds", type=float, help="begin nothing that would end later")
    parser.add_argument("--merge", type=Path, nargs="+", help="result files to write tables from, without running anything")
    parser.add_argument("--suffix", default="", help="of the names of the result files, contest_WORLD_SUFFIX.md")
    parser.add_argument("--publish", action="store_true", help="write into benchmarks/results as well")
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--shared-data", type=Path, default=shared)
    return parser


if __name__ == "__main__":
    main()
