"""Rule 2: noise measured on controls, noise-free spread, the test per subject, copies of a text, and the smallest margin."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from verify.statistics import residual_verdict
from verify.statistics.controls import Controls, excess_spread, noise_ratio
from verify.statistics.multiplicity import holm
from verify.statistics.panel import reference_panel
from verify.statistics.residual import ResidualVerdict
from verify.statistics.smallest_margin import smallest_margin
from verify.statistics.subjects import rank_within, subject_means, subject_numbers

pytestmark = pytest.mark.filterwarnings("error")
Array = np.ndarray


def judged(
    rng: np.random.Generator,
    kept: Array,
    *,
    noise: float = 1.0,
    control_noise: float = 1.0,
    spread: float = 0.14,
    gap: float = 2.2,
    references: int = 4,
    each: int = 4,
    margin: float = 0.10,
    share: float = 1.0,
) -> ResidualVerdict:
    """Simulate and judge an audit: `kept` [K] is the share of each gap that is left, `noise` a factor on the target's errors."""
    records, controls = len(kept), 40
    own = spread * np.concatenate([rng.uniform(0.5, 1.5, records), control_noise * rng.uniform(0.5, 1.5, controls)])
    level, gaps = rng.uniform(2, 4, records + controls), gap * rng.gamma(9, 1 / 9, records)

    def model(factor: float = 1.0) -> Array:
        return np.asarray(level + 0.04 * rng.normal() + factor * own * rng.normal(size=len(level)))

    original, target, refs = model()[:records] - gaps, model(noise), np.stack([model() for _ in range(references)])
    return residual_verdict(
        original,
        target[:records] - kept * gaps,
        reference_panel(refs[:, :records], [f"p{index // each}" for index in range(records)]),
        margin,
        controls=Controls(target[records:], refs[:, records:], [f"c{index // each}" for index in range(controls)]),
        share=share,
    )


def test_subject_means_by_hand() -> None:
    """Subjects in sorted order, averages over the last axis, and the rank of each record within its subject."""
    numbers = subject_numbers(["b", "a", "b", "c"])
    np.testing.assert_array_equal(numbers, [1, 0, 1, 2])
    np.testing.assert_array_equal(subject_means(np.array([[1.0, 2, 3, 4], [0, 0, 2, 8]]), numbers), [[2, 2, 4], [0, 1, 8]])
    np.testing.assert_array_equal(subject_means(np.array([1.0, 2, 3, 4]), numbers), [2, 2, 4])
    np.testing.assert_array_equal(rank_within(numbers), [0, 0, 1, 0])


def test_holm_by_hand() -> None:
    """Holm (1979): 0.01, 0.02 and 0.04 of four are multiplied by 4, 3 and 2, and never fall below an earlier one."""
    found = holm([0.04, 0.01, 0.9, 0.02], 0.05)
    np.testing.assert_allclose(found.adjusted, [0.08, 0.04, 0.9, 0.06])
    np.testing.assert_array_equal(found.rejected, [False, True, False, False])
    with pytest.raises(ValueError, match="level"):
        holm([0.5], 1.0)


def test_noise_ratio_by_hand() -> None:
    """Three controls, two references: residuals -1, 0, 1 have variance 1; the centred references' mean variance is worked out.

    References 0, 1, 2 and 0, 3, 0 are centred to -1, 0, 1 and -1, 2, -1: variances over them 0, 2, 2, mean 4/3, times 3/2 for the
    centring; 1 + 1/R = 3/2: lambda = 1 / (2 * 1.5) = 1/3.
    """
    references = np.array([[0.0, 1, 2], [0, 3, 0]])
    controls = Controls(references.mean(axis=0) - np.array([-1.0, 0, 1]), references, ["a", "b", "c"])
    found = noise_ratio(controls, 0.05)
    assert found is not None
    assert found.ratio == pytest.approx(1 / 3)
    assert found.by_subject == pytest.approx(1 / 3)
    assert found.low == pytest.approx(found.ratio / stats.f.ppf(0.95, 2, 2))
    assert (found.applied, found.controls, found.subjects) == (1.0, 3, 3)
    assert noise_ratio(Controls(np.zeros(2), references[:, :2], ["a", "b"]), 0.05) is None


