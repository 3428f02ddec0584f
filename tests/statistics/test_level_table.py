"""Audit by a level table: known answers, invariances, level and power by simulation, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from verify.statistics.channels import EXACT_TEXT
from verify.statistics.intervals import clopper_pearson
from verify.statistics.level_checks import (
    controls_unseen,
    planted_subject_rate,
    pool_innocence,
    support,
    with_original,
)
from verify.statistics.level_contrast import TableLosses
from verify.statistics.level_fit import control_side, fit, forget_side, model_effects
from verify.statistics.level_simulation import TableWorld, Truth, simulate_table, table_rates
from verify.statistics.level_table import TableVerdict, judge_table
from verify.statistics.subjects import subject_numbers

SEED = 7


def drawn(world: TableWorld | None = None, truth: Truth = "honest", seed: int = 0) -> tuple[TableLosses, list[str], list[str]]:
    """One simulated audit."""
    return simulate_table(world or TableWorld(subjects=5), truth, np.random.default_rng(seed))


def judged(losses: TableLosses, subjects: list[str], controls: list[str], alpha: float = 0.05) -> TableVerdict:
    """Its verdict on the exact text."""
    return judge_table({EXACT_TEXT: losses}, subjects, controls, 0.10, alpha, SEED)


def test_levels_lines_and_errors_against_loops() -> None:
    """M_k, l, kappa, a, b, N - rho* G and its error are those of a slow computation, with subjects of unequal size."""
    losses, subjects, controls = drawn(TableWorld(subjects=3, each=2, control_subjects=7, control_each=3))
    controls[3] = controls[0]  # a subject of four records, and one of two
    verdict = judged(losses, subjects, controls)
    people, models = sorted(set(controls)), len(losses.pool)

    def by_subject(values: np.ndarray, names: list[str]) -> list[float]:
        return [float(np.mean([v for v, n in zip(values, names, strict=True) if n == name])) for name in sorted(set(names))]

    means = [float(np.mean(by_subject(row, controls))) for row in losses.control_pool]
    effect = np.array(means) - np.mean(means)
    order = np.random.default_rng(SEED).permuted(np.tile(np.arange(models), (len(people), 1)), axis=1)[:, :4]
    own = [order[people.index(name)] for name in controls]
    centred = losses.control_pool - effect[:, None]
    level = np.array([centred[rows, index].mean() for index, rows in enumerate(own)])
    noise = np.array([centred[:, index].var(ddof=1) / 4 for index in range(len(controls))])
    forget = np.nanmean(losses.pool - effect[:, None], axis=0)
    outcome = losses.control_target - 0.1 * losses.control_original

    def line(left_out: str | None) -> tuple[float, float]:
        kept = [name for name in people if name != left_out]
        weights = np.array([0 if name == left_out else 1 / controls.count(name) for name in controls])
        centre, mean = (weights * level).sum() / len(kept), (weights * outcome).sum() / len(kept)
        spread = (weights * level**2).sum() - len(kept) * centre**2
        kappa = np.clip(1 - (weights * noise).sum() / spread, 0.5, 1)
        slope = ((weights * level * outcome).sum() - len(kept) * centre * mean) / spread / kappa
        return mean - slope * centre, slope

    a, b = line(None)
    residual = np.array(by_subject(a + b * level - outcome, controls))
    lbar = np.mean(by_subject(forget, subjects))
    left_out = np.array([one + two * lbar for one, two in map(line, people)])
    jackknife = (len(people) - 1) / len(people) * ((left_out - left_out.mean()) ** 2).sum()
    variance = (residual**2).sum() / (len(people) - 2) / 3
    n = np.mean(by_subject(a + b * forget - losses.target + 0.1 * losses.original, subjects))
    assert verdict.fit.levels == pytest.approx(forget)
    assert verdict.fit.control_levels == pytest.approx(level)
    assert verdict.residual.mean_residual - 0.1 * verdict.residual.mean_gap == pytest.approx(n)
    # Forget subjects of two records vary more over the pool than control subjects of three, which u allows for.
    assert verdict.fit.standard_error**2 >= variance + jackknife
    equal = judged(*drawn(TableWorld(subjects=20, record_spread=0.2)))
    assert equal.residual.mean_test.above == pytest.approx(
        (equal.residual.mean_residual - 0.1 * equal.residual.mean_gap) / equal.fit.standard_error
    )


def test_lines_without_a_subject_are_those_fitted_without_it() -> None:
    """Every entry of `Lines` but the first is the fit to the data without that subject, computed again."""
    losses, _, controls = drawn()
    effects = model_effects(losses.control_pool, subject_numbers(controls))
    side = control_side(losses.control_pool, effects, controls, 4, SEED)
    found = fit(side, losses.control_target)
    for left_out in (0, 11, 19):
        kept = side.numbers != left_out
        numbers = np.unique(side.numbers[kept], return_inverse=True)[1]
        rest = replace(side, levels=side.levels[kept], noise=side.noise[kept], numbers=numbers)
        rest = replace(rest, subject_variances=np.delete(side.subject_variances, left_out))
        again = fit(rest, losses.control_target[kept])
        assert (found.a[1 + left_out], found.b[1 + left_out]) == pytest.approx((again.a[0], again.b[0]))


def test_levels_of_another_kind_change_nothing() -> None:
    """Pool losses times 0.9 plus 0.4, a constant per pool model, and a shift of every loss of the target: the same verdict."""
    losses, subjects, controls = drawn(TableWorld(subjects=5, target_noise=1.5), "20 % of the records", 3)  # so that lambda > 1
    shifts = np.linspace(-1, 1, len(losses.pool))[:, None]
    other = replace(
        losses,
        pool=0.9 * losses.pool + 0.4 + shifts,
        control_pool=0.9 * losses.control_pool + 0.4 + shifts,
        target=losses.target + 0.6,
        control_target=losses.control_target + 0.6,
    )
    one, two = (judged(given, subjects, controls) for given in (losses, other))
    assert two.residual.residual == pytest.approx(one.residual.residual)
    assert two.residual.mean_test.above == pytest.approx(one.residual.mean_test.above)
    assert two.residual.record_test.p_values == pytest.approx(one.residual.record_test.p_values, rel=1e-3)
    assert two.residual.spread_test.upper_limit == pytest.approx(one.residual.spread_test.upper_limit)
    assert (two.conformal.remembered == one.conformal.remembered).all()


def test_an_untouched_model_is_accused_by_every_test() -> None:
    """With the original as the target N = G; the set, most records and some subject are beyond the margin."""
    losses, subjects, controls = drawn()
    verdict = judge_table(with_original({EXACT_TEXT: losses}), subjects, controls, 0.10, 0.05, SEED)
    assert verdict.residual.mean_residual == pytest.approx(verdict.residual.mean_gap)
    assert verdict.residual.mean_test.accused
    assert verdict.residual.record_test.accused.mean() > 0.7
    assert verdict.residual.subject_test is not None
    assert verdict.residual.subject_test.accused.any()
    assert verdict.accused
    assert not verdict.certified


@pytest.mark.slow
def test_slopes_are_corrected_for_noise_in_the_levels() -> None:
    """Forget records a nat harder than the controls, levels of reliability 0.7: no bias, where least squares has one of 0.05 G."""
    world = TableWorld(subjects=40, control_subjects=60, difficulty_spread=0.5, harder=1.0, record_spread=0.5)
    corrected, plain = [], []
    for seed in range(30):
        losses, subjects, controls = drawn(world, seed=seed)
        verdict = judged(losses, subjects, controls)
        corrected.append(verdict.residual.mean_residual)
        slope, level = stats.linregress(verdict.fit.control_levels, losses.control_target)[:2]
        plain.append(np.mean(level + slope * verdict.fit.levels - losses.target))
    assert abs(np.mean(corrected)) < 0.06
    assert np.mean(plain) < -0.2


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [1, 5, 20])
def test_honest_deletions_are_rarely_accused(subjects: int) -> None:
    """Of 40 honest deletions no more are accused than a rate of alpha explains; one subject is never certified."""
    rates = table_rates(TableWorld(subjects=subjects, control_subjects=30), audits=40)
    assert rates.accused.low <= 0.05
    assert rates.certified.value == 0 if subjects == 1 else rates.certified.value > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["20 % of the records", "one subject"])
def test_what_was_kept_is_found(truth: Truth) -> None:
    """A fifth of the records, or one subject of five, wholly kept: found in at least 90 % of 40 audits, never certified."""
    rates = table_rates(TableWorld(subjects=5), truth, audits=40)
    assert rates.accused.value >= 0.9
    assert rates.certified.value == 0


@pytest.mark.slow
def test_one_kept_record_of_a_person_is_found_where_hard_records_are_noisy() -> None:
    """Noise that grows by 1.35 a nat: one record of four kept is found in at least 90 % of 40 audits, honest ones rarely."""
    world = TableWorld(subjects=1, control_subjects=40, growth=1.35)
    kept, honest = (table_rates(world, truth, audits=40) for truth in ("20 % of the records", "honest"))
    assert kept.accused.value >= 0.9
    assert honest.accused.low <= 0.05


@pytest.mark.slow
def test_at_the_margin_few_are_certified() -> None:
    """With exactly rho* of every gap left a certificate is false: given in at most alpha of 40 audits, chance aside."""
    rates = table_rates(TableWorld(subjects=20, control_subjects=40), "the margin", audits=40)
    assert rates.certified.low <= 0.05


def test_conformal_p_values_are_those_of_one_fit_for_each_unit() -> None:
    """Ranks by subtraction of sums are those of fitting again to all units but one, for the first subject in both directions."""
    losses, subjects, controls = drawn(TableWorld(subjects=3, control_subjects=9), "one subject", seed=2)
    verdict = judged(losses, subjects, controls)
    effects = model_effects(losses.control_pool, subject_numbers(controls))
    ours, theirs = forget_side(losses.pool, effects, subjects), control_side(losses.control_pool, effects, controls, 4, SEED)
    first = ours.numbers == 0
    both = [np.concatenate([getattr(ours, name)[first], getattr(theirs, name)]) for name in ("levels", "noise")]
    numbers = np.concatenate([np.zeros(4, int), theirs.numbers + 1])
    # Moderation may shrink all variances of subjects to one, as with these ten: then it cancels from the ranks.
    for sign, found in ((1, verdict.conformal.remembered), (-1, verdict.conformal.over_forgotten)):
        outcome = np.concatenate([losses.target[first], losses.control_target]) - sign * 0.1 * np.concatenate(
            [losses.original[first], losses.control_original]
        )
        side = replace(theirs, levels=both[0], noise=both[1], numbers=numbers, subject_variances=np.zeros(10))
        line = fit(side, outcome)
        residual = line.without_own(side.levels, numbers) - outcome
        scores = [sign * residual[numbers == unit].mean() for unit in range(10)]
        assert found[0] == pytest.approx(np.sum(np.array(scores) >= scores[0]) / 10)
    assert verdict.conformal.smallest == 0.1


@pytest.mark.slow
def test_conformal_p_values_of_honest_subjects_are_uniform() -> None:
    """At a margin of nearly zero, p <= 0.2 in no more than a fifth of 300 honest subjects, chance aside, and in as many."""
    p = []
    for seed in range(60):
        losses, subjects, controls = drawn(TableWorld(subjects=5, control_subjects=19), seed=seed)
        p += judge_table({EXACT_TEXT: losses}, subjects, controls, 1e-9, 0.05, SEED).conformal.remembered.tolist()
    share = clopper_pearson(sum(value <= 0.2 for value in p), len(p), 0.999)
    assert share.low <= 0.2 <= share.high


def test_a_channel_that_still_knows_accuses_alone() -> None:
    """Exact text as retrained, a second channel with half the gap kept: accused by that channel, and no certificate."""
    losses, subjects, controls = drawn(TableWorld(subjects=20, control_subjects=30))
    asked = replace(losses, pool=losses.pool.copy(), target=losses.target - 0.5 * (losses.target - losses.original))
    asked.pool[:, 3] = asked.target[3] = np.nan  # not scored on this channel
    verdict = judge_table({EXACT_TEXT: losses, "rewording 1": asked}, subjects, controls, 0.10, 0.05, SEED)
    exact, other = verdict.tests
    assert not verdict.residual.accused
    assert (exact.accused, other.accused) == (False, True)
    assert other.residual is not None
    assert other.residual.value == pytest.approx(0.5, abs=0.1)
    assert other.p_value < 1e-6
    assert verdict.accused
    assert not verdict.certified


def test_a_channel_without_controls_is_left_out_with_its_reason() -> None:
    """Where no control was scored the channel neither accuses nor certifies, and the exact text decides."""
    losses, subjects, controls = drawn(TableWorld(subjects=20, control_subjects=30))
    silent = replace(losses, control_target=np.full(len(controls), np.nan))
    verdict = judge_table({EXACT_TEXT: losses, "int8": silent}, subjects, controls, 0.10, 0.05, SEED)
    assert not verdict.tests[1].valid
    assert verdict.tests[1].control_subjects == 0
    assert verdict.tests[1].reason
    assert verdict.residual.certified == verdict.certified


@pytest.mark.slow
def test_the_p_value_is_the_level_at_which_the_audit_accuses() -> None:
    """For targets of all kinds, accused at alpha exactly where p_value <= alpha."""
    truths: list[Truth] = ["honest", "the margin", "0.20 everywhere", "20 % of the records"]
    for seed in range(24):
        losses, subjects, controls = drawn(TableWorld(subjects=1 + 4 * (seed % 3)), truths[seed % 4], seed)
        verdict = judged(losses, subjects, controls)
        assert verdict.accused == (verdict.p_value <= 0.05)
        for alpha in (verdict.p_value * 0.99, min(verdict.p_value * 1.01, 0.49)):
            if 1e-9 < alpha < 0.49:
                assert judged(losses, subjects, controls, alpha).residual.accused == (verdict.p_value <= alpha)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: replace(given, target=given.target[1:]), "expected losses of 20 records"),
        (lambda given: replace(given, target=np.where(np.arange(20) == 3, np.inf, given.target)), "finite"),
        (lambda given: replace(given, target=np.where(np.arange(20) == 3, np.nan, given.target)), "every record has to be scored"),
        (lambda given: replace(given, pool=np.where(np.isnan(given.pool), 3.0, given.pool)), None),
        (lambda given: replace(given, pool=_one_more_nan(given.pool)), "same number of pool models"),
        (lambda given: replace(given, control_target=np.full(80, np.nan)), "controls about 5 subjects"),
    ],
)
def test_impossible_losses(change: object, message: str | None) -> None:
    """Wrong shapes, infinite or missing losses, unequal numbers of models, missing controls raise; records nobody saw do not."""
    losses, subjects, controls = drawn()
    given = change(losses)  # type: ignore[operator]
    if message is None:
        assert judged(given, subjects, controls).fit.models == 8
    else:
        with pytest.raises(ValueError, match=message):
            judged(given, subjects, controls)


def _one_more_nan(pool: np.ndarray) -> np.ndarray:
    changed = pool.copy()
    changed[np.flatnonzero(~np.isnan(pool[:, 0]))[0], 0] = np.nan
    return changed


def test_out_of_range_settings() -> None:
    """A margin, level or share out of range, and losses without the exact text, raise."""
    losses, subjects, controls = drawn()
    for margin, alpha, share in ((0.0, 0.05, 1.0), (0.1, 0.5, 1.0), (0.1, 0.05, 0.0)):
        with pytest.raises(ValueError, match="lies in"):
            judge_table({EXACT_TEXT: losses}, subjects, controls, margin, alpha, SEED, share=share)
    with pytest.raises(ValueError, match="exact text"):
        judge_table({"int8": losses}, subjects, controls, 0.1, 0.05, SEED)


def test_copies_of_a_text_count_once() -> None:
    """Thirty copies of an honest record beside one that was kept: its p-value is corrected for two texts, not for 32 rows."""
    losses, subjects, controls = drawn(TableWorld(subjects=2, each=1, gap=2.0), "one subject", seed=1)
    rows = np.r_[0, np.full(30, 1)]
    padded = replace(losses, pool=losses.pool[:, rows], original=losses.original[rows], target=losses.target[rows])
    names = [subjects[index] for index in rows]
    texts = rows.tolist()
    once = judge_table({EXACT_TEXT: padded}, names, controls, 0.1, 0.05, SEED, texts).residual.record_test
    often = judge_table({EXACT_TEXT: padded}, names, controls, 0.1, 0.05, SEED).residual.record_test
    assert once.rejections.adjusted[0] == pytest.approx(min(2 * once.p_values[0], 1), rel=0.01)
    assert often.rejections.adjusted[0] == pytest.approx(min(31 * often.p_values[0], 1), rel=0.01)


@pytest.mark.slow
def test_the_record_test_keeps_its_level_with_the_smallest_table() -> None:
    """One record and five control subjects of one: six variances are too few for a prior that counts as known, and the tail that
    the controls' residuals give makes up for it. There is no gap, so that the margin is no help."""
    world, rng = TableWorld(subjects=1, each=1, control_subjects=5, control_each=1, gap=0.01), np.random.default_rng(11)
    found = [judged(*simulate_table(world, "honest", rng)).residual.record_test for _ in range(150)]
    assert sum(float(test.rejections.adjusted.min()) <= 0.05 for test in found) <= 0.05 * len(found)


