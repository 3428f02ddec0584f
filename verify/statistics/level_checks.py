"""Validity checks of an audit by a level table, as numbers: the rule's power, the controls, the pool's innocence.

Control subjects stand in for forget subjects that were truly forgotten: no model was trained on them, so the target's own losses on
them are those of an honest deletion. What the original would lose on them had it been trained on them is imputed: its loss less the
gaps of a forget subject drawn at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verify.statistics.channels import EXACT_TEXT
from verify.statistics.critical_values import t_quantile
from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson
from verify.statistics.level_contrast import TableLosses
from verify.statistics.level_fit import MIN_CONTROL_SUBJECTS, MIN_MODELS
from verify.statistics.level_table import TableVerdict, judge_table
from verify.statistics.level_units import Unasked
from verify.statistics.residual import Rule
from verify.statistics.subjects import rank_within, subject_means, subject_numbers

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

STAND_IN_SHARE = 1 / 3
"""Largest share of the control subjects that stand in for forget subjects at a time; the others stay controls."""

MOST_OUTSIDE = 0.10
"""Share of the forget records whose level may lie outside of the controls' range; among 80 controls of their kind 0.025 do."""

CONTROLS_LEVEL = 0.01
"""Level at which a target that fits the controls better than the original counts as trained on them."""

LARGEST_INFLATION = 1.5
"""Largest factor by which the distance of the forget set from the controls may widen the standard error of its predicted level."""


def with_original(losses: Mapping[str, TableLosses]) -> dict[str, TableLosses]:
    """Put the original in the target's place, for the positive control: `judge_table` must accuse it."""
    return {
        name: replace(channel, target=channel.original, control_target=channel.control_original) for name, channel in losses.items()
    }


def planted_subject_rate(
    losses: TableLosses,
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float,
    alpha: float,
    seed: int,
    draws: int = 100,
    share: float = 1.0,
    rule: Rule = 4,
) -> Estimate:
    """Estimate how often the rule accuses a target that kept one subject and forgot all others.

    As many control subjects as the forget set has, but at most a third of them, stand in for it; in one of them the target is given
    the original's imputed losses. The tests per record and subject are corrected for as many as the forget set has, and fewer
    controls are left than the audit has: the rate is a lower one.

    Args:
        losses: losses on the exact text. Others: as `judge_table`.
        draws: number of draws.
        share: the share of alpha that accusations use, in (0, 1].
        rule: 4, or 3 for older audits.

    Returns:
        the share of draws that are accused, with its exact 95 % interval.

    Raises:
        ValueError: too few control subjects to leave `MIN_CONTROL_SUBJECTS` besides the stand-ins, or as `judge_table`.
    """
    whose = subjects, control_subjects
    people, controls = (subject_numbers(names) for names in whose)
    asked, there = int(people.max()) + 1, int(controls.max()) + 1
    count = min(asked, max(1, int(STAND_IN_SHARE * there)))
    if there - count < MIN_CONTROL_SUBJECTS:
        raise ValueError(
            f"beside {count} control subjects that stand in for the forget set {MIN_CONTROL_SUBJECTS} are needed, got {there}"
        )
    gaps = judge_table({EXACT_TEXT: losses}, *whose, margin, alpha, seed, rule=rule).residual.gap
    left_out = int((~np.isnan(losses.pool)).sum(axis=0)[0])
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(draws):
        chosen = np.isin(controls, rng.permutation(there)[:count])
        drawn = _stand_in(losses, controls, chosen, _imputed(gaps, people, controls[chosen], rng), left_out, rng)
        names = [[whose[1][index] for index in np.flatnonzero(mask).tolist()] for mask in (chosen, ~chosen)]
        unasked = Unasked(max(0, len(subjects) - int(chosen.sum())), asked - count)
        found = judge_table({EXACT_TEXT: drawn}, names[0], names[1], margin, alpha, seed, share=share, unasked=unasked, rule=rule)
        hits += found.accused
    return clopper_pearson(hits, draws, 0.95)


def _imputed(gaps: Array, subjects: NDArray[np.intp], stand_ins: NDArray[np.intp], rng: np.random.Generator) -> Array:
    """Draw gaps for the records of stand-ins: those of one forget subject each, in turn where it has fewer records [n]."""
    ranks, imputed = rank_within(stand_ins), np.empty(len(stand_ins))
    for number in np.unique(stand_ins):
        source = gaps[subjects == rng.integers(int(subjects.max()) + 1)]
        own = stand_ins == number
        imputed[own] = source[ranks[own] % len(source)]
    return imputed


def _stand_in(
    losses: TableLosses,
    controls: NDArray[np.intp],
    chosen: Mask,
    gaps: Array,
    left_out: int,
    rng: np.random.Generator,
) -> TableLosses:
    """Make chosen controls the forget set, left out of R random models by subject, and plant one of them in the target."""
    numbers = np.unique(controls[chosen], return_inverse=True)[1]
    models = len(losses.control_pool)
    everyone = np.tile(np.arange(models) < left_out, (int(numbers.max()) + 1, 1))
    unseen = rng.permuted(everyone, axis=1)[numbers].T
    original = losses.control_original[chosen] - gaps
    kept = numbers == rng.integers(int(numbers.max()) + 1)
    return TableLosses(
        pool=np.where(unseen, losses.control_pool[:, chosen], np.nan),
        control_pool=losses.control_pool[:, ~chosen],
        original=original,
        target=np.where(kept, original, losses.control_target[chosen]),
        control_original=losses.control_original[~chosen],
        control_target=losses.control_target[~chosen],
    )


