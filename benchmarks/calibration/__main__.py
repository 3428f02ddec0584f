"""Command line of the calibration suite.

    python -m benchmarks.calibration --output DIR [--audits 200] [--per-truth 8]
    python -m benchmarks.calibration --world smollm2 --output DIR [--per-truth 8] [--workers N] [--seconds S]

Writes `benchmarks/results/calibration.md`, for both rules, and `calibration.svg`; of the pretrained language model that `make
model` writes, `calibration_smollm2.md`. Resumable: simulated cells are kept in DIR/rule_2.json and DIR/cells.json, models and
audits by their manifests. After S seconds nothing is begun, and the page has the audits that are there.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.calibration.attacks.two_faced import audit_attack
from benchmarks.calibration.page import page, rule_one_section
from benchmarks.calibration.pretrained import SEED, SIZES, audit_pretrained
from benchmarks.calibration.pretrained_page import pretrained_page
from benchmarks.calibration.real import TRUTHS, RealAudit, audit_real
from benchmarks.calibration.second_rule import SecondCell, simulate_second
from benchmarks.calibration.simulated import CASES, Cell, simulate
from benchmarks.channel_methods.world import Place, cost_of
from unlearn.experiments.smollm2 import default_folder
from verify.cli.console import progress_bar, run_command
from verify.errors import InputError
from verify.io.files import write_json, write_text
from verify.io.jobs import WORKERS
from verify.io.libraries import quiet_libraries
from verify.statistics import clopper_pearson

RESULTS = Path(__file__).parents[1] / "results"
Known = Callable[[str], dict[str, object] | None]
AnyCell = TypeVar("AnyCell", Cell, SecondCell)


def main() -> int:
    """Run all parts and write page and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--audits", type=int, default=200, help="simulated audits of a case; honest retrainings get more")
    parser.add_argument("--per-truth", type=int, default=8, help="real models of each kind")
    parser.add_argument("--world", choices=("people", "smollm2"), default="people", help="of the real models")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes for smollm2")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for smollm2: nothing begins after these")
    given = parser.parse_args()
    quiet_libraries()
    if given.world == "smollm2":
        run_pretrained(Place(given.output, SEED, SIZES, default_folder()), given.per_truth, given.workers, given.seconds)
        return 0
    second = run_second(given.output, given.audits)
    with progress_bar("attack on real models") as progress:
        attacked = audit_attack(given.output / "attack", progress)
    started = time.monotonic()
    cells = run_simulated(given.output, given.audits)
    with progress_bar("real models") as progress:
        audits = list(audit_real(given.output / "real", given.per_truth, progress))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {time.monotonic() - started:.0f} s"
    write_text(RESULTS / "calibration.md", page(second, attacked, rule_one_section(cells, audits, machine)))
    draw(cells, audits, RESULTS / "calibration.svg")
    return 0


def run_pretrained(place: Place, per_truth: int, workers: int, seconds: float, results: Path = RESULTS) -> None:
    """Train and audit what is missing on a pretrained model, and write its page.

    Raises:
        InputError: the model is missing, or the time was up before the first audit was there.
    """
    if place.model is None or not (place.model / "config.json").is_file():
        raise InputError(f"SmolLM2 is not at {place.model}. Run make model, or set UNLEARN_SMOLLM2 to its folder.")
    with progress_bar("real models") as progress:
        audits = audit_pretrained(place, per_truth, progress, workers=workers, seconds=seconds)
    if not audits:
        raise InputError("the time was up before the first audit. The same command goes on; give more --seconds.")
    took = cost_of(place, "reference1")
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; the training of the first reference took "
        f"{took['seconds']:.0f} s, {took['processor']:.0f} of processor time."
    )
    write_text(results / "calibration_smollm2.md", pretrained_page(place, audits, per_truth, machine))


def run_simulated(output: Path, audits: int) -> list[Cell]:
    """Return all cells of rule 1; those of an earlier run are reused."""
    return list(_kept(output / "cells.json", partial(simulate, audits)))


def run_second(output: Path, audits: int) -> list[SecondCell]:
    """Return all cells of rule 2; those of an earlier run are reused."""
    return list(_kept(output / "rule_2.json", partial(simulate_second, audits)))


def _kept(state: Path, simulated: Callable[[Known], Iterable[tuple[str, AnyCell]]]) -> Iterator[AnyCell]:
    """Yield cells as they are simulated, and keep each in the file `state`."""
    done = json.loads(state.read_text()) if state.exists() else {}
    for name, cell in simulated(done.get):
        if name not in done:
            done[name] = asdict(cell)
            write_json(state, done)
        yield cell


def draw(cells: Sequence[Cell], audits: Sequence[RealAudit], path: Path) -> None:
    """Plot how often each rule calls a model forgotten, by ground truth; refusals count as "not called forgotten"."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    simulated, real = figure.subplots(1, 2, sharey=True)
    rules = (("verdict EQUIVALENT_WITHIN", "#1b4f72"), ("TOFU forget quality", "#b9770e"), ("plain AUC", "#7b7d7d"))
    groups = []
    for case in CASES:
        chosen = [cell for cell in cells if cell.case == case]
        total = sum(cell.audits for cell in chosen)
        hits = [sum(getattr(cell, name) for cell in chosen) for name in ("certified", "forget_quality_passes", "plain_auc_passes")]
        groups.append((case, hits, total))
    truths = []
    for truth in TRUTHS:
        outcomes = [entry for entry in audits if entry.truth == truth]
        hits = [
            sum(entry.verdict == "EQUIVALENT_WITHIN" for entry in outcomes),
            sum(entry.forget_quality for entry in outcomes),
            sum(entry.plain_auc for entry in outcomes),
        ]
        truths.append((truth, hits, len(outcomes)))
    for axes, title, data in ((simulated, "simulated audits", groups), (real, "real models", truths)):
        for position, (_, hits, total) in enumerate(data):
            for offset, (count, (rule, colour)) in enumerate(zip(hits, rules, strict=True)):
                rate = clopper_pearson(count, total, 0.95)
                bars = [[rate.value - rate.low], [rate.high - rate.value]]
                label = rule if position == 0 else None
                axes.bar(position + (offset - 1) * 0.26, rate.value, 0.24, yerr=bars, color=colour, label=label, capsize=2)
        axes.set_xticks(range(len(data)), [name.replace(", ", ",\n").replace(" remembered", "\nremembered") for name, _, _ in data])
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    simulated.set_ylabel("called forgotten")
    simulated.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
