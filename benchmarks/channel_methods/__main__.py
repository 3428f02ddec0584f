"""Trials of methods for the channels: how much is left on every channel, at which utility and cost.

    python -m benchmarks.channel_methods --output DIR [--world people|smollm2] [--workers N] [--seconds S] [--variants NAME ...]

Trains the models of a world that is not the contest's, tries every variant, and writes what was found into DIR/results.json, with
an honest retraining and the untouched model beside it. In the world smollm2 a pretrained model is taught the people by an adapter.
An interrupted run resumes, with the same sizes, seed and model; after S seconds no further trial is begun.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import torch

from benchmarks.channel_methods.measure import judge, line, measure_trained
from benchmarks.channel_methods.variants import PRETRAINED, VARIANTS, try_variant
from benchmarks.channel_methods.world import CONTEST_SEEDS, Place, Sizes, prepare, train
from unlearn.experiments.llm_demo import ASKED
from unlearn.experiments.smollm2 import default_folder
from verify.cli.console import run_command
from verify.io.files import read_json, write_json
from verify.io.jobs import Job, run_jobs
from verify.io.libraries import quiet_libraries

TAUGHT = Sizes(trained=40, forgotten=2, held_out=24)
"""People that a pretrained model is taught, each with twelve texts."""


def main() -> int:
    """Run what is missing and print one line for each result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--world", choices=("people", "smollm2"), default="people")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--trained", type=int)
    parser.add_argument("--forgotten", type=int)
    parser.add_argument("--held-out", type=int)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--base-records", type=int)
    parser.add_argument("--references", type=int)
    parser.add_argument("--wordings", type=int, choices=range(1, ASKED + 1), help="of every fact that a pretrained model is taught")
    parser.add_argument("--variants", nargs="*", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    if given.seed in CONTEST_SEEDS:
        parser.error("seeds 0 to 2 are the contest's, on which nothing may be tried")
    model = default_folder() if given.world == "smollm2" else None
    variants = given.variants if given.variants is not None else list(VARIANTS if model is None else PRETRAINED)
    if unknown := sorted(set(variants) - set(VARIANTS)):
        parser.error(f"there is no variant {unknown[0]}; name some of {', '.join(VARIANTS)}")
    names = ("trained", "forgotten", "held_out", "epochs", "base_records", "references", "wordings")
    chosen = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    sizes = dataclasses.replace(Sizes() if model is None else TAUGHT, **chosen)
    run(Place(given.output, given.seed, sizes, model), variants, given.workers, given.seconds)
    return 0


def run(place: Place, variants: list[str], workers: int, seconds: float) -> None:
    """Run the trials that are missing, several at a time, and print the results."""
    quiet_libraries()
    started, deadline = time.monotonic(), time.time() + seconds
    prepare(place)
    trained = [Job(name, 1, train, {"place": place, "name": name}) for name in place.trainings]
    measured = [Job(name, 1, measure_trained, {"place": place, "name": name}) for name in place.trainings]
    for stage in (trained, measured):
        for job, _ in run_jobs(stage, workers):
            print(f"{time.monotonic() - started:6.0f} s  {job.label}", flush=True)
    for name in ("original", "honest"):
        found = judge(place, read_json(place.folder / "measured" / f"{name}.json"))
        write_json(place.folder / "results" / f"{name}.json", found)
        print(line(name, found), flush=True)
    missing = [name for name in variants if not (place.folder / "results" / f"{name}.json").exists()]
    jobs = [Job(name, 1, within, {"place": place, "name": name, "deadline": deadline}) for name in missing]
    for job, found in run_jobs(jobs, workers):
        print(f"{time.monotonic() - started:6.0f} s  " + ("no time left" if found is None else line(job.label, found)), flush=True)
        collect(place)
    collect(place)


def collect(place: Place) -> None:
    """Write all results that are there into one file."""
    files = sorted((place.folder / "results").glob("*.json"))
    write_json(place.folder / "results.json", {path.stem: read_json(path) for path in files})


def within(place: Place, name: str, deadline: float) -> dict[str, object] | None:
    """Try a variant, unless the time is up."""
    if time.time() > deadline:
        return None
    torch.set_float32_matmul_precision("high")
    return try_variant(place, name, VARIANTS[name])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
