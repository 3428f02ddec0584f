"""Simulated audits by a level table: how often the rule accuses and certifies, by design, size of the forget set and condition.

    python -m benchmarks.level_table.simulated [--audits 200]

Writes `benchmarks/results/level_table_simulated.md`.
"""

import argparse
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.level_table.tilts import Tilt, section, simulated_audits, tilts
from verify.cli.console import progress_bar
from verify.io.files import write_text
from verify.statistics import clopper_pearson
from verify.statistics.level_simulation import TableWorld, Truth, judge_simulated
from verify.statistics.level_table import TableVerdict

RESULTS = Path(__file__).parents[1] / "results"

DESIGNS = {"half, M 16": (16, 8), "half, M 8": (8, 4), "quarter, M 16": (16, 4), "half, M 4": (4, 2)}
"""Pool models M, and how many of them leave a subject out."""
SIZES = (1, 5, 20)
TRUTHS: tuple[Truth, ...] = ("honest", "20 % of the records", "one subject", "0.20 everywhere", "the margin")

CONDITIONS: dict[str, dict[str, float | str]] = {
    "t4 errors": {"errors": "t4"},
    "target's noise x 2": {"target_noise": 2.0},
    "controls half as noisy": {"control_noise": 0.5},
    "controls twice as noisy": {"control_noise": 2.0},
    "forget records harder by a standard deviation": {"harder": 1.0},
    "own differences between half and full data, sd 0.3": {"mismatch": 0.3},
    "subjects of one record, controls of eight": {"each": 1, "control_each": 8},
    "subjects of 16 records, controls of two": {"each": 16, "control_each": 2},
    "six control subjects": {"control_subjects": 6},
    "50 control subjects": {"control_subjects": 50},
    "gap of 0.6 nats, sd 0.15": {"gap": 0.6, "record_spread": 0.15},
    "noise grows by 1.35 a nat of difficulty": {"growth": 1.35},
    "noise falls by 0.75 a nat": {"growth": 0.75},
    "noise grows, forget records harder": {"growth": 1.35, "harder": 1.0},
    "noise grows, t4 errors": {"growth": 1.35, "errors": "t4"},
}
"""Honest targets under conditions other than the usual: changes of the world."""
KEPT_UNDER = ("noise grows by 1.35 a nat of difficulty", "noise falls by 0.75 a nat")
"""Conditions under which targets that kept a fifth of the records are drawn as well."""
DUPLICATES = {"near-duplicates of 30 % of the subjects in the retain set": {"duplicates": 0.3}}

INTRODUCTION = """
Made by `python -m benchmarks.level_table.simulated --audits {audits}`: {total:,} audits, {seconds:.0f} s of one thread.
rho* = 0.10, alpha = 0.05, exact text alone. Records of a subject: 4, control subjects: 20, gap 4.05 nats per token, standard
deviation of a record between models 0.45 and of a model 0.045, within-subject correlation 0.3; pool models with level + 0.25 and
slope 0.8. Rates in per cent with exact 95 % intervals; *bias*: mean of N / G less what was kept, *sd* of it, *error*: root mean
square of its standard error. n: forget subjects. One subject can be accused, never certified. The gates of the audit are not
applied.
"""


@dataclass(frozen=True)
class Cell:
    """Rates over the audits of one condition.

    Attributes:
        name: of design or condition.
        subjects: n.
        truth: what the target kept.
        audits, accused, certified: counts. by_test: accusations by A1', A2' and A3'.
        bias, deviation, error: of N / G.
    """

    name: str
    subjects: int
    truth: Truth
    audits: int
    accused: int
    certified: int
    by_test: tuple[int, int, int]
    bias: float
    deviation: float
    error: float


def cells() -> Iterator[tuple[str, TableWorld, Truth]]:
    """Yield every condition with its world and what the target kept."""
    for name, (models, left_out) in DESIGNS.items():
        for subjects in SIZES:
            for truth in TRUTHS:
                yield name, TableWorld(subjects=subjects, models=models, left_out=left_out), truth
    for name, changes in CONDITIONS.items():
        for subjects in SIZES:
            yield name, replace(TableWorld(subjects=subjects), **changes), "honest"  # type: ignore[arg-type]
    for name, subjects in product(KEPT_UNDER, SIZES):
        yield name, replace(TableWorld(subjects=subjects), **CONDITIONS[name]), "20 % of the records"  # type: ignore[arg-type]
    for name, changes in DUPLICATES.items():
        for design in ("half, M 8", "quarter, M 16"):
            models, left_out = DESIGNS[design]
            yield f"{name}; {design}", replace(TableWorld(models=models, left_out=left_out), **changes), "honest"  # type: ignore[arg-type]


def simulate(name: str, world: TableWorld, truth: Truth, audits: int, seed: Sequence[int]) -> Cell:
    """Judge a number of simulated audits."""
    rng = np.random.default_rng(seed)
    verdicts = [judge_simulated(world, truth, rng) for _ in range(audits)]
    residual = [verdict.residual for verdict in verdicts]
    rho = np.array([one.mean_residual / one.mean_gap for one in residual])
    error = np.array([one.spread / one.mean_gap for one in residual])
    tests = np.array([_by_test(verdict) for verdict in verdicts]).sum(axis=0)
    return Cell(
        name=name,
        subjects=world.subjects,
        truth=truth,
        audits=audits,
        accused=sum(verdict.accused for verdict in verdicts),
        certified=sum(verdict.certified for verdict in verdicts),
        by_test=(int(tests[0]), int(tests[1]), int(tests[2])),
        bias=float(rho.mean()) - _kept(world, truth),
        deviation=float(rho.std(ddof=1)),
        error=float(np.sqrt(np.mean(error**2))),
    )