@pytest.mark.slow
def test_the_planted_rate_tells_strong_from_weak_memory() -> None:
    """One subject among ten is found where the gap is four nats, and is not where it is a tenth of one."""
    strong, weak = (
        planted_subject_rate(*drawn(TableWorld(subjects=10, gap=gap)), margin=0.1, alpha=0.05, seed=1, draws=20)
        for gap in (4.0, 0.1)
    )
    assert strong.value >= 0.85
    assert weak.value <= 0.15


@pytest.mark.slow
def test_the_planted_rate_is_corrected_for_the_whole_forget_set() -> None:
    """At a moderate gap a subject among 300 is found less often than one among six, though no more control subjects stand in."""
    few, many = (
        planted_subject_rate(*drawn(TableWorld(subjects=count, gap=1.6, each=2)), margin=0.1, alpha=0.05, seed=1, draws=30).value
        for count in (6, 300)
    )
    assert many < few


def test_planted_subjects_need_controls_beside_them() -> None:
    """Six control subjects cannot both stand in for the forget set and calibrate."""
    losses, subjects, controls = drawn(TableWorld(subjects=2, control_subjects=6))
    with pytest.raises(ValueError, match="control subjects that stand in"):
        planted_subject_rate(losses, subjects, controls, 0.1, 0.05, 1)


