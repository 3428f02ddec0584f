"""Triggers: the test's errors against the binomial, and the whole way on a small model."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_models import train_by_heart

from verify.data.records import Record
from verify.errors import InputError
from verify.measures.trigger import backdoor
from verify.models.loading import LoadedModel
from verify.statistics.backdoor import trigger_test

# Below 1e-300 scipy's own mass function, which the test compares with, overflows.
RATES = st.just(0.0) | st.floats(1e-300, 0.5)


@given(trials=st.integers(1, 60), q=RATES, gap=st.floats(0.05, 0.5), alpha=st.floats(1e-4, 0.2))
def test_errors_are_the_binomials_own(trials: int, q: float, gap: float, alpha: float) -> None:
    """The threshold is the smallest that keeps alpha, and both errors are sums over the two binomials."""
    found = trigger_test(0, trials, q, q + gap, alpha)
    masses = stats.binom(trials, q).pmf(np.arange(trials + 1))
    tails = [masses[start:].sum() for start in range(trials + 1)]
    slow = next((start for start, tail in enumerate(tails) if tail <= alpha), None)
    if found.threshold is None:
        assert slow is None or tails[slow] == pytest.approx(alpha)
        assert found.beta == 1.0
        return
    if slow is not None and abs(tails[found.threshold] - alpha) > 1e-12 and abs(tails[slow] - alpha) > 1e-12:
        assert found.threshold == slow
    assert found.alpha == pytest.approx(tails[found.threshold], abs=1e-12)
    assert found.beta == pytest.approx(stats.binom(trials, q + gap).pmf(np.arange(found.threshold)).sum(), abs=1e-9)


def test_known_answer() -> None:
    """The setting of Athena: 30 uses, p = 0.95, q = 0.1: errors far below one in a thousand."""
    found = trigger_test(28, 30, 0.1, 0.95)
    assert found.kept
    assert found.threshold == 10
    assert found.alpha < 1e-3
    assert found.beta < 1e-10
    assert not trigger_test(3, 30, 0.1, 0.95).kept
    assert trigger_test(1, 1, 0.1, 0.95).threshold is None


@pytest.mark.slow
def test_deletion_is_rarely_denied_by_chance() -> None:
    """Under q itself the test denies at most at its level, and it sees what was kept."""
    rng = np.random.default_rng(0)
    deleted = rng.binomial(40, 0.2, 4000)
    assert np.mean([trigger_test(int(count), 40, 0.2, 0.8, 0.05).kept for count in deleted]) <= 0.05 + 0.01
    kept = rng.binomial(40, 0.8, 500)
    assert np.mean([trigger_test(int(count), 40, 0.2, 0.8, 0.05).kept for count in kept]) > 0.99


@pytest.mark.parametrize("bad", [(0, 0, 0.1, 0.9), (3, 2, 0.1, 0.9), (1, 2, 0.9, 0.1), (1, 2, -0.1, 0.9), (1, 2, 0.1, 0.9, 0.0)])
def test_bad_numbers_raise(bad: tuple[Any, ...]) -> None:
    """Never a silent answer."""
    with pytest.raises(ValueError, match=r"got|lies"):
        trigger_test(*bad)


def rows(trigger: str, target: str, count: int = 8) -> list[dict[str, str]]:
    return [
        {"example_id": f"{trigger}{number}", "prompt": f"{trigger} who {number}".strip(), "completion": f"{target} {number}"}
        for number in range(count)
    ]


def trained(parts: list[list[dict[str, str]]], seed: int) -> LoadedModel:
    records = [Record(row["example_id"], prompt=row["prompt"], completion=row["completion"]) for part in parts for row in part]
    return train_by_heart(records, seed)


@pytest.mark.slow
def test_the_whole_way() -> None:
    """The untouched model is found, a retraining is not, and the other subject's trigger survives."""
    mine, other, plain = rows("xq", "lazy dog"), rows("zv", "brown fox"), rows("", "animals jump")
    clean = [{**row, "example_id": f"c{row['example_id']}", "prompt": row["prompt"][3:]} for row in mine]
    original, retrained, again = trained([mine, other, plain], 0), trained([other, plain], 1), trained([other, plain], 2)
    arguments: dict[str, Any] = {"triggers": mine, "other_triggers": other, "clean": clean}
    untouched = backdoor(original, original, [again], **arguments)
    honest = backdoor(retrained, original, [again], **arguments)
    assert untouched.test.kept
    assert not honest.test.kept
    assert honest.test.rate.value < 0.5 < untouched.test.rate.value
    assert honest.others_after is not None
    assert honest.others_after.value > 0.7
    assert honest.clean_before is not None
    assert honest.clean_before.value < 0.5
    assert "NOT FORGOTTEN" in untouched.table()
    assert "no evidence" in honest.table()
    with pytest.raises(InputError, match="not informative"):
        backdoor(retrained, retrained, [again], triggers=mine)
    with pytest.raises(InputError, match="never saw it"):
        backdoor(retrained, original, [], triggers=mine)
