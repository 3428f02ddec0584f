"""Rates of rule 2 with all legs on, beside rule 1's: honest targets, remembered parts, and attacks on the verdict.

    python -m benchmarks.calibration.second_rule --output DIR [--audits 200]

Writes `benchmarks/results/calibration_rule_2.md`. Resumable: finished cells are kept in DIR/rule_2.json. Of several submissions the
operator keeps the one that suits: an attack counts as accused where all of them are, as certified where any is.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.calibration.attacks import ATTACKS
from benchmarks.calibration.conditions import HONEST, REMEMBERED
from benchmarks.calibration.rules import rule_one, rule_two
from benchmarks.calibration.worlds import Scores, Truth, draw
from verify.io.files import write_json, write_text
from verify.statistics import clopper_pearson

RESULTS = Path(__file__).parents[1] / "results" / "calibration_rule_2.md"
LEGS = ("A1", "A2", "A3", "channels")
GATES = ("noise of the target", "innocent references", "memorized records")
COLUMNS = ("accused by rule 1", "certified by rule 1", "accused", "certified", *LEGS, *GATES)
Submissions = Sequence[Scores]


def main() -> None:
    """Fill all cells and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--audits", type=int, default=200)
    given = parser.parse_args()
    state = given.output / "rule_2.json"
    done = json.loads(state.read_text()) if state.exists() else {}
    for number, (part, name, submit, factor) in enumerate(cells()):
        key = f"{part}: {name}, {factor * given.audits:g} audits"
        if key not in done:
            count = round(factor * given.audits)
            done[key] = {"part": part, "name": name, "audits": count, **rates(submit, count, np.random.default_rng([17, number]))}
            write_json(state, done)
    write_text(RESULTS, page(list(done.values())))


def cells() -> Iterator[tuple[str, str, Callable[[np.random.Generator], Submissions], float]]:
    """Yield part, name, what is submitted, and how many audits it gets in units of --audits."""

    def one(world: object, truth: Truth, rng: np.random.Generator) -> Submissions:
        return (draw(world, truth, rng),)  # type: ignore[arg-type]

    for name, world in HONEST.items():
        yield "Honest retraining", name, partial(one, world, Truth()), 1.0 if world.records > 100 else 2.0
    for name, (world, truth) in REMEMBERED.items():
        yield "Remembered", name, partial(one, world, truth), 1.0
    for attack in ATTACKS:
        yield "Attacks on the verdict", attack.name, attack.draw, 0.5 if "ten" in attack.name else 1.0


def rates(submit: Callable[[np.random.Generator], Submissions], audits: int, rng: np.random.Generator) -> dict[str, int]:
    """Count outcomes over audits."""
    counts = dict.fromkeys(COLUMNS, 0)
    for _ in range(audits):
        submitted = submit(rng)
        old, new = [rule_one(scores) for scores in submitted], [rule_two(scores) for scores in submitted]
        counts["accused by rule 1"] += all(accused for accused, _ in old)
        counts["certified by rule 1"] += any(certified for _, certified in old)
        counts["accused"] += all(outcome.accused for outcome in new)
        counts["certified"] += any(outcome.certified for outcome in new)
        for leg in LEGS:
            counts[leg] += any(leg in outcome.legs for outcome in new)
        for gate in GATES:
            counts[gate] += any(gate in outcome.gates for outcome in new)
    return counts


def page(found: Sequence[dict[str, object]]) -> str:
    """Return the page."""
    lines = [
        "# Calibration of rule 2",
        "",
        "Simulated audits; rates in per cent, for accusations and certificates with exact 95 % intervals. Seven channels, subjects",
        "of four records, 40 controls unless said; rho* = 0.10, alpha = 0.05 for all legs together. Legs: how often each accuses,",
        "gates: how often each fails. The planted subject is not drawn here. Of several submissions: accused where all are,",
        "certified where any is.",
    ]
    for part in dict.fromkeys(str(cell["part"]) for cell in found):
        lines += [
            "",
            f"## {part}",
            "",
            "| case | audits | rule 1: accused | certified | rule 2: accused | certified | A1 / A2 / A3 / channels "
            "| noise / innocence / memorized fails |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_line(cell) for cell in found if cell["part"] == part]
    run = {(cell["part"], cell["name"]) for cell in found}
    missing = [f"{part}: {name}" for part, name, _, _ in cells() if (part, name) not in run]
    if missing:
        lines += ["", f"Not run yet ({len(missing)}): {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _line(cell: dict[str, object]) -> str:
    audits = int(str(cell["audits"]))

    def rate(column: str) -> str:
        found = clopper_pearson(int(str(cell[column])), audits, 0.95)
        return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"

    def plain(columns: Sequence[str]) -> str:
        return " / ".join(f"{100 * int(str(cell[column])) / audits:.1f}" for column in columns)

    return f"| {cell['name']} | {audits} | " + " | ".join([*map(rate, COLUMNS[:4]), plain(LEGS), plain(GATES)]) + " |"


if __name__ == "__main__":
    main()