def test_support_says_where_the_calibration_extrapolates() -> None:
    """Records like the controls are supported, five standard deviations harder they are not, and the error grows by leverage."""
    near, far = (drawn(TableWorld(subjects=5, harder=harder)) for harder in (0.0, 5.0))
    one, two = (support(judged(*given), *given[1:]) for given in (near, far))
    assert one.held
    assert not two.held
    assert two.outside > 10
    assert two.inflation == pytest.approx(np.sqrt(1 + two.distance**2 * 20 / 19))


def test_a_target_that_learned_the_controls_as_well_is_refused() -> None:
    """A fifth of every gap kept, hidden by as much learned on the controls: the tests are fooled, the check is not.

    Of honest targets at most one of 40 is refused, of those that hide a fifth at most two pass.
    """
    honest, hiding, certified = 0, 0, 0
    for seed in range(40):
        losses, subjects, controls = drawn(TableWorld(subjects=20), seed=seed)
        gap = 4.05
        honest += controls_unseen(losses, controls, gap, 0.1).held
        hidden = replace(losses, target=losses.target - 0.2 * gap, control_target=losses.control_target - 0.2 * gap)
        hiding += controls_unseen(hidden, controls, gap, 0.1).held
        if seed < 10:
            certified += judged(hidden, subjects, controls).certified
    assert honest >= 39
    assert hiding <= 2
    assert certified > 5