def _by_test(verdict: TableVerdict) -> tuple[bool, bool, bool]:
    judged = verdict.residual
    by_subject = judged.subject_test is not None and bool(judged.subject_test.accused.any())
    return judged.mean_test.accused, bool(judged.record_test.accused.any()), by_subject


def _kept(world: TableWorld, truth: Truth) -> float:
    """Return the mean share of the gap that the target kept."""
    count = world.subjects * world.each
    shares: dict[Truth, float] = {
        "honest": 0.0,
        "20 % of the records": max(1, round(0.2 * count)) / count,
        "one subject": 1 / world.subjects,
        "0.20 everywhere": 0.20,
        "the margin": 0.10,
    }
    return shares[truth]


def page(found: Sequence[Cell], moved: Sequence[Tilt], seconds: float) -> str:
    """Return the page."""
    total = sum(cell.audits for cell in found) + sum(tilt.audits for tilt in moved)
    introduction = INTRODUCTION.format(audits=found[0].audits, total=total, seconds=seconds)
    lines = ["# Level table: simulated audits", "", textwrap.fill(" ".join(introduction.split()), 100), "", *_summary(found)]
    for truth in TRUTHS:
        chosen = [cell for cell in found if cell.truth == truth and cell.name in DESIGNS]
        lines += ["", f"## By design: {_title(truth)}", "", *_table(chosen)]
    lines += ["", "## Honest deletions under other conditions (half, M 8 unless said)", ""]
    others = [cell for cell in found if cell.name not in DESIGNS]
    lines += _table([cell for cell in others if cell.truth == "honest"])
    lines += ["", "## 20 % of the records wholly kept, under other conditions (half, M 8)", ""]
    lines += _table([cell for cell in others if cell.truth != "honest"])
    lines += ["", *section(moved)]
    return "\n".join(lines) + "\n"


def _title(truth: Truth) -> str:
    titles: dict[Truth, str] = {
        "honest": "honest deletions",
        "20 % of the records": "20 % of the records wholly kept",
        "one subject": "one subject wholly kept",
        "0.20 everywhere": "0.20 of every gap kept",
        "the margin": "0.10 of every gap kept: exactly the margin",
    }
    return titles[truth]


def _summary(found: Sequence[Cell]) -> list[str]:
    """Say the pooled rates, and the worst cell, in plain sentences."""
    honest = [cell for cell in found if cell.truth == "honest"]
    usual = [cell for cell in honest if cell.name in DESIGNS]
    worst = max(honest, key=lambda cell: cell.accused / cell.audits)
    margin = [cell for cell in found if cell.truth == "the margin" and cell.subjects > 1]
    kept = [cell for cell in found if cell.truth == "20 % of the records" and cell.name in DESIGNS]
    sentences = (
        f"Honest deletions, all designs and sizes: {_pooled(usual, 'accused')} % accused; under all conditions "
        f"{_pooled(honest, 'accused')} %, at most {_rate(worst.accused, worst.audits)} % ({worst.name}, n = {worst.subjects}).",
        f"20 % of the records kept: {_pooled(kept, 'accused')} % accused, {_pooled(kept, 'certified')} % certified.",
        f"Exactly the margin kept: {_pooled(margin, 'certified')} % certified, where alpha allows 5.",
    )
    return [textwrap.fill(f"- {sentence}", 100, subsequent_indent="  ") for sentence in sentences]


def _pooled(chosen: Sequence[Cell], what: str) -> str:
    return _rate(sum(getattr(cell, what) for cell in chosen), sum(cell.audits for cell in chosen))


def _table(chosen: Sequence[Cell]) -> list[str]:
    rows = [
        "| | n | accused | certified | A1' | A2' | A3' | bias | sd | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in chosen:
        by_test = " | ".join(f"{100 * count / cell.audits:.1f}" for count in cell.by_test)
        rates = f"{_rate(cell.accused, cell.audits)} | {_rate(cell.certified, cell.audits)}"
        numbers = f"{cell.bias:+.3f} | {cell.deviation:.3f} | {cell.error:.3f}"
        rows.append(f"| {cell.name} | {cell.subjects} | {rates} | {by_test} | {numbers} |")
    return rows


def _rate(count: int, of: int) -> str:
    rate = clopper_pearson(count, of, 0.95)
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def main() -> None:
    """Simulate every cell and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=125, help="simulated audits of a cell")
    given = parser.parse_args()
    started, every = time.monotonic(), list(cells())
    found = []
    with progress_bar("simulated audits") as progress:
        for number, (name, world, truth) in enumerate(every):
            progress(f"{name}, {truth}", number / len(every))
            found.append(simulate(name, world, truth, given.audits, [20, number]))
        moved = list[Tilt]()
        for name in ("half, M 8", "half, M 16"):
            progress(f"{name}, controls that were moved", 0.99)
            models, left_out = DESIGNS[name]
            drawn = simulated_audits(TableWorld(models=models, left_out=left_out), given.audits // 2, [21, models])
            moved += tilts(name, drawn)
    write_text(RESULTS / "level_table_simulated.md", page(found, moved, time.monotonic() - started))


if __name__ == "__main__":
    main()
