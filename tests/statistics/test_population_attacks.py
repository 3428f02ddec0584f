"""Statistics of population attacks: LiRA, RMIA, user level, share still in, PrivLeak, exposure, prediction test."""

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verify.statistics import (
    Estimate,
    clopper_pearson,
    exposure,
    membership_auc,
    offline_likelihood_ratio,
    online_likelihood_ratio,
    prediction_test,
    privleak,
    queries_to_extract,
    rmia,
    share_still_in,
    user_level,
    zero_success_bound,
)
from verify.statistics.lira import Variance
from verify.statistics.paper_metrics import forget_quality

pytestmark = pytest.mark.filterwarnings("error")
VARIANCES: tuple[Variance, ...] = get_args(Variance)


@pytest.mark.parametrize("variance", VARIANCES)
def test_lira_p_values_are_exact_with_four_models(variance: Variance) -> None:
    """Non-members with normal scores: exp(-score) <= 1 % in 1 % of records, where the Gaussian plug-in gives over 4 %."""
    rng = np.random.default_rng(0)
    target, models = rng.normal(size=40_000), rng.normal(size=(4, 40_000))
    assert np.mean(np.exp(-offline_likelihood_ratio(target, models, variance)) <= 0.01) == pytest.approx(0.01, abs=0.002)
    if variance == "per record":
        plug_in = stats.norm.sf((target - models.mean(axis=0)) / models.std(axis=0, ddof=1))
        assert np.mean(plug_in <= 0.01) > 0.04


def test_moderated_lira_keeps_its_level_where_records_differ_in_spread() -> None:
    """Variances drawn from the prior, four models: 1 % stays 1 %, and a shift of three standard deviations is found more often."""
    rng = np.random.default_rng(6)
    spread = np.sqrt(6 / rng.chisquare(6, 40_000))
    target, models = spread * rng.normal(size=40_000), spread * rng.normal(size=(4, 40_000))

    def rate(shift: float, variance: Variance) -> float:
        return float(np.mean(np.exp(-offline_likelihood_ratio(target + shift * spread, models, variance)) <= 0.01))

    assert rate(0, "moderated") == pytest.approx(0.01, abs=0.002)
    assert rate(3, "moderated") > rate(3, "per record") + 0.1


def test_lira_is_the_prediction_test() -> None:
    """Scores are minus losses: LiRA's p-value of each record is the prediction test's, whatever the variance."""
    rng = np.random.default_rng(1)
    losses, references = rng.normal(2, 0.3, 30), rng.normal(2, 0.3, (5, 30))
    for variance in ("per record", "pooled"):
        test = prediction_test(losses, references, variance)
        np.testing.assert_allclose(np.exp(-offline_likelihood_ratio(-losses, -references, variance)), test.remembered)


def test_online_lira_written_out() -> None:
    """Record by record: the difference of two t log-densities with location mean and scale s sqrt(1 + 1/R)."""
    rng = np.random.default_rng(2)
    target, member, other = rng.normal(size=8), rng.normal(1, 1, (4, 8)), rng.normal(size=(6, 8))
    found = online_likelihood_ratio(target, member, other)
    for i in range(8):
        parts = [
            stats.t.logpdf(target[i], len(m) - 1, m[:, i].mean(), m[:, i].std(ddof=1) * np.sqrt(1 + 1 / len(m)))
            for m in (member, other)
        ]
        assert found[i] == pytest.approx(parts[0] - parts[1])


def test_members_score_higher() -> None:
    """A shift of two standard deviations in half of the records: every form of the attack reaches an AUC above 0.75."""
    rng, level = np.random.default_rng(3), np.random.default_rng(4).normal(0, 5, 600)
    target, member, other = (level + rng.normal(size=(n, 600)) for n in (1, 8, 8))
    target[0, :300] += 2.0
    member += 2.0
    raw = membership_auc(target[0, :300], target[0, 300:]).value
    for scores in (
        offline_likelihood_ratio(target[0], other),
        online_likelihood_ratio(target[0], member, other, "pooled"),
        rmia(target[0], other, rng.normal(size=200), rng.normal(size=(8, 200))),
    ):
        assert membership_auc(scores[:300], scores[300:]).value > 0.75 > raw + 0.05


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.5, 1.0, 2.0]))
def test_rmia_counts_pairs(seed: int, records: int, population: int, gamma: float) -> None:
    """Slow twin: every record against every member of the population, probabilities written out."""
    rng = np.random.default_rng(seed)
    x, x_refs, z, z_refs = (rng.normal(size=shape) for shape in (records, (3, records), population, (3, population)))
    ratio_x, ratio_z = np.exp(x) / np.exp(x_refs).mean(axis=0), np.exp(z) / np.exp(z_refs).mean(axis=0)
    expected = [np.mean([a / b >= gamma for b in ratio_z]) for a in ratio_x]
    np.testing.assert_allclose(rmia(x, x_refs, z, z_refs, gamma), expected)


