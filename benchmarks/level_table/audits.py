"""Audits of real models with known truth by a level table, and by four retrained references on the same deletions.

Each forget set of a world is audited as a whole, in blocks of a few subjects, and subject by subject. Targets of one forget set
share its subjects, and all targets share the pool: audits of one table are not independent, and the intervals do not know it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.rules import rule_two
from benchmarks.calibration.worlds import Scores
from benchmarks.level_table.measure import Scored, file_of, read_scored
from benchmarks.level_table.tables import Measured
from benchmarks.level_table.trainings import Model, blocks_of
from verify.statistics.channels import EXACT_TEXT, ChannelLosses
from verify.statistics.level_table import TableLosses, judge_table

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]
Truth = Literal[
    "honest", "a fifth of the records kept", "a fifth of the subjects kept", "remembered evenly", "level", "npo", "untouched"
]

MARGIN, ALPHA = 0.10, 0.05
REFERENCES = 4
TRUTHS: dict[str, Truth] = {
    "full": "honest",
    "kept-records": "a fifth of the records kept",
    "kept-subjects": "a fifth of the subjects kept",
    "treated": "remembered evenly",
    "level": "level",
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
    """One audit by both rules.

    Attributes:
        truth: what the target is.
        group: number of the forget set. subjects: how many of them were asked about.
        kept: share of their records that the target was trained on, all the same; 1 for what was never deleted, 0 for methods.
        known: mean residual of the exact texts against the full retrainings without the set (for an honest one, the others), in
            gaps; NaN where there is none to compare with.
        table: by the level table; None where it does not accuse the untouched model, so that it is not used.
        references: by four retrained references; None where there are not as many.
    """

    truth: Truth
    group: int
    subjects: int
    kept: float
    known: float
    table: Judged | None
    references: Judged | None


@dataclass(frozen=True, eq=False)
class _Target:
    """A model to be audited, and the full retrainings that it may be compared with."""

    truth: Truth
    scored: Scored
    references: Sequence[Scored]
    left_out: NDArray[np.bool_]


def audits_of(measured: Measured, pool: Sequence[Model], sizes: Sequence[int]) -> Iterator[Audit]:
    """Yield every audit of a world.

    Args:
        measured: the models.
        pool: of the level table.
        sizes: numbers of subjects to ask about; each forget set is divided into blocks of that size.
    """
    world = measured.world
    for group, people in enumerate(world.forget_sets):
        targets = list(_targets(measured, group))
        if not any(target.truth == "honest" for target in targets):
            continue
        for block in (block for size in sizes for block in blocks_of(people, size)):
            asked = np.flatnonzero(np.isin(world.subjects, block))
            usable = by_table(measured, pool, measured.original, asked).accused
            for target in targets:
                kept = float(1 - target.left_out[asked].mean())
                if kept or not target.truth.endswith("kept"):  # of some subjects nothing was kept
                    table = by_table(measured, pool, target.scored, asked) if usable else None
                    known, references = _known(measured, target, asked), by_references(measured, target, asked)
                    yield Audit(target.truth, group, len(block), kept, known, table, references)


def _targets(measured: Measured, group: int) -> Iterator[_Target]:
    """Yield the targets of a forget set, each with references that it was not made from."""
    honest = [model for model in measured.of("full") if model.group == group]
    for model in measured.models:
        if model.group != group:
            continue
        others = [measured.scored[one.name] for one in honest if one is not model][:REFERENCES]
        yield _Target(TRUTHS[model.kind], measured.scored[model.name], others, model.left_out)
        treated = f"treated-{group}-{model.number}"
        if model.kind == "full" and file_of(measured.world, treated).exists():
            yield _Target(TRUTHS["treated"], read_scored(measured.world, treated), others, model.left_out)
    references = [measured.scored[one.name] for one in honest][:REFERENCES]
    yield _Target("untouched", measured.original, references, np.zeros(len(measured.world.rows), dtype=bool))


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


def by_references(measured: Measured, target: _Target, asked: Numbers) -> Judged | None:
    """Judge a target by rule 2 with its references; None where there are fewer than four."""
    if len(target.references) < REFERENCES:
        return None
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
    return Judged(found.accused, found.certified, (*found.tests, *found.gates))


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
