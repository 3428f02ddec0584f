"""The ROC curve, its area and its left edge: against slow twins, known answers and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from verify.statistics import clopper_pearson, membership_auc, roc_curve, tpr_at_fpr
from verify.statistics.roc import FEW

pytestmark = pytest.mark.filterwarnings("error")

tied_scores = st.lists(st.integers(0, 6), min_size=2, max_size=12) | st.lists(st.integers(0, 6), min_size=FEW, max_size=FEW + 6)


def pairs(members: list[int], nonmembers: list[int]) -> np.ndarray:
    """The kernel of the Mann-Whitney statistic: 1 where a member scores higher, one half at a tie."""
    x, y = np.array(members)[:, None], np.array(nonmembers)[None, :]
    return np.asarray((x > y) + 0.5 * (x == y))


@given(tied_scores, tied_scores)
def test_area_is_the_share_of_ordered_pairs(members: list[int], nonmembers: list[int]) -> None:
    """The midrank form equals the mean over all pairs, ties counting half; swapping the sides mirrors value and interval."""
    found, mirrored = membership_auc(members, nonmembers), membership_auc(nonmembers, members)
    assert found.value == pytest.approx(pairs(members, nonmembers).mean(), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low))


@given(tied_scores, tied_scores)
def test_interval_is_delongs_on_the_logit_scale(members: list[int], nonmembers: list[int]) -> None:
    """The fast interval equals the one from the structural components of all pairs (DeLong et al. 1988, equations 4 to 6)."""
    kernel = pairs(members, nonmembers)
    area = kernel.mean()
    variance = kernel.mean(axis=1).var(ddof=1) / len(members) + kernel.mean(axis=0).var(ddof=1) / len(nonmembers)
    if not 0 < area < 1 or variance < 1e-12:
        return
    half = stats.norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
    expected = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half, half]))))
    found = membership_auc(members, nonmembers)
    if min(len(members), len(nonmembers)) >= FEW:
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    else:
        assert found.low <= expected[0] + 1e-9
        assert found.high >= expected[1] - 1e-9


@given(tied_scores, tied_scores)
def test_curve_counts_what_scores_at_least_the_threshold(members: list[int], nonmembers: list[int]) -> None:
    """Every point is a plain count, the curve runs from (0, 0) to (1, 1), and the area under it is the AUC."""
    curve = roc_curve(members, nonmembers)
    for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True):
        assert tpr == pytest.approx(np.mean(np.array(members) >= threshold))
        assert fpr == pytest.approx(np.mean(np.array(nonmembers) >= threshold))
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(membership_auc(members, nonmembers).value)


@pytest.mark.parametrize("size", [2, 5, 30])
def test_perfect_separation_is_not_certainty(size: int) -> None:
    """At area 1 the interval reaches down to tail^(1/n), the exact bound from n pairs that share no record; area 0 mirrors it."""
    perfect = membership_auc(np.arange(size) + 100.0, np.arange(size))
    assert (perfect.value, perfect.low, perfect.high) == pytest.approx((1.0, 0.025 ** (1 / size), 1.0))
    inverted = membership_auc(np.arange(size), np.arange(size) + 100.0)
    assert (inverted.value, inverted.low, inverted.high) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / size)))


def test_constant_scores_tell_nothing() -> None:
    """One score for everybody is area one half, with an interval that is not a point."""
    found = membership_auc([1.0] * 10, [1.0] * 10)
    assert found.value == 0.5
    assert found.low < 0.4
    assert found.high > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "size"), [(0.0, 20), (0.0, 60), (1.0, 40), (2.0, 40)])
def test_interval_covers(shift: float, size: int) -> None:
    """Two normal samples: the 95 % interval holds the true area Phi(shift / sqrt 2) in at least 93 % of 1,500 draws."""
    rng, truth = np.random.default_rng(1), stats.norm.cdf(shift / np.sqrt(2))
    found = [membership_auc(rng.normal(shift, 1, size), rng.normal(0, 1, size)) for _ in range(1500)]
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("area", "members"), [(0.5, 2), (0.5, 3), (0.8, 3), (0.5, 5), (0.8, 8), (0.95, 5), (0.95, 12)])
def test_interval_covers_with_few_on_a_side(area: float, members: int) -> None:
    """Against 100 others: neither end misses the true area more often than the promised 2.5 % (2,000 draws, three errors)."""
    rng, shift = np.random.default_rng(2), np.sqrt(2) * stats.norm.ppf(area)
    found = [membership_auc(rng.normal(shift, 1, members), rng.normal(0, 1, 100)) for _ in range(2000)]
    for missed in ([e.low > area for e in found], [e.high < area for e in found]):
        assert np.mean(missed) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 2000)


def test_few_that_lie_together_are_no_certainty() -> None:
    """Two members side by side in the middle: DeLong sees hardly a spread, and the ends solve |A - 1/2| = z sqrt(V(A))."""
    m, n = 2, 100
    found = membership_auc([49.4, 49.6], np.arange(n))
    assert found.value == 0.5
    ends = np.array([found.low, found.high])
    spread = ends * (1 - ends) * (1 + ((m + n) / 2 - 1) * ((1 - ends) / (2 - ends) + ends / (1 + ends))) / (m * n)
    assert np.abs(ends - 0.5) == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(spread), abs=1e-9)
    assert found.low < 0.2


@given(tied_scores, st.lists(st.integers(0, 6), min_size=10, max_size=25), st.sampled_from([0.1, 0.25, 0.5]))
def test_rate_is_the_best_whose_false_positives_are_allowed(members: list[int], nonmembers: list[int], fpr: float) -> None:
    """Slow twin: among all strict thresholds with at most fpr false positives, the largest share of members above one."""
    x, y = np.array(members), np.array(nonmembers)
    best = max((x > t).mean() for t in [-1, *range(7)] if (y > t).mean() <= fpr)
    found = tpr_at_fpr(members, nonmembers, fpr)
    assert found == clopper_pearson(round(best * len(x)), len(x))


def test_rate_of_pure_noise_is_the_false_positive_rate() -> None:
    """Where members are like everybody else, 1 % false positives buy 1 % true positives, over 300 draws."""
    rng = np.random.default_rng(2)
    rates = [tpr_at_fpr(rng.normal(size=200), rng.normal(size=1000), 0.01).value for _ in range(300)]
    assert np.mean(rates) == pytest.approx(0.01, abs=0.002)


@settings(max_examples=20)
@given(st.integers(1, 99))
def test_an_unresolvable_rate_raises(controls: int) -> None:
    """Fewer than 1 / fpr non-members cannot show the rate; the message says how many can."""
    with pytest.raises(ValueError, match="100 can"):
        tpr_at_fpr([1.0, 2.0], np.arange(controls), 0.01)


@pytest.mark.parametrize(
    ("members", "nonmembers"), [([], [1.0]), ([1.0], []), ([1.0, float("nan")], [0.0, 1.0]), ([1.0], [float("inf")])]
)
def test_degenerate_samples_raise(members: list[float], nonmembers: list[float]) -> None:
    """An empty side and scores that are not finite raise, whichever way they are read."""
    for measure in (roc_curve, membership_auc, lambda x, y: tpr_at_fpr(x, y, 0.5)):
        with pytest.raises(ValueError, match=r"needed|finite"):
            measure(members, nonmembers)


def test_one_score_has_no_interval() -> None:
    """A single member or non-member shows no spread."""
    with pytest.raises(ValueError, match="at least 2"):
        membership_auc([1.0], [0.0, 2.0])


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 2.0])
def test_a_false_positive_rate_lies_between_zero_and_one(fpr: float) -> None:
    """Rates outside (0, 1) raise."""
    with pytest.raises(ValueError, match="fpr"):
        tpr_at_fpr([1.0], [0.0], fpr)
