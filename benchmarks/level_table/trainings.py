"""Which models a world needs: pools that each leave out a part of the subjects, full retrainings, and targets with known truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.level_table.worlds import World

Flags = NDArray[np.bool_]
Numbers = NDArray[np.intp]
Kind = Literal["original", "half", "quarter", "full", "kept-records", "kept-subjects", "level", "level-table", "npo"]

BLOCK = 5
"""Subjects of a small request. In each block of a forget set a fifth is kept, where some is."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model to be trained and scored.

    Attributes:
        kind: original; of a pool that leaves out a half or a quarter; a full retraining without a forget set; a retraining that
            kept a fifth of its records, or of its subjects; or the result of a method.
        number: counts the models of a kind and forget set, from 0.
        group: number of the forget set; -1 where there is none.
        left_out: records that it was not trained on [K]; for the result of a method, those that it was to forget.
    """

    kind: Kind
    number: int
    left_out: Flags
    group: int = -1

    @property
    def name(self) -> str:
        """Name of its file."""
        if self.kind == "original":
            return self.kind
        return f"{self.kind}-{self.number:02}" if self.group < 0 else f"{self.kind}-{self.group}-{self.number}"

    @property
    def seed(self) -> int:
        """Seed of its training, another for every model."""
        first = {"original": 1, "half": 1000, "quarter": 2000, "full": 3000, "kept-records": 4000, "kept-subjects": 5000}
        return first.get(self.kind, 6000) + 100 * (self.group + 1) + self.number


def models_of(world: World) -> Iterator[Model]:
    """Yield all models of a world, those first without which the others say nothing."""
    yield Model("original", 0, np.zeros(len(world.subjects), dtype=bool))
    yield from _pool(world, "half", world.sizes.half, 2)
    for group, people in enumerate(world.forget_sets):
        gone = np.isin(world.subjects, people)
        for number in range(world.sizes.full):
            yield Model("full", number, gone, group)
        if group == 0:
            yield from _pool(world, "quarter", world.sizes.quarter, 4)
        yield from _with_residual(world, group, people)


def stacks(world: World, model: Model) -> bool:
    """Return whether a model is trained in a stack.

    Not the first world's original: trained alone by `finetune`, it tells what a retraining costs. Nor what begins with it.
    """
    alone = model.kind in world.sizes.methods or (model.kind == "original" and (world.seed == 0 or bool(world.sizes.methods)))
    return world.stack > 1 and not alone


def stacks_of(world: World, models: Sequence[Model]) -> list[list[Model]]:
    """Group models into stacks of equally many records, as large as the world's size allows and alike; others are alone.

    The groups do not depend on what is done, so that processes that begin at different times form the same ones.
    """
    groups: dict[int, list[Model]] = {}
    made: list[list[Model]] = []
    for model in models:
        if stacks(world, model):
            groups.setdefault(int(model.left_out.sum()), []).append(model)
        else:
            made.append([model])
    for own in groups.values():
        count = -(-len(own) // world.stack)
        bounds = [round(number * len(own) / count) for number in range(count + 1)]
        made += [own[start:end] for start, end in pairwise(bounds)]
    places = {model.name: place for place, model in enumerate(models)}
    return sorted(made, key=lambda stack: places[stack[0].name])


def _pool(world: World, kind: Kind, count: int, folds: int) -> Iterator[Model]:
    """Yield the models of a pool; a larger pool begins with the models of a smaller one."""
    draw = np.random.default_rng([world.seed, folds])
    for number, out in enumerate(folded_design(int(world.subjects.max()) + 1, count, folds, draw)):
        yield Model(kind, number, out[world.subjects])


def _with_residual(world: World, group: int, people: Numbers) -> Iterator[Model]:
    """Yield the targets that may remember something of a forget set."""
    subjects, gone = world.subjects, np.isin(world.subjects, people)
    for number in range(world.sizes.kept):
        draw = np.random.default_rng([world.seed, 7, group, number])
        yield Model("kept-records", number, gone & ~_kept_records(subjects, people, draw), group)
        yield Model("kept-subjects", number, gone & ~np.isin(subjects, _kept_subjects(people, draw)), group)
    for method in world.sizes.methods:
        yield Model(method, 0, gone, group)


def folded_design(subjects: int, models: int, folds: int, draw: np.random.Generator) -> Flags:
    """Return which subjects each model leaves out [M, S]: every block of `folds` models leaves every subject out of exactly one.

    Raises:
        ValueError: M is no multiple of the number of folds.
    """
    if models % folds:
        raise ValueError(f"{models} models cannot be divided into blocks of {folds}")
    blocks = [draw.permutation(np.arange(subjects) % folds) for _ in range(models // folds)]
    return np.array([block == fold for block in blocks for fold in range(folds)])


def blocks_of(people: Numbers, size: int = BLOCK) -> list[Numbers]:
    """Divide the subjects of a forget set into requests of a size; a smaller rest is left out."""
    return [people[start : start + size] for start in range(0, len(people) - size + 1, size)]


def _kept_records(subjects: Numbers, people: Numbers, draw: np.random.Generator) -> Flags:
    """Flag a fifth of the records of every block."""
    flags = np.zeros(len(subjects), dtype=bool)
    for block in blocks_of(people):
        own = np.flatnonzero(np.isin(subjects, block))
        flags[draw.permutation(own)[: round(len(own) / BLOCK)]] = True
    return flags


def _kept_subjects(people: Numbers, draw: np.random.Generator) -> Numbers:
    """Draw one subject of every block of five."""
    return np.array([draw.choice(block) for block in blocks_of(people)], dtype=np.intp)