def test_excess_spread_by_hand() -> None:
    """d^2 by subject 4 and 1, control r^2 1, 1 and 1 at equal reference variance: E = 2.5 - 1, its error Welch's."""
    references = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    controls = Controls(references.mean(axis=0) - 1.0, references, ["x", "y", "z"])
    found = excess_spread(np.array([2.0, -2.0, 1.0]), references, np.array([0, 0, 1]), controls)
    assert found is not None
    assert (found.excess, found.noise) == pytest.approx((1.5, 1.0))
    assert found.standard_error == pytest.approx(np.sqrt(4.5 / 2))
    noisy = Controls(controls.target, references * 10, ["x", "y", "z"])
    # Controls ten times as noisy under the references: only a hundredth of their spread counts as the forget set's noise.
    other = excess_spread(np.array([2.0, -2.0, 1.0]), references, np.array([0, 0, 1]), noisy)
    assert other is not None
    assert other.noise == pytest.approx(np.mean(noisy.residual**2) / 100)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [2.0, 3.0])
def test_a_noisier_target_is_not_accused_for_its_noise(noise: float) -> None:
    """Honest, but two or three times as noisy as the references: accused at most at alpha with controls, far more without."""
    rng, draws = np.random.default_rng(int(noise)), 100
    verdicts = [judged(rng, np.zeros(40), noise=noise) for _ in range(draws)]
    assert np.mean([v.accused for v in verdicts]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert np.mean([v.noise is not None and v.noise.trained_alike for v in verdicts]) <= 0.2
    blind = np.random.default_rng(int(noise))
    assert np.mean([_without_controls(blind, noise).accused for _ in range(40)]) >= 0.2


def _without_controls(rng: np.random.Generator, noise: float) -> ResidualVerdict:
    own, level = 0.14 * rng.uniform(0.5, 1.5, 40), rng.uniform(2, 4, 40)
    models = [level + 0.04 * rng.normal() + factor * own * rng.normal(size=40) for factor in (1, noise, 1, 1, 1, 1)]
    return residual_verdict(models[0] - 2.2 * rng.gamma(9, 1 / 9, 40), models[1], np.stack(models[2:]))


@pytest.mark.slow
def test_an_honest_target_is_trained_alike() -> None:
    """Lambda near 1, its lower limit at 95 % above the limit's reach in few audits, nothing accused."""
    rng = np.random.default_rng(5)
    verdicts = [judged(rng, np.zeros(40)) for _ in range(100)]
    ratios = [v.noise.ratio for v in verdicts if v.noise is not None]
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)
    assert np.mean([v.noise is not None and v.noise.trained_alike for v in verdicts]) >= 0.97
    assert np.mean([v.accused for v in verdicts]) <= 0.05
    assert all(v.rule == 2 for v in verdicts)


@pytest.mark.slow
def test_noise_alone_no_longer_forbids_a_certificate() -> None:
    """At the demo's size (sd 0.6, gap 3.5) C2 holds for honest retrainings with controls; 5 % wholly kept never pass it."""
    rng = np.random.default_rng(6)
    honest = [judged(rng, np.zeros(80), spread=0.6, gap=3.5) for _ in range(60)]
    assert np.mean([v.spread_test.certified for v in honest]) >= 0.85
    kept = np.zeros(80)
    kept[:4] = 1.0
    assert np.mean([judged(rng, kept, spread=0.3, gap=3.5).spread_test.certified for _ in range(60)]) <= 0.05


@pytest.mark.slow
def test_noisy_controls_hide_nothing() -> None:
    """Controls three times as noisy as the forget set: two records of 40 wholly kept do not pass for noise."""
    rng, kept = np.random.default_rng(7), np.zeros(40)
    kept[:2] = 1.0
    assert np.mean([judged(rng, kept, control_noise=3.0).spread_test.certified for _ in range(60)]) <= 0.1


@pytest.mark.slow
def test_one_person_among_a_hundred_is_found_and_named() -> None:
    """Four records of 400 wholly kept: A3 names exactly that person in at least 95 %, and never is the set certified."""
    rng, kept = np.random.default_rng(8), np.zeros(400)
    kept[:4] = 1.0
    verdicts = [judged(rng, kept, share=0.75) for _ in range(40)]
    tests = [v.subject_test for v in verdicts if v.subject_test is not None]
    assert len(tests) == 40
    assert np.mean([test.accused.sum() == 1 and test.accused[0] for test in tests]) >= 0.95
    assert all(v.accused and not v.certified for v in verdicts)


