"""The tilting attack on a level table: how often it is certified or accused, simulated and on the scores of real models.

Honest targets are turned into ones that kept a share of what the original knew of the hardest fifth of the records, with controls
moved alike (`benchmarks.calibration.attacks.tilted`). The losses are moved, nothing is trained: whether a training reaches them is
not shown.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.calibration.attacks.tilted import Shape, tilted
from benchmarks.level_table.tables import Measured
from verify.statistics.channels import EXACT_TEXT
from verify.statistics.level_checks import controls_unseen
from verify.statistics.level_contrast import TableLosses
from verify.statistics.level_shape import control_shapes
from verify.statistics.level_simulation import TableWorld, simulate_table
from verify.statistics.level_table import judge_table

MARGIN, ALPHA = 0.10, 0.05
SHAPES: dict[Shape, str] = {
    "turned": "all, in a line",
    "bent": "the hardest fifth of all",
    "records alone": "the records, not the controls",
    "controls alone": "the controls, not the records: honest",
}
KEPT = (0.2, 0.35, 0.5)
HONEST = "nothing: honest"
HEADER = (
    "| pool | moved by level | kept of the hardest fifth | audits | accused | certified | alike in mean and noise | and by level |"
)
LEGEND = (
    "The tilting attack on whole forget sets, exact text. Losses of honest targets are moved; kept: share of its gap that the "
    "hardest fifth of the records keeps, in the mean; the controls are moved alike, their mean unchanged. In numbers of audits: "
    "accused and certified by the tests; of those certified, whose target is on the controls as the original in mean and noise; of "
    'these, by level too (`verify/statistics/level_shape.py`). The last two are the check "controls unseen" without and with its '
    "third part."
)

Audit = tuple[TableLosses, Sequence[str], Sequence[str], int]
"""Losses of an honest target, subjects, control subjects, and the design's seed."""


@dataclass(frozen=True)
class Tilt:
    """Counts over audits of one kind of target.

    Attributes:
        pool: of the table. moved: what. kept: of the hardest fifth's gap.
        audits, accused, certified: counts, by the tests alone.
        alike: certified, and as the original in mean and noise on the controls. passed: of these, by level as well.
    """

    pool: str
    moved: str
    kept: float
    audits: int
    accused: int
    certified: int
    alike: int
    passed: int


def tilts(pool: str, audits: Sequence[Audit]) -> Iterator[Tilt]:
    """Judge honest targets as they are, and under every tilt."""
    yield _counted(pool, HONEST, 0.0, audits)
    for (shape, moved), kept in product(SHAPES.items(), KEPT):
        yield _counted(pool, moved, kept, [(tilted(*audit, kept, shape), *audit[1:]) for audit in audits])


def simulated_audits(world: TableWorld, audits: int, seed: Sequence[int]) -> list[Audit]:
    """Draw honest audits."""
    rng = np.random.default_rng(seed)
    return [(*simulate_table(world, "honest", rng), int(rng.integers(2**32))) for _ in range(audits)]


def measured_audits(found: Iterable[Measured], pool: str) -> list[Audit]:
    """Return an audit of the whole forget set of every honest retraining of some worlds, on the exact text."""
    audits = list[Audit]()
    for measured in found:
        world, known = measured.world, measured.pool(measured.pools()[pool], EXACT_TEXT)
        controls = _names(world.control_subjects)
        for model in measured.of("full"):
            asked, target = measured.unseen(model), measured.scored[model.name]
            losses = TableLosses(
                pool=known.losses[:, asked],
                control_pool=known.controls,
                original=measured.original.own()[asked],
                target=target.own()[asked],
                control_original=measured.original.controls(),
                control_target=target.controls(),
            )
            audits.append((losses, _names(world.subjects[asked]), controls, world.seed))
    return audits


def section(found: Sequence[Tilt]) -> list[str]:
    """Return the lines of a table."""
    lines = ["## Controls that were moved", "", LEGEND, "", HEADER, "| --- " * HEADER.count(" |") + "|"]
    for one in found:
        counts = f"{one.audits} | {one.accused} | {one.certified} | {one.alike} | {one.passed}"
        lines.append(f"| {one.pool} | {one.moved} | {one.kept:g} | {counts} |")
    return lines


def _counted(pool: str, moved: str, kept: float, audits: Sequence[Audit]) -> Tilt:
    outcomes = np.array([_outcome(*audit) for audit in audits]).sum(axis=0).tolist()
    return Tilt(pool, moved, kept, len(audits), *outcomes)


def _outcome(losses: TableLosses, subjects: Sequence[str], controls: Sequence[str], seed: int) -> tuple[bool, bool, bool, bool]:
    exact = {EXACT_TEXT: losses}
    found = judge_table(exact, subjects, controls, MARGIN, ALPHA, seed)
    alike = controls_unseen(losses, controls, found.residual.mean_gap, MARGIN).held and found.fit.noise.trained_alike
    shaped = all(check.held for check in control_shapes(exact, subjects, controls, MARGIN, seed))
    return found.accused, found.certified, found.certified and alike, found.certified and alike and shaped


def _names(numbers: Iterable[int]) -> list[str]:
    return [f"{number:05}" for number in numbers]
