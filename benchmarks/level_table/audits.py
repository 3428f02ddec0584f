"""Audits of real models with known truth by level tables, and by four retrained references on the same deletions.

Each forget set of a world is audited as a whole, in blocks of a few subjects, and subject by subject. Targets of one forget set
share its subjects, and all targets share the pool: audits of one table are not independent, and the intervals do not know it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.rules import rule_one, rule_two
from benchmarks.calibration.worlds import Scores
from benchmarks.level_table.measure import Scored, file_of, read_scored
from benchmarks.level_table.tables import Measured
from benchmarks.level_table.trainings import Model, blocks_of
from verify.statistics.channels import EXACT_TEXT, ChannelLosses
from verify.statistics.level_contrast import TableLosses
from verify.statistics.level_table import judge_table

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]
Truth = Literal[
    "honest",
    "a fifth of the records kept",
    "a fifth of the subjects kept",
    "remembered evenly",
    "level",
    "level, table",
    "npo",
    "untouched",
]

MARGIN, ALPHA = 0.10, 0.05
REFERENCES = 4
TRUTHS: dict[str, Truth] = {
    "full": "honest",
    "kept-records": "a fifth of the records kept",
    "kept-subjects": "a fifth of the subjects kept",
    "treated": "remembered evenly",
    "level": "level",
    "level-table": "level, table",
    "npo": "npo",
    "original": "untouched",
}


@dataclass(frozen=True)
class Judged:
    """What one rule says.

    Attributes:
        accused, certified: the outcome.
        tests: those that accused: A1, A2, A3, or a channel's name.
        residual: N / G on the exact text; NaN where there is none.
    """

    accused: bool
    certified: bool
    tests: tuple[str, ...] = ()
    residual: float = float("nan")


@dataclass(frozen=True)
class Audit:
    """One audit by all rules.

    Attributes:
        truth: what the target is.
        world: number of the world, whose models are of one base, intake and pool. group: number of the forget set in it.
        number: counts the targets of one truth and forget set.
        subjects: how many of them were asked about.
        kept: share of their records that the target was trained on, all the same; 1 for what was never deleted, 0 for methods.
        known: mean residual of the exact texts against the full retrainings without the set (for an honest one, the others), in
            gaps; NaN where there is none to compare with.
        tables: by the level table of each pool; None where it does not accuse the untouched model, so that it is not used.
        first, second: by rule 1 and rule 2 with four retrained references; None where there are not as many.
    """

    truth: Truth
    world: int
    group: int
    number: int
    subjects: int
    kept: float
    known: float
    tables: Mapping[str, Judged | None]
    first: Judged | None
    second: Judged | None


@dataclass(frozen=True, eq=False)
class _Target:
    """A model to be audited, and the full retrainings that it may be compared with."""

    truth: Truth
    number: int
    scored: Scored
    references: Sequence[Scored]
    left_out: NDArray[np.bool_]


def audits_of(measured: Measured, pools: Mapping[str, Sequence[Model]], sizes: Sequence[int]) -> Iterator[Audit]:
    """Yield every audit of a world.

    Args:
        measured: the models.
        pools: of the level tables, by name.
        sizes: numbers of subjects to ask about; each forget set is divided into blocks of that size. About single subjects only
            the first target of each truth is asked: the others would be asked about the same people.
    """
    world = measured.world
    for group, people in enumerate(world.forget_sets):
        targets = list(_targets(measured, group))
        if all(target.truth == "untouched" for target in targets):
            continue
        for block in (block for size in sizes for block in blocks_of(people, size)):
            asked = np.flatnonzero(np.isin(world.subjects, block))
            untouched = {name: by_table(measured, pool, measured.original, asked) for name, pool in pools.items()}
            for target in targets:
                kept = float(1 - target.left_out[asked].mean())
                if (kept == 0 and target.truth.endswith("kept")) or (len(block) == 1 and target.number):
                    continue  # of some subjects nothing was kept
                tables: dict[str, Judged | None] = {}
                for name, pool in pools.items():
                    judged = untouched[name] if target.truth == "untouched" else by_table(measured, pool, target.scored, asked)
                    tables[name] = judged if untouched[name].accused else None
                known, (first, second) = _known(measured, target, asked), by_references(measured, target, asked)
                yield Audit(target.truth, world.seed, group, target.number, len(block), kept, known, tables, first, second)


def _targets(measured: Measured, group: int) -> Iterator[_Target]:
    """Yield the targets of a forget set, each with references that it was not made from."""
    honest = [model for model in measured.of("full") if model.group == group]
    for model in measured.models:
        if model.group != group:
            continue
        others = [measured.scored[one.name] for one in honest if one is not model][:REFERENCES]
        yield _Target(TRUTHS[model.kind], model.number, measured.scored[model.name], others, model.left_out)
        treated = f"treated-{group}-{model.number}"
        if model.kind == "full" and file_of(measured.world, treated).exists():
            yield _Target(TRUTHS["treated"], model.number, read_scored(measured.world, treated), others, model.left_out)
    references = [measured.scored[one.name] for one in honest][:REFERENCES]
    yield _Target("untouched", 0, measured.original, references, np.zeros(len(measured.world.rows), dtype=bool))


def by_table(measured: Measured, pool: Sequence[Model], target: Scored, asked: Numbers) -> Judged:
    """Judge a target by a level table; gates that need no other model are not applied."""
    world = measured.world
    losses = {}
    for channel in world.channels:
        known = measured.pool(pool, channel)
        losses[channel] = TableLosses(
            pool=known.losses[:, asked],
            control_pool=known.controls,
            original=measured.original.own(channel)[asked],
            target=target.own(channel)[asked],
            control_original=measured.original.controls(channel),
            control_target=target.controls(channel),
        )
    found = judge_table(losses, _names(world.subjects[asked]), _names(world.control_subjects), MARGIN, ALPHA, world.seed)
    units = {"A2": found.residual.record_test, "A3": found.residual.subject_test}
    fired = ["A1"] if found.residual.mean_test.accused else []
    fired += [name for name, test in units.items() if test is not None and test.accused.any()]
    fired += [test.name for test in found.channels.tests if test.accused]
    rho = found.residual.rho
    return Judged(found.accused, found.certified, tuple(fired), float("nan") if rho is None else rho.value)


def by_references(measured: Measured, target: _Target, asked: Numbers) -> tuple[Judged, Judged] | tuple[None, None]:
    """Judge a target by rule 1 and by rule 2 with its references; None where there are fewer than four."""
    if len(target.references) < REFERENCES:
        return None, None
    world, original = measured.world, measured.original
    channels = {
        channel: ChannelLosses(
            original=original.own(channel)[asked],
            target=target.scored.own(channel)[asked],
            references=np.array([one.own(channel)[asked] for one in target.references]),
            control_target=target.scored.controls(channel),
            control_original=original.controls(channel),
            control_references=np.array([one.controls(channel) for one in target.references]),
        )
        for channel in world.channels
    }
    scores = Scores(
        exact=channels[EXACT_TEXT],
        base=measured.base.own()[asked],
        control_base=measured.base.controls(),
        subjects=tuple(_names(world.subjects[asked])),
        control_subjects=tuple(_names(world.control_subjects)),
        texts=tuple(range(len(asked))),
        channels=channels,
    )
    found = rule_two(scores, MARGIN)
    return Judged(*rule_one(scores)), Judged(found.accused, found.certified, (*found.tests, *found.gates))


def _known(measured: Measured, target: _Target, asked: Numbers) -> float:
    """Return the mean residual against the target's references, contrasted with controls, in gaps."""
    if not target.references:
        return float("nan")
    own, controls = (
        np.mean([of(one) for one in target.references], axis=0) for of in (lambda one: one.own()[asked], lambda one: one.controls())
    )
    shift, shift_original = ((controls - model.controls()).mean() for model in (target.scored, measured.original))
    residual = (own - target.scored.own()[asked]).mean() - shift
    return float(residual / ((own - measured.original.own()[asked]).mean() - shift_original))


def _names(numbers: Numbers) -> list[str]:
    return [f"{number:05}" for number in numbers.tolist()]
