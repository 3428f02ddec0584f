"""Command line of the matrix of threats and defences.

    python -m benchmarks.matrix --world people|tofu --output DIR [--setting small|ci|large] [--tuning full|lora] [--rows ROW ...]
    python -m benchmarks.matrix --world smollm2 --output DIR [--setting small|few|ci] [--workers N] [--seconds S] [--seeds 0 1 2]
    python -m benchmarks.matrix --render FILE.json ... --output DIR         tables and figure alone, without models

Writes `matrix_WORLD_TUNING.md`, `.json` and `.svg` into DIR, with `--publish` into benchmarks/results and docs/matrix.md as well.
Resumable: what is complete is kept, also where `--seconds` ended a run, whose table then has the rows that are complete, and names
the others with the reason. The exit status is 1 if a check or a part of the run fails. `smollm2` takes the model that `make model`
writes, and but for `few` a GPU, as `large` does.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from benchmarks.matrix.publish import Results, marks_of, results_of, update_page
from benchmarks.matrix.rows import Place, rows_of
from benchmarks.matrix.run import PartsFailedError, chosen_rows, finished, left_out, run, unfinished
from benchmarks.matrix.settings import PRETRAINED, SETTINGS, World, setting_for
from unlearn.experiments.smollm2 import default_folder
from verify.cli.console import FAILURE, progress_bar, run_command
from verify.errors import InputError
from verify.io.libraries import quiet_libraries

ROOT = Path(__file__).parents[2]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--world", "--data", choices=get_args(World), help="data and base model")
    made.add_argument("--render", type=Path, nargs="+", help="write only the tables and the figure of these results")
    made.add_argument("--setting", choices=tuple(SETTINGS | PRETRAINED), default="small")
    made.add_argument("--output", type=Path, required=True)
    made.add_argument("--tuning", choices=("full", "lora"), help="default: lora for smollm2, full for others")
    made.add_argument("--approximate", help="approximate method to use instead of the setting's, by its command-line name")
    made.add_argument("--epochs", type=float, help="passes of every fine-tuning, instead of the setting's")
    made.add_argument("--rate", type=float, help="learning rate of an adapter, instead of the setting's")
    made.add_argument("--rows", nargs="*", default=(), help="rows to run, by name; default: all")
    made.add_argument("--seeds", type=int, nargs="+", help="seeds to run; default: all of the setting")
    made.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="number of models made in parallel")
    made.add_argument("--seconds", type=float, help="end the run after this time")
    made.add_argument("--discard", action="store_true", help="remove the models of a seed once all its rows are measured")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    made.add_argument("--publish", action="store_true", help="also into benchmarks/results and docs/matrix.md")
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    made.add_argument("--shared-data", type=Path, default=shared)
    return made


def main() -> int:
    """Run what is missing and write the results; return 1 if a check fails."""
    given = parser().parse_args()
    if given.device != "auto":
        _require_device(given.device)
    failed: PartsFailedError | None = None
    if given.render:
        results = Results.read(given.render)
    elif given.world is None:
        raise InputError("the matrix is of a world. Name one with --world, or results of a run with --render FILE.json.")
    else:
        results, failed = _run(given)
    print(results.write(given.output).read_text())
    if given.publish:
        results.write(ROOT / "benchmarks" / "results")
        if not update_page(ROOT / "docs" / "matrix.md", results):
            begin, end = marks_of(results)
            print(
                f"docs/matrix.md has no place for this table, which is in benchmarks/results/{results.name}.md alone. To have it "
                f"on the page, too, put the lines {begin} and {end} there, and publish it again with --render.",
                file=sys.stderr,
            )
    if failed is not None:
        raise failed
    return FAILURE if any(check.passed is False for check in results.checks) else 0


def _require_device(device: str) -> None:
    """Hide the GPUs from this process and its workers, or raise InputError where there is none."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise InputError("--device cuda needs a GPU that PyTorch sees, and there is none. Use --device cpu, or leave it out.")


def _run(given: argparse.Namespace) -> tuple[Results, PartsFailedError | None]:
    """Run what is missing; return what there is, and what failed.

    Raises:
        InputError: no untouched model has been measured, so that there is nothing to compare with.
    """
    quiet_libraries()
    pretrained = given.world == "smollm2"
    setting = setting_for(given.setting, given.world, given.approximate)
    if given.epochs is not None:
        setting = replace(setting, options=replace(setting.options, epochs=given.epochs))
    if given.rate is not None:
        setting = replace(setting, lora_rate=given.rate)
    tuning = given.tuning or ("lora" if pretrained else "full")
    place = Place(given.output, setting, tuning, _base_folder() if pretrained else None)
    seeds: list[int] = given.seeds or list(range(setting.seeds))
    failed: PartsFailedError | None = None
    with progress_bar("the matrix") as progress:
        try:
            run(
                place,
                given.world,
                given.shared_data,
                progress,
                only=given.rows,
                workers=given.workers,
                seeds=seeds,
                seconds=given.seconds,
                discard=given.discard,
            )
        except PartsFailedError as error:
            failed = error
    cells = finished(place, list(rows_of(setting, tuning).values()), seeds)
    if not cells:
        raise failed or InputError("the time was up before the first untouched model was measured. The same command goes on.")
    missing = {} if given.rows else left_out(rows_of(setting, tuning))
    lacking = unfinished(place, chosen_rows(place, given.rows), seeds, {} if failed is None else failed.reasons)
    return results_of(place, given.world, cells, workers=given.workers, missing=missing, lacking=lacking), failed


def _base_folder() -> str:
    """Return the folder of SmolLM2."""
    folder = default_folder()
    if not (folder / "config.json").is_file():
        raise InputError(f"SmolLM2 is not at {folder}. Run make model, or set UNLEARN_SMOLLM2 to its folder.")
    return str(folder.resolve())


if __name__ == "__main__":
    raise SystemExit(run_command(main))