def test_rmia_of_long_texts_does_not_underflow() -> None:
    """Log-probabilities of minus thousands of nats keep their order."""
    found = rmia([-9000.0, -9010.0], [[-9005.0, -9005.0]], [-8000.0], [[-8000.0]])
    assert found.tolist() == [1.0, 0.0]


def test_user_level_averages_by_person() -> None:
    """One mean per person in order of appearance, and traces too faint in a record add up over a person's twenty."""
    names, means = user_level([1.0, 5.0, 3.0], ["b", "a", "b"])
    assert (names, means.tolist()) == (["b", "a"], [2.0, 5.0])
    rng = np.random.default_rng(5)
    people = [f"p{i}" for i in range(100) for _ in range(20)]
    scores = rng.normal(size=2000) + 0.3 * (np.arange(2000) < 1000)
    _, person = user_level(scores, people)
    assert membership_auc(person[:50], person[50:]).value > membership_auc(scores[:1000], scores[1000:]).value + 0.15


def test_share_still_in_known_answer() -> None:
    """Mean guess 0.502, FPR 0.352, TPR 0.972 give 0.2419355."""
    guess, fpr, tpr = (clopper_pearson(count, 1000) for count in (502, 352, 972))
    found = share_still_in(guess, fpr, tpr)
    assert found.value == pytest.approx(0.2419355, abs=5e-8)
    assert found.level == pytest.approx(0.85)
    grid = [np.linspace(part.low, part.high, 7) for part in (guess, fpr, tpr)]
    values = [(g - f) / (t - f) for g, f, t in itertools.product(*grid)]
    assert (found.low, found.high) == pytest.approx((min(values), max(values)))


def test_share_still_in_covers() -> None:
    """30 % of a set still in, an attack with TPR 0.6 and FPR 0.1: the interval holds 0.3 at least as often as it says."""
    rng, held = np.random.default_rng(6), 0
    for _ in range(500):
        counts = rng.binomial(400, [0.3 * 0.6 + 0.7 * 0.1, 0.1, 0.6])
        found = share_still_in(*(clopper_pearson(int(count), 400, 0.98) for count in counts))
        held += found.low <= 0.3 <= found.high
    assert held / 500 >= 0.94


def test_share_still_in_needs_an_attack_that_works() -> None:
    """Rates whose intervals overlap, and levels that leave nothing, raise."""
    with pytest.raises(ValueError, match="does not separate"):
        share_still_in(clopper_pearson(5, 10), clopper_pearson(3, 10), clopper_pearson(5, 10))
    with pytest.raises(ValueError, match="errors"):
        share_still_in(*(clopper_pearson(count, 1000, 0.5) for count in (500, 100, 900)))


def test_privleak_signs() -> None:
    """About -100 % for a model that still holds the set, 0 for the retrained itself, positive for one that over-forgot."""
    remembered, equal, over = (Estimate(area, area - 0.01, area + 0.01, 100, 0.95) for area in (0.985, 0.5, 0.2))
    assert privleak(remembered, equal).value == pytest.approx(-97.0)
    assert privleak(equal, equal).value == 0.0
    assert privleak(over, equal).value == pytest.approx(60.0)
    found = privleak(equal, equal)
    assert (found.low, found.high) == pytest.approx((100 * -0.02 / 0.51, 100 * 0.02 / 0.49))
    with pytest.raises(ValueError, match="divide"):
        privleak(equal, Estimate(1.0, 0.9, 1.0, 100, 0.95))


def test_exposure_known_answers() -> None:
    """The likeliest of sixteen: 4 bits; the least likely: 0; all alike: 0."""
    assert exposure(5.0, np.zeros(15)) == 4.0
    assert exposure(-5.0, np.zeros(15)) == 0.0
    assert exposure(0.0, np.zeros(15)) == 0.0


def test_exposure_of_an_unknown_secret_is_small() -> None:
    """Drawn like its 1,023 rivals, a secret has exposure above 5 bits with probability 1/32, over 4,000 draws."""
    draws = np.random.default_rng(7).normal(size=(4000, 1024))
    assert np.mean([exposure(row[0], row[1:]) >= 5 for row in draws]) == pytest.approx(1 / 32, abs=0.009)


@given(st.floats(1e-6, 1.0), st.floats(0.01, 0.999))
def test_queries_reach_their_certainty(probability: float, certainty: float) -> None:
    """n queries reach the certainty and n - 1 do not; 1 / p_z is the expected number."""
    log_probability = float(np.log(probability))
    assert queries_to_extract(log_probability) == pytest.approx(1 / probability)
    n = queries_to_extract(log_probability, certainty)
    assert 1 - (1 - probability) ** n >= certainty - 1e-9
    assert n == 1 or 1 - (1 - probability) ** (n - 1) < certainty + 1e-9