@dataclass(frozen=True)
class Support:
    """Whether levels of forget records lie within the range on which the calibration rests.

    Attributes:
        low, high: smallest and largest level of a control, nats per token.
        outside: forget records whose level lies beyond that range. records: K.
        distance: |lbar_F - lbar_C| in standard deviations of control subjects' mean levels.
        inflation: standard error of the level that is predicted at lbar_F, over that at the controls' mean level:
            sqrt(1 + distance^2 n_C / (n_C - 1)), at least 1.
    """

    low: float
    high: float
    outside: int
    records: int
    distance: float
    inflation: float

    @property
    def held(self) -> bool:
        """Whether few records lie outside (`MOST_OUTSIDE`, or two), and the set is not far from the controls."""
        return self.outside <= max(2, MOST_OUTSIDE * self.records) and self.inflation <= LARGEST_INFLATION


def support(verdict: TableVerdict, subjects: Sequence[str], control_subjects: Sequence[str]) -> Support:
    """Compare the levels of forget records with those of the controls, on the exact text.

    Args:
        verdict: the result of `judge_table`.
        subjects, control_subjects: as given to it.
    """
    levels, controls = verdict.fit.levels, verdict.fit.control_levels
    low, high = float(controls.min()), float(controls.max())
    ours, theirs = (
        subject_means(values, subject_numbers(names)) for values, names in ((levels, subjects), (controls, control_subjects))
    )
    spread = float(theirs.std(ddof=1))
    distance = abs(float(ours.mean() - theirs.mean())) / spread if spread > 0 else 0.0
    inflation = float(np.sqrt(1 + distance**2 * len(theirs) / (len(theirs) - 1)))
    return Support(low, high, int(((levels < low) | (levels > high)).sum()), len(levels), distance, inflation)


@dataclass(frozen=True)
class ControlsCheck:
    """Whether the target still loses on the controls what the original does, which saw none of them.

    Attributes:
        difference: D, mean over control subjects of m(original) - m(target), nats per token; above 0 where the target fits them
            better.
        standard_error: standard error of D, from control subjects.
        limit: the largest D that passes.
    """

    difference: float
    standard_error: float
    limit: float

    @property
    def held(self) -> bool:
        """Whether D is within the limit."""
        return self.difference <= self.limit


def controls_unseen(losses: TableLosses, control_subjects: Sequence[str], gap: float, margin: float) -> ControlsCheck:
    """Check that the target was not trained on the controls.

    All tests by a level table are contrasts with the controls. A target that learned the controls as far as it still knows the
    forget set has N = 0 and would be certified. It then loses less on them than the original: a D above rho* G / 2, and beyond
    its error at the one-sided level `CONTROLS_LEVEL`, fails. A target that loses more on them passes: that hides nothing, and N
    contrasts it out. A target that was made noisy on the controls alone shows in `TableFit.noise`.

    Args:
        losses: losses on the exact text.
        control_subjects: as `judge_table`.
        gap: G, nats per token. margin: rho*.
    """
    numbers = subject_numbers(control_subjects)
    own = subject_means(losses.control_original - losses.control_target, numbers)
    error = float(own.std(ddof=1) / np.sqrt(len(own)))
    limit = max(t_quantile(1 - CONTROLS_LEVEL, len(own) - 1) * error, margin * max(gap, 0.0) / 2)
    return ControlsCheck(float(own.mean()), error, limit)


@dataclass(frozen=True, eq=False)
class PoolModelCheck:
    """One pool model, judged as a target by the others on the forget records that it should never have seen.

    Attributes:
        model: its number in the pool, from 0.
        subjects: forget subjects that the design leaves out of it.
        accused: whether it remembers any of them beyond the margin, at level alpha / M.
        verdict: the outcome; None where the design leaves no forget subject out of it, or too few models remain to judge it.
    """

    model: int
    subjects: int
    accused: bool
    verdict: TableVerdict | None


def pool_innocence(
    losses: TableLosses,
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float,
    alpha: float,
    seed: int,
    rule: Rule = 4,
) -> tuple[PoolModelCheck, ...]:
    """Judge every pool model by the others: one that saw what its design says it did not remembers it.

    A record that every model of the pool saw is not found by this: its gap is then small, so it counts as hardly memorised.

    Args:
        losses: losses on the exact text. Others: as `judge_table`; each model is judged at level alpha / M.

    Returns:
        one check per pool model, in order.
    """
    whose = subjects, control_subjects
    return tuple(_check(losses, *whose, margin, alpha, seed, rule, model) for model in range(len(losses.pool)))


def _check(
    losses: TableLosses,
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float,
    alpha: float,
    seed: int,
    rule: Rule,
    model: int,
) -> PoolModelCheck:
    unseen = ~np.isnan(losses.pool)
    mine = unseen[model]
    whose = [subjects[index] for index in np.flatnonzero(mine).tolist()]
    if not whose or int(unseen[:, mine].sum(axis=0).min()) <= MIN_MODELS:
        return PoolModelCheck(model, len(set(whose)), False, None)
    others = np.arange(len(unseen)) != model
    as_target = TableLosses(
        pool=losses.pool[others][:, mine],
        control_pool=losses.control_pool[others],
        original=losses.original[mine],
        target=losses.pool[model, mine],
        control_original=losses.control_original,
        control_target=losses.control_pool[model],
    )
    verdict = judge_table({EXACT_TEXT: as_target}, whose, control_subjects, margin, alpha / len(unseen), seed, rule=rule)
    return PoolModelCheck(model, len(set(whose)), _remembers(verdict), verdict)


def _remembers(verdict: TableVerdict) -> bool:
    """Return whether anything accuses in the direction of memory: a model that is worse on a record never saw it."""
    judged = verdict.residual
    units = [test for test in (judged.record_test, judged.subject_test) if test is not None]
    return (judged.mean_test.accused and judged.mean_residual > 0) or any(
        bool((test.accused & test.remembered).any()) for test in units
    )
