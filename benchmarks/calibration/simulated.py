"""Simulated audits over a grid of worlds: rates at which each rule accuses, certifies, or calls a model forgotten."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.calibration.rules import read
from verify.statistics import World, simulate_losses

WORLDS = [
    World(records=records, references=references, errors=errors)
    for records in (40, 100, 400)
    for references in (4, 8)
    for errors in ("normal", "t4")
]
CASES: dict[str, tuple[float, bool]] = {
    "honest retraining": (0.0, False),
    "10 % remembered": (0.1, False),
    "20 % remembered": (0.2, False),
    "50 % remembered": (0.5, False),
    "20 % remembered, mean hidden": (0.2, True),
}
"""Share of the records that is still remembered, and whether over-forgotten ones hide it in the mean."""

HONEST_TIMES = 5


@dataclass(frozen=True)
class Cell:
    """Counts over the audits of one world and case."""

    records: int
    references: int
    errors: str
    case: str
    audits: int
    accused: int
    certified: int
    forget_quality_passes: int
    plain_auc_passes: int


def simulate(audits: int, known: Callable[[str], dict[str, object] | None], seed: int = 0) -> Iterator[tuple[str, Cell]]:
    """Yield every cell with its name; cells that `known` returns are not simulated again."""
    for number, world in enumerate(WORLDS):
        for index, (case, (remembered, hidden)) in enumerate(CASES.items()):
            # False accusations are rare by design, so honest cells need more audits to estimate their rate.
            count = audits if remembered else HONEST_TIMES * audits
            name = f"K={world.records} R={world.references} {world.errors}, {case}, {count} audits"
            found = known(name)
            if found is not None:
                yield name, Cell(**found)  # type: ignore[arg-type]
                continue
            rng = np.random.default_rng([seed, number, index])
            yield name, _cell(world, case, remembered, hidden, count, rng)


def _cell(world: World, case: str, remembered: float, hidden: bool, audits: int, rng: np.random.Generator) -> Cell:
    counts: Counter[str] = Counter()
    for _ in range(audits):
        original, target, references = simulate_losses(world, remembered, hidden, rng)
        # Controls: records of the same kind, never trained on, under one more honest retraining.
        _, controls, _ = simulate_losses(world, 0.0, False, rng)
        readings = read(original, target, references, controls)
        counts[readings.verdict] += 1
        counts["quality"] += readings.forget_quality
        counts["auc"] += readings.plain_auc
    about = asdict(world)
    return Cell(
        about["records"],
        about["references"],
        about["errors"],
        case,
        audits,
        counts["NOT_FORGOTTEN"],
        counts["EQUIVALENT_WITHIN"],
        counts["quality"],
        counts["auc"],
    )
