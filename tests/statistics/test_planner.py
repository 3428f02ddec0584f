"""Sample sizes and bounds from rates: known answers, and the promised power in simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verify.statistics import (
    clopper_pearson,
    conformal_power,
    controls_for_auc,
    controls_for_epsilon,
    controls_for_rate,
    epsilon_from_rates,
    membership_auc,
)

pytestmark = pytest.mark.filterwarnings("error")


def test_known_sizes() -> None:
    """AUC within 0.05 and 0.10 of one half by two tests at 5 %: 571 and 143; by a 95 % interval about 700 and 175."""
    assert [controls_for_auc(within) for within in (0.05, 0.10)] == [571, 143]
    assert [controls_for_auc(within, alpha=0.025) for within in (0.05, 0.10)] == [701, 176]
    assert controls_for_epsilon(1.0, 0.10) == 268
    assert controls_for_epsilon(1.0, 0.01) == pytest.approx(2902, abs=2)
    assert [controls_for_rate(fpr) for fpr in (0.1, 0.01)] == [30, 300]


@pytest.mark.slow
def test_the_size_for_an_auc_has_the_power() -> None:
    """With 143 an arm and nothing leaking, the 90 % interval lies within 0.40 and 0.60 in about 80 % of 1,000 draws."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        found = membership_auc(rng.normal(size=143), rng.normal(size=143), confidence=0.90)
        inside += found.low > 0.40 and found.high < 0.60
    assert inside / 1000 == pytest.approx(0.80, abs=0.05)


@pytest.mark.slow
def test_the_size_for_an_epsilon_has_the_power() -> None:
    """With 268 an arm, TPR = FPR = 10 %: the attack's upper limit is at most 1 in about 80 % of 1,500 draws."""
    rng, size, shown = np.random.default_rng(1), controls_for_epsilon(1.0, 0.10), 0
    for _ in range(1500):
        tp, fp = (int(count) for count in rng.binomial(size, 0.10, 2))
        shown += epsilon_from_rates(tp, size - tp, fp, size - fp).attack_upper <= 1.0
    assert shown / 1500 == pytest.approx(0.80, abs=0.035)


def test_twins_have_little_power() -> None:
    """A single record with 19 twins finds a residual of one standard deviation in 23 % of cases, and chance in 5 %."""
    assert conformal_power(1.0, 19) == pytest.approx(0.23, abs=0.005)
    assert conformal_power(0.0, 19) == pytest.approx(0.05, abs=1e-6)
    assert conformal_power(5.0, 18) == 0.0


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([0.0, 0.01, 0.3]))
def test_bounds_follow_from_clopper_pearson(tp: int, fp: int, delta: float) -> None:
    """Slow twin: the largest log ratio over both sides, from one-sided limits at half the error each."""
    t, f = clopper_pearson(tp, 30), clopper_pearson(fp, 30)
    candidates = [0.0]
    if t.low > delta:
        candidates.append(np.log((t.low - delta) / f.high))
    if 1 - f.high > delta:
        candidates.append(np.log((1 - f.high - delta) / (1 - t.low)))
    found = epsilon_from_rates(tp, 30 - tp, fp, 30 - fp, delta)
    assert found.lower == pytest.approx(max(candidates))
    assert found.attack_upper == (pytest.approx(np.log(t.high / f.low)) if fp else np.inf)


@pytest.mark.slow
def test_a_private_mechanism_breaks_its_bound_rarely() -> None:
    """TPR = 0.3, FPR = 0.3 / e: either limit is on the wrong side of the true 1 in at most 5 % of 2,000 draws."""
    rng, above, below = np.random.default_rng(2), 0, 0
    for _ in range(2000):
        tp, fp = int(rng.binomial(400, 0.3)), int(rng.binomial(400, 0.3 / np.e))
        found = epsilon_from_rates(tp, 400 - tp, fp, 400 - fp)
        above, below = above + (found.lower > 1.0), below + (found.attack_upper < 1.0)
    assert above / 2000 <= 0.05
    assert below / 2000 <= 0.05


def test_a_perfect_attack_is_bounded_by_its_sample() -> None:
    """50 of 50 right on either side: epsilon at least log(low / (1 - low)), never infinite."""
    low = 0.025 ** (1 / 50)
    assert epsilon_from_rates(50, 0, 0, 50).lower == pytest.approx(np.log(low / (1 - low)), rel=1e-9)
    assert stats.binom.sf(49, 50, low) == pytest.approx(0.025)


def test_impossible_questions_raise() -> None:
    """Counts and levels that cannot be, and margins that no sample shows, raise."""
    for counts in ((0, 0, 1, 1), (1, 1, 0, 0), (-1, 2, 1, 1)):
        with pytest.raises(ValueError, match="counts"):
            epsilon_from_rates(*counts)
    for delta, confidence in ((1.0, 0.95), (-0.1, 0.95), (0.0, 1.0)):
        with pytest.raises(ValueError, match=r"delta|confidence"):
            epsilon_from_rates(1, 1, 1, 1, delta, confidence)
    for within in (0.0, 0.5):
        with pytest.raises(ValueError, match="AUC"):
            controls_for_auc(within)
    for epsilon, fpr in ((0.0, 0.1), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match="epsilon > 0"):
            controls_for_epsilon(epsilon, fpr)
    for alpha, power in ((0.0, 0.8), (0.5, 0.8), (0.05, 1.0)):
        with pytest.raises(ValueError, match="alpha"):
            controls_for_auc(0.05, alpha, power)
    with pytest.raises(ValueError, match="false-positive"):
        controls_for_rate(0.0)
    with pytest.raises(ValueError, match="at least one control"):
        conformal_power(1.0, 0)
