"""What an audit by a level table costs against a retraining, and after how many requests its pool has paid for itself."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.level_table.audits import REFERENCES
from benchmarks.level_table.tables import Measured
from benchmarks.level_table.trainings import Model

CHEAP = 0.25
"""Cost of a cheap deletion relative to a retraining: wall time of `level` on models of this size (docs/research/level.md)."""


@dataclass(frozen=True)
class Costs:
    """Seconds of one thread, or of one GPU.

    Attributes:
        world: its name. records: training records of the original.
        retraining: of a full retraining.
        pool: name of the pool. pool_seconds: trainings and scoring of all its models, every channel. Trainings are counted by their
            records, since times that were measured beside other work do not compare.
        subjects: asked about.
        audit: one pass over the exact texts of the request and all controls.
        channels: passes of an audit with every channel.
    """

    world: str
    records: int
    retraining: float
    pool: str
    pool_seconds: float
    subjects: int
    audit: float
    channels: int

    @property
    def pays_against_references(self) -> int:
        """Requests after which the pool costs no more than four references for each."""
        return math.ceil(self.pool_seconds / (REFERENCES * self.retraining - self.audit * self.channels))

    @property
    def pays_against_retrainings(self) -> int:
        """Requests after which pool, cheap deletions and audits cost no more than a retraining for each."""
        return math.ceil(self.pool_seconds / ((1 - CHEAP) * self.retraining - self.audit * self.channels))


def costs_of(measured: Measured, name: str, pool: Sequence[Model], sizes: Sequence[int]) -> Iterator[Costs]:
    """Yield what requests of several sizes cost with a pool."""
    world, honest = measured.world, measured.of("full")
    # Models of a stack share its time, so that the original, which was trained alone, tells what a training takes.
    full = [measured.scored[model.name] for model in honest] if world.stack == 1 else [measured.original]
    records = int((~honest[0].left_out).sum())
    share = 1 if world.stack == 1 else records / len(world.rows)
    pass_seconds = float(np.median([one.scoring / one.passes for one in full]))  # a record
    retraining = share * float(np.median([one.training for one in full]))
    trained, scored = sum(int((~model.left_out).sum()) for model in pool), sum(measured.scored[model.name].passes for model in pool)
    channels = len(world.channels)
    spent = retraining * trained / records + channels * scored * pass_seconds
    each = len(world.rows) / (int(world.subjects.max()) + 1)
    for size in sizes:
        audit = pass_seconds * (size * each + len(world.controls))
        yield Costs(world.name, len(world.rows), retraining, name, spent, size, audit, channels)
