"""One run, many coins: known answers, exact tests, and simulated auditors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from verify.statistics import assignment_test, deletion_e_value, one_run_epsilon, one_run_p_value

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "epsilon"),
    [(132, 132, 86, 0.0, 0.3122), (100, 100, 75, 0.0, 0.7022), (1000, 100, 95, 1e-5, 2.1652), (100_000, 1500, 1429, 1e-5, 2.6688)],
)
def test_known_answers(canaries: int, guesses: int, correct: int, delta: float, epsilon: float) -> None:
    """The bounds of the paper's own code, to four digits."""
    assert one_run_epsilon(canaries, guesses, correct, delta).epsilon == pytest.approx(epsilon, abs=5e-5)


@given(st.integers(1, 40), st.data(), st.floats(0, 5), st.sampled_from([0.0, 1e-3, 0.2]))
def test_p_value_is_that_of_the_formula(guesses: int, data: st.DataObject, epsilon: float, delta: float) -> None:
    """Slow twin: every interval of counts summed by itself."""
    correct, canaries = data.draw(st.integers(0, guesses)), data.draw(st.integers(guesses, 100))
    pmf = stats.binom.pmf(np.arange(guesses + 1), guesses, special.expit(epsilon))
    alpha = max((pmf[correct - i : correct].sum() / i for i in range(1, correct + 1)), default=0.0)
    expected = min(1.0, pmf[correct:].sum() + 2 * canaries * delta * alpha)
    assert one_run_p_value(epsilon, canaries, guesses, correct, delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@given(st.integers(1, 200), st.data(), st.sampled_from([0.01, 0.05, 0.3]))
def test_without_delta_it_is_clopper_pearson(guesses: int, data: st.DataObject, significance: float) -> None:
    """At delta = 0 the bound is the logit of the exact lower limit of the share of right guesses, or 0."""
    correct = data.draw(st.integers(1, guesses))
    limit = special.logit(stats.beta.ppf(significance, correct, guesses - correct + 1))
    found = one_run_epsilon(guesses, guesses, correct, 0.0, significance)
    assert found.epsilon == pytest.approx(max(0.0, limit), abs=1e-6)
    assert found.against_retraining == found.epsilon / 2


@pytest.mark.slow
def test_noise_shows_an_epsilon_as_often_as_it_may() -> None:
    """Summed over all outcomes of 150 fair coins, a positive bound has probability at most 5 %; a delta only lowers it."""
    counts = np.arange(151)
    for delta in (0.0, 1e-4):
        positive = [one_run_epsilon(150, 150, int(count), delta).epsilon > 0 for count in counts]
        probability = float(stats.binom.pmf(counts, 150, 0.5) @ positive)
        assert 0 < probability <= 0.05


@pytest.mark.slow
def test_searching_the_best_number_of_guesses_is_not_allowed() -> None:
    """The best of many thresholds shows epsilon > 0 on pure noise more than twice as often as 5 %: why k is fixed beforehand."""
    rng, shown = np.random.default_rng(0), 0
    for _ in range(300):
        right = np.cumsum(rng.random(200) < 0.5)
        shown += any(stats.binom.sf(right[k - 1] - 1, k, 0.5) <= 0.05 for k in range(10, 201, 5))
    assert shown / 300 > 0.1


@pytest.mark.slow
def test_a_private_mechanism_is_not_accused() -> None:
    """Randomised response with epsilon = 1: the bound exceeds 1 in at most 5 % of 2,000 runs, and comes near it."""
    right = np.random.default_rng(1).binomial(300, special.expit(1.0), 2000)
    bounds = {count: one_run_epsilon(300, 300, int(count)).epsilon for count in np.unique(right)}
    found = np.array([bounds[count] for count in right])
    assert (found > 1.0).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.median(found) > 0.7


@given(st.integers(1, 60), st.data())
def test_coins_are_exact_in_both_directions(guesses: int, data: st.DataObject) -> None:
    """The p-values are scipy's exact binomial tests, and swap when right and wrong are swapped."""
    correct = data.draw(st.integers(0, guesses))
    found, swapped = assignment_test(guesses, correct), assignment_test(guesses, guesses - correct)
    assert found.remembered == pytest.approx(stats.binomtest(correct, guesses, alternative="greater").pvalue)
    assert found.inverted == pytest.approx(stats.binomtest(correct, guesses, alternative="less").pvalue)
    assert (found.remembered, found.inverted) == pytest.approx((swapped.inverted, swapped.remembered))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8), st.floats(0.05, 0.9))
def test_the_wealth_is_the_product_of_bets(batches: list[tuple[int, int]], bet: float) -> None:
    """Slow twin: multiply 1 + bet for every right guess and 1 - bet for every wrong one."""
    counts = [(made, min(made, right)) for made, right in batches]
    wealth, path = 1.0, []
    for made, right in counts:
        for guess in range(made):
            wealth *= 1 + bet * (1 if guess < right else -1)
        path.append(np.log(wealth))
    made_by_batch, right_by_batch = np.array(counts).T
    found = deletion_e_value(made_by_batch, right_by_batch, bet)
    np.testing.assert_allclose(found.log_e_values, np.array(path), atol=1e-9)


def test_looking_after_every_batch_is_allowed() -> None:
    """Fair coins over 100 batches of 10: an alarm at any time in at most 5 %; with 65 % right, nearly always and early."""
    rng, made = np.random.default_rng(2), np.full(100, 10)
    alarms = [deletion_e_value(made, rng.binomial(10, 0.5, 100)).alarm(0.05) for _ in range(1000)]
    assert np.mean([alarm is not None for alarm in alarms]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    leaking = [deletion_e_value(made, rng.binomial(10, 0.65, 100)).alarm(0.05) for _ in range(200)]
    early = [alarm for alarm in leaking if alarm is not None]
    assert len(early) == 200
    assert np.median(early) < 20


def test_a_thousand_batches_do_not_overflow() -> None:
    """Evidence is kept as a logarithm: a product beyond the largest double is still a number."""
    assert deletion_e_value([1000] * 1000, [1000] * 1000).log_e_values[-1] == pytest.approx(1e6 * np.log(1.2))


@pytest.mark.parametrize(("canaries", "guesses", "correct"), [(10, 0, 0), (10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_impossible_counts_raise(canaries: int, guesses: int, correct: int) -> None:
    """No guesses, more guesses than coins and more right than made raise."""
    with pytest.raises(ValueError, match="correct <= guesses"):
        one_run_epsilon(canaries, guesses, correct)


def test_levels_and_batches_are_checked() -> None:
    """Levels out of range, no batches, fractions and bets outside (0, 1) raise."""
    for arguments in ((-0.1, 5, 5, 3, 0.0), (0.0, 5, 5, 3, 1.0), (float("nan"), 5, 5, 3, 0.0)):
        with pytest.raises(ValueError, match="epsilon is at least"):
            one_run_p_value(*arguments)
    with pytest.raises(ValueError, match="significance"):
        one_run_epsilon(5, 5, 3, significance=0.0)
    for made, right in (([], []), ([0], [0]), ([2], [3]), ([2.5], [1.0]), ([2, 2], [1])):
        with pytest.raises(ValueError, match=r"batch|integers"):
            deletion_e_value(made, right)
    with pytest.raises(ValueError, match="bet"):
        deletion_e_value([2], [1], bet=1.0)
    with pytest.raises(ValueError, match="alpha"):
        deletion_e_value([2], [1]).alarm(1.0)
