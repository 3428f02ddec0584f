"""Command line of the calibration suite.

    python -m benchmarks.calibration --output DIR [--audits 200] [--per-truth 8]

Writes `benchmarks/results/calibration.md` and `calibration.svg`. Resumable: simulated cells are kept in DIR/cells.json, models and
audits by their manifests.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.calibration.real import TRUTHS, RealAudit, audit_real
from benchmarks.calibration.simulated import CASES, Cell, simulate
from verify.cli.console import progress_bar
from verify.io.files import write_json, write_text
from verify.io.libraries import quiet_libraries
from verify.statistics import clopper_pearson

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Run both parts and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--per-truth", type=int, default=8)
    given = parser.parse_args()
    quiet_libraries()
    started = time.monotonic()
    cells = run_simulated(given.output, given.audits)
    with progress_bar("real models") as progress:
        audits = list(audit_real(given.output / "real", given.per_truth, progress))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {time.monotonic() - started:.0f} s"
    write_text(RESULTS / "calibration.md", _page(cells, audits, machine))
    draw(cells, audits, RESULTS / "calibration.svg")


def run_simulated(output: Path, audits: int) -> list[Cell]:
    """Return all cells; those of an earlier run are reused."""
    state = output / "cells.json"
    done = json.loads(state.read_text()) if state.exists() else {}
    cells = []
    for name, cell in simulate(audits, done.get):
        if name not in done:
            done[name] = asdict(cell)
            write_json(state, done)
        cells.append(cell)
    return cells


def _rate(hits: int, count: int) -> str:
    rate = clopper_pearson(hits, count, 0.95)
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _page(cells: Sequence[Cell], audits: Sequence[RealAudit], machine: str) -> str:
    lines = [
        "# Calibration",
        "",
        f"{machine}. Rates in per cent with exact 95 % intervals. The verdict's defaults: rho* = 0.10, alpha = 0.05.",
        '"Forgotten" by TOFU forget quality: two-sample Kolmogorov-Smirnov p > 0.05 on losses against one retrained model; by a',
        "plain AUC: its 95 % interval against never-trained controls contains one half.",
        "",
        "## Simulated audits",
        "",
        "| case | K | R | errors | accused | certified | forgotten by forget quality | forgotten by plain AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in sorted(cells, key=lambda entry: list(CASES).index(entry.case)):
        counts = (cell.accused, cell.certified, cell.forget_quality_passes, cell.plain_auc_passes)
        rates = " | ".join(_rate(count, cell.audits) for count in counts)
        lines.append(f"| {cell.case} | {cell.records} | {cell.references} | {cell.errors} | {rates} |")
    lines += [
        "",
        "## Real models",
        "",
        "| truth | audits | accused | certified | inconclusive | not testable | residual fraction | forget quality | plain AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for truth in TRUTHS:
        chosen = [entry for entry in audits if entry.truth == truth]
        words = ("NOT_FORGOTTEN", "EQUIVALENT_WITHIN", "INCONCLUSIVE", "NOT_TESTABLE")
        counts = [sum(entry.verdict == word for entry in chosen) for word in words]
        rates = " | ".join(_rate(count, len(chosen)) for count in counts)
        span = f"{min(entry.residual for entry in chosen):+.3f} .. {max(entry.residual for entry in chosen):+.3f}"
        quality, auc = sum(entry.forget_quality for entry in chosen), sum(entry.plain_auc for entry in chosen)
        lines.append(f"| {truth} | {len(chosen)} | {rates} | {span} | {quality} of {len(chosen)} | {auc} of {len(chosen)} |")
    return "\n".join(lines) + "\n\n![Rates](calibration.svg)\n"


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
    main()
