"""Many tests at once: Benjamini-Hochberg and conformal p-values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verify.statistics import benjamini_hochberg, conformal_p_values

pytestmark = pytest.mark.filterwarnings("error")


def test_the_example_of_the_paper() -> None:
    """Benjamini and Hochberg 1995, section 3.2: of fifteen p-values the four smallest are rejected at 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert benjamini_hochberg(p, 0.05).rejected.tolist() == [True] * 4 + [False] * 11


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.sampled_from([0.01, 0.05, 0.2]))
def test_agrees_with_the_definition_and_scipy(thousandths: list[int], q: float) -> None:
    """Rejected are the k smallest, k the largest rank with p_(k) <= k q / K; adjusted p-values are scipy's."""
    p = np.array(thousandths) / 1000
    found, ordered, count = benjamini_hochberg(p, q), np.sort(p), len(p)
    below = [rank for rank in range(1, count + 1) if ordered[rank - 1] * count / rank <= q]
    assert found.rejected.tolist() == (p <= (ordered[max(below) - 1] if below else -1)).tolist()
    np.testing.assert_allclose(found.adjusted, stats.false_discovery_control(p))


def test_false_discoveries_are_held() -> None:
    """20 of 100 hypotheses false: the share of false rejections averages at most q * 80 / 100 over 1,000 draws."""
    rng, share = np.random.default_rng(0), []
    for _ in range(1000):
        z = rng.normal(size=100)
        z[:20] += 3
        rejected = benjamini_hochberg(stats.norm.sf(z), 0.1).rejected
        share.append(rejected[20:].sum() / max(1, rejected.sum()))
    assert np.mean(share) == pytest.approx(0.08, abs=0.012)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=10), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_conformal_p_values_count(scores: list[int], controls: list[int]) -> None:
    """The sorted form equals (1 + #{controls >= score}) / (N + 1), ties counting against the score."""
    expected = [(1 + sum(c >= s for c in controls)) / (len(controls) + 1) for s in scores]
    np.testing.assert_allclose(conformal_p_values(scores, controls), expected)


def test_conformal_p_values_are_uniform_under_exchangeability() -> None:
    """Whatever the distribution, p <= 0.1 in at most 10 % of draws, and in exactly 10 % with 19 controls and no ties."""
    draws = np.random.default_rng(1).standard_cauchy((5000, 20))
    p = np.array([conformal_p_values(row[:1], row[1:])[0] for row in draws])
    assert (p <= 0.1).mean() == pytest.approx(0.1, abs=0.013)
    assert p.min() == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [[], [0.5, 1.1], [-0.1], [float("nan")]])
def test_only_probabilities_are_p_values(bad: list[float]) -> None:
    """No p-values, and values outside [0, 1], raise."""
    with pytest.raises(ValueError, match="p-value"):
        benjamini_hochberg(bad, 0.05)


def test_degenerate_input_raises() -> None:
    """An impossible q, no controls, no scores and scores that are not finite raise."""
    for q in (0.0, 1.0):
        with pytest.raises(ValueError, match="q lies"):
            benjamini_hochberg([0.5], q)
    for scores, controls in (([], [1.0]), ([1.0], []), ([float("nan")], [1.0])):
        with pytest.raises(ValueError, match=r"score|control|finite"):
            conformal_p_values(scores, controls)
