"""Attacks that compare the tokens of the model and of its base, against slow twins written out, and LiRA's variances."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.attacks.membership.ez_mia import EzMia
from verify.attacks.membership.lira import Lira
from verify.attacks.membership.wbc import Wbc
from verify.data.records import Record
from verify.errors import InputError
from verify.models.token_stats import TokenStatistics
from verify.statistics import moderated_variances

TOKEN = st.tuples(st.floats(-30, 0, width=32), st.floats(-30, 0, width=32), st.booleans())
TOKENS = st.lists(TOKEN, min_size=1, max_size=60)


def observe(*records: Sequence[tuple[float, bool]]) -> Observation:
    """Records with these log-probabilities, and whether greedy decoding picks each token."""
    statistics = [
        TokenStatistics(
            log_probability=np.array([log for log, _ in tokens], dtype=np.float32),
            mean=np.full(len(tokens), -1.0, dtype=np.float32),
            deviation=np.full(len(tokens), 0.5, dtype=np.float32),
            rank=np.array([not greedy for _, greedy in tokens], dtype=np.int32),
            greedy=np.array([greedy for _, greedy in tokens], dtype=bool),
            secret=np.ones(len(tokens), dtype=bool),
        )
        for tokens in records
    ]
    return Observation([Record(str(number), completion="text") for number in range(len(records))], statistics)


def both(tokens: Sequence[tuple[float, float, bool]]) -> tuple[Observation, Observation]:
    """One record under the target and under the base."""
    return observe([(own, greedy) for own, _, greedy in tokens]), observe([(base, False) for _, base, _ in tokens])


@given(tokens=TOKENS)
def test_the_error_zone_is_the_ratio_of_gains_to_losses(tokens: list[tuple[float, float, bool]]) -> None:
    """The slow twin: P and M summed token by token; (P - M) / (P + M) orders records as P / M does."""
    target, base = both(tokens)
    (score,) = EzMia().score(target, [base])
    gains = [own - other for own, other, greedy in tokens if not greedy]
    positive, negative = sum(gain for gain in gains if gain > 0), -sum(gain for gain in gains if gain < 0)
    if not gains:
        assert score == 1.0
    elif not positive + negative:
        assert score == 0.0
    elif not negative:
        assert score == pytest.approx(1.0)
    else:
        ratio = positive / negative
        assert score == pytest.approx((ratio - 1) / (ratio + 1), abs=1e-9)
    assert -1 <= score <= 1


def test_the_error_zone_reads_wrong_tokens_only() -> None:
    """Known answer: gains of 2 and 1 against a loss of 1 at wrong tokens; a right token's loss of 9 does not count."""
    target, base = both([(-1.0, -3.0, False), (-2.0, -3.0, False), (-4.0, -3.0, False), (-9.0, -0.0, True)])
    assert EzMia().score(target, [base]) == pytest.approx([0.5])
    assert EzMia().score(base, [target]) == pytest.approx([(-2 - 1 + 1 + 9) / 13])


@pytest.mark.slow
@given(tokens=TOKENS, sizes=st.lists(st.integers(1, 50), min_size=1, max_size=4).map(tuple))
def test_windows_are_counted_one_by_one(tokens: list[tuple[float, float, bool]], sizes: tuple[int, ...]) -> None:
    """The slow twin: every window of every size summed on its own, in exact arithmetic of thirds of nats."""
    rounded = [(round(own * 3) / 8, round(base * 3) / 8, greedy) for own, base, greedy in tokens]
    target, base = both(rounded)
    shares = []
    for size in (min(size, len(rounded)) for size in sizes):
        votes = []
        for start in range(len(rounded) - size + 1):
            gain = sum(own - other for own, other, _ in rounded[start : start + size])
            votes.append(1.0 if gain > 0 else 0.5 if gain == 0 else 0.0)
        shares.append(np.mean(votes))
    assert Wbc(sizes).score(target, [base]) == pytest.approx([np.mean(shares)])
    assert Wbc(sizes).score(base, [target]) == pytest.approx([1 - np.mean(shares)])


def test_windows_outvote_one_rare_token() -> None:
    """Nineteen tokens a little likelier and one far less likely: the mean says less likely, most windows say likelier."""
    target, base = both([(-1.0, -1.2, False)] * 19 + [(-15.0, -1.0, False)])
    assert Wbc((2, 3, 4)).score(target, [base]) > 0.8
    assert select_attacks(["reference"])["reference"].score(target, [base]) < 0


@pytest.mark.parametrize("sizes", [(), (0,), (2, -1)])
def test_window_sizes_are_checked(sizes: tuple[int, ...]) -> None:
    """No window, or one of no token, is an input error."""
    with pytest.raises(InputError, match="window sizes"):
        Wbc(sizes)


def test_several_base_models_count_with_their_mean() -> None:
    """Two reference models that differ by equal amounts in both directions are as their mean."""
    target, middle = both([(-1.0, -2.0, False), (-3.0, -2.0, False), (-1.5, -2.0, False)])
    around: list[Any] = [observe([(-2.0 + shift, False)] * 3) for shift in (-0.5, 0.5)]
    for attack in (EzMia(), Wbc()):
        np.testing.assert_allclose(attack.score(target, around), attack.score(target, [middle]))


def test_lira_moderates_the_variances() -> None:
    """Written out: a t of d0 + R - 1 degrees of freedom with each record's shrunken variance and the prediction's 1 + 1/R."""
    rng = np.random.default_rng(5)
    spread = rng.uniform(0.05, 0.6, 30)
    models = -2.0 + spread * rng.normal(size=(5, 30))
    target, *others = (observe(*([(value, True)] for value in row)) for row in models)
    losses = np.array(models[1:], dtype=np.float32).astype(np.float64)
    moderated = moderated_variances(losses.var(axis=0, ddof=1), 3)
    assert 0 < moderated.prior_degrees < np.inf
    scale = np.sqrt(moderated.variances * (1 + 1 / 4))
    expected = -stats.t.logsf((models[0].astype(np.float32) - losses.mean(axis=0)) / scale, moderated.degrees)
    np.testing.assert_allclose(Lira().score(target, others), expected)