def test_queries_known_answers() -> None:
    """p_z = 1/2: two queries on average, four for 90 %; certain: one; hopeless: beyond any count."""
    assert queries_to_extract(np.log(0.5)) == pytest.approx(2.0)
    assert queries_to_extract(np.log(0.5), 0.9) == 4.0
    assert queries_to_extract(0.0, 0.9) == 1.0
    assert queries_to_extract(-1e5) == queries_to_extract(-1e5, 0.9) == np.inf


def test_prediction_intervals_count_the_targets_own_draw() -> None:
    """Honest targets against four references: p <= 5 % in 5 %; without the target's own draw it would be several times that."""
    rng = np.random.default_rng(8)
    target, references = rng.normal(size=20_000), rng.normal(size=(4, 20_000))
    found = prediction_test(target, references)
    assert np.mean(found.remembered <= 0.05) == pytest.approx(0.05, abs=0.006)
    naive = (references.mean(axis=0) - target) / (references.std(axis=0, ddof=1) / 2)
    assert np.mean(stats.t.sf(naive, 3) <= 0.05) > 0.1
    np.testing.assert_allclose(found.remembered + found.inverted, 1.0)


def test_pooling_needs_equal_variances() -> None:
    """Where records differ in spread, the pooled test accuses many times its 0.1 %; per record it holds."""
    rng = np.random.default_rng(9)
    spread = np.exp(rng.normal(0, 1, 20_000))
    target, references = spread * rng.normal(size=20_000), spread * rng.normal(size=(4, 20_000))
    assert np.mean(prediction_test(target, references, "pooled").remembered <= 0.001) > 0.004
    assert np.mean(prediction_test(target, references).remembered <= 0.001) == pytest.approx(0.001, abs=0.0008)


def test_the_floor_of_forget_quality() -> None:
    """Two samples of 40 that do not overlap: p = 2 / C(80, 40), the smallest that so few can show."""
    assert forget_quality(np.arange(40), np.arange(40) + 100).p_value == pytest.approx(1.860e-23, rel=5e-4)


def test_degenerate_input_raises() -> None:
    """Empty, ill-shaped, constant and non-finite samples raise everywhere, and never become 0 or NaN."""
    good, models, nan = np.array([1.0, 2.0]), np.array([[1.0, 2.0], [0.5, 2.5]]), np.array([1.0, np.nan])
    for measure in (offline_likelihood_ratio, prediction_test):
        for target, others in (
            (good, models[:1]),
            (good[:1], models),
            (nan, models),
            (good, np.ones((3, 2))),
            ([], np.ones((2, 0))),
        ):
            with pytest.raises(ValueError, match=r"expected|finite|spread"):
                measure(target, others)
        with pytest.raises(ValueError, match="pooled"):
            measure(good, models, "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected"):
        online_likelihood_ratio(good, models[:1], models)
    empty = np.ones(0)
    for arguments in ((good, models, empty, np.ones((2, 0))), (nan, models, good, models), (good, models[:, :1], good, models)):
        with pytest.raises(ValueError, match=r"expected|finite"):
            rmia(*arguments)
    with pytest.raises(ValueError, match="gamma"):
        rmia(good, models, good, models, gamma=0.0)
    for scores, subjects in (([], []), ([1.0], ["a", "b"]), ([float("nan")], ["a"])):
        with pytest.raises(ValueError, match="subjects"):
            user_level(scores, subjects)
    for score, candidates in ((1.0, []), (float("nan"), [1.0]), (1.0, [float("inf")])):
        with pytest.raises(ValueError, match="exposure"):
            exposure(score, candidates)
    for value, certainty in ((0.5, None), (float("-inf"), None), (-1.0, 1.0)):
        with pytest.raises(ValueError, match=r"log probability|certainty"):
            queries_to_extract(value, certainty)


def test_nothing_found_still_leaves_a_bound() -> None:
    """None of k samples: the rule of three, and the exact one-sided Clopper-Pearson limit."""
    assert zero_success_bound(16) == pytest.approx(0.1707, abs=1e-4)
    assert zero_success_bound(1000) == pytest.approx(3 / 1000, rel=0.01)
    for samples, confidence in ((1, 0.95), (7, 0.9), (100, 0.99)):
        assert (1 - zero_success_bound(samples, confidence)) ** samples == pytest.approx(1 - confidence)
    for bad in ((0, 0.95), (5, 0.0), (5, 1.0)):
        with pytest.raises(ValueError, match="are allowed"):
            zero_success_bound(*bad)