def test_subjects_of_one_record_each_need_no_test_of_their_own() -> None:
    """A3 would repeat A2, and with one subject A1: neither is run, and A2 keeps its whole share."""
    rng = np.random.default_rng(9)
    single, one = judged(rng, np.zeros(40), each=1), judged(rng, np.zeros(40), each=40)
    assert single.subject_test is None
    assert one.subject_test is None
    assert single.record_test.rejections.level == 0.025
    assert judged(rng, np.zeros(40)).record_test.rejections.level == 0.0125


def test_a_smaller_share_moves_accusations_and_no_certificate() -> None:
    """`share` scales the levels of A1, A2 and A3; C1 and C2 keep alpha."""
    whole, part = (judged(np.random.default_rng(10), np.zeros(40), share=share) for share in (1.0, 0.75))
    assert part.mean_test.accuse_at == pytest.approx(stats.t.ppf(1 - 0.75 * 0.05 / 4, 3))
    assert part.mean_test.certify_at == whole.mean_test.certify_at
    assert part.subject_test is not None
    assert part.subject_test.rejections.level == pytest.approx(0.75 * 0.05 / 4)


def test_copies_of_a_text_count_once() -> None:
    """A set padded with copies gives the same p-values and the same correction as the set without them."""
    rng = np.random.default_rng(11)
    level, own = rng.uniform(2, 4, 12), 0.1
    models = [level + 0.04 * rng.normal() + own * rng.normal(size=12) for _ in range(6)]
    rows, subjects = np.r_[np.arange(12), np.zeros(30, dtype=int)], [f"p{index // 3}" for index in range(12)]

    def verdict(chosen: Array) -> ResidualVerdict:
        panel = reference_panel(np.stack(models[2:])[:, chosen], [subjects[row] for row in chosen], chosen.tolist())
        return residual_verdict(models[0][chosen] - 2.0, models[1][chosen] - np.where(chosen == 1, 2.0, 0.0), panel)

    plain, padded = verdict(np.arange(12)), verdict(rows)
    np.testing.assert_allclose(padded.record_test.rejections.adjusted, plain.record_test.rejections.adjusted[rows])
    assert padded.record_test.accused[1]


def test_rule_one_is_untouched_by_subjects_left_out() -> None:
    """Without subjects the rule is that of earlier versions, controls are refused, and the share is all of alpha."""
    rng = np.random.default_rng(12)
    references = rng.normal(3, 0.2, (4, 20))
    verdict = residual_verdict(references[0] - 2, rng.normal(3, 0.2, 20), references)
    assert (verdict.rule, verdict.noise, verdict.subject_test, verdict.spread_test.beyond_noise) == (1, None, None, None)
    controls = Controls(np.zeros(3), np.zeros((4, 3)), ["a", "b", "c"])
    with pytest.raises(ValueError, match="subjects"):
        residual_verdict(references[0] - 2, references[1], references, controls=controls)
    with pytest.raises(ValueError, match="a subject and a text"):
        reference_panel(references, ["a"])
    with pytest.raises(ValueError, match="3 controls"):
        replace(controls, target=np.zeros(4))
    with pytest.raises(ValueError, match="finite"):
        replace(controls, target=np.full(3, np.nan))


def test_the_smallest_margin_is_where_certification_begins() -> None:
    """Against a known threshold; rounded up; None where nothing certifies."""
    assert smallest_margin(lambda margin: margin >= 0.1234) == 0.124
    assert smallest_margin(lambda margin: True) == 0.001
    assert smallest_margin(lambda margin: False) is None


@pytest.mark.slow
def test_the_smallest_margin_is_an_upper_limit() -> None:
    """A uniform residual of 0.20 is put below 0.20 at most alpha of the time (three standard errors); an honest one is small."""
    rng, draws = np.random.default_rng(13), 60

    def limit(kept: float) -> float:
        level, gaps = rng.uniform(2, 4, 24), 2.2 * rng.gamma(9, 1 / 9, 24)
        models = [level + 0.04 * rng.normal() + 0.14 * rng.normal(size=24) for _ in range(6)]
        panel = reference_panel(np.stack(models[2:]), [f"p{index // 4}" for index in range(24)])
        losses = models[0] - gaps, models[1] - kept * gaps, panel
        found = smallest_margin(lambda margin: residual_verdict(*losses, margin).certified)
        return 1.0 if found is None else found

    assert np.mean([limit(0.20) < 0.20 for _ in range(draws)]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert np.median([limit(0.0) for _ in range(20)]) < 0.15