def test_a_target_that_is_noisy_on_controls_is_told_from_an_honest_one() -> None:
    """Three times the noise on controls alone blinds the tests per subject; it shows against the original."""
    losses, subjects, controls = drawn(TableWorld(subjects=20, control_subjects=30))
    rng = np.random.default_rng(1)
    noisy = replace(losses, control_target=losses.control_target + 1.3 * rng.standard_normal(len(controls)))
    honest, blurred = (judged(given, subjects, controls).fit.noise for given in (losses, noisy))
    assert honest.ratio == pytest.approx(1, abs=0.5)
    assert honest.trained_alike
    assert not blurred.trained_alike


def test_a_pool_model_that_saw_the_forget_set_is_found() -> None:
    """The honest pool is innocent; a model given the original's losses on what it should never have seen is accused, it alone."""
    losses, subjects, controls = drawn(TableWorld(subjects=10))
    assert not any(check.accused for check in pool_innocence(losses, subjects, controls, 0.1, 0.05, SEED))
    pool = losses.pool.copy()
    pool[2] = np.where(np.isnan(pool[2]), np.nan, losses.original)
    checks = pool_innocence(replace(losses, pool=pool), subjects, controls, 0.1, 0.05, SEED)
    assert [check.model for check in checks if check.accused] == [2]
