"""Tier C: forget records against held-out controls, drawn at random."""

import numpy as np
import pytest
from score_tables import simulated_table

from verify.judging.held_out_claim import judge_controls
from verify.schema.claims import HeldOutClaim
from verify.schema.settings import Settings

SETTINGS = Settings(twins=True)


def judged(blind_p: float = 0.5, **truth: object) -> HeldOutClaim:
    table = simulated_table(references=1, **truth)  # type: ignore[arg-type]
    twins = judge_controls(table, SETTINGS, 0.05, blind_p)
    assert twins is not None
    return twins


def test_a_fifth_that_is_remembered_is_found() -> None:
    """One reference and enough twins find the records a model kept, and name about as many as it kept."""
    twins = judged(kept=0.2, controls=400)
    assert twins.verdict == "NOT_FORGOTTEN"
    assert 15 <= len(twins.accused) <= 25
    assert {finding.direction for finding in twins.accused} == {"remembered"}


def test_a_destroyed_memory_is_a_trace_too() -> None:
    """Records pushed far below their twins are accused as over-forgotten."""
    table = simulated_table(references=1, controls=400)
    table.blocks["target", "forget"].loss[:] += 2.0
    twins = judge_controls(table, SETTINGS, 0.05, 0.5)
    assert twins is not None
    assert {finding.direction for finding in twins.accused} == {"over-forgotten"}


@pytest.mark.slow
def test_honest_retraining_is_rarely_accused() -> None:
    """Over 100 audits of honest retrainings, a false accusation comes at most as often as alpha allows (three standard errors)."""
    accused = np.mean([judged(seed=seed, records=40, controls=200).verdict == "NOT_FORGOTTEN" for seed in range(100)])
    assert accused <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def test_silence_never_certifies() -> None:
    """Nothing found is INCONCLUSIVE, and the reason says what a single record's trace would have needed."""
    twins = judged(controls=400)
    assert twins.verdict == "INCONCLUSIVE"
    assert "one standard deviation" in twins.reason


@pytest.mark.parametrize(
    ("truth", "blind_p", "word"),
    [({"controls": 400}, 0.005, "distinguishable by words alone"), ({"gap": 0.001}, 0.5, "finds no record")],
)
def test_gates(truth: dict[str, float], blind_p: float, word: str) -> None:
    """Controls that are distinguishable by words alone, and a test that cannot see the original, judge nothing."""
    twins = judged(blind_p, **truth)
    assert twins.verdict == "NOT_TESTABLE"
    assert word in twins.reason


def test_still_in_estimates_the_share() -> None:
    """DUCI's share of the set is near the share that was kept."""
    shares = []
    for seed in range(20):
        still_in = judged(kept=0.4, controls=400, seed=seed).still_in
        assert still_in is not None
        shares.append(still_in.value)
        assert still_in.low <= still_in.value <= still_in.high
    assert np.mean(shares) == pytest.approx(0.4, abs=0.05)


def test_a_holdout_of_another_origin_makes_no_claim() -> None:
    """Without --twins the holdout's records are controls for attacks, not twins."""
    assert judge_controls(simulated_table(), Settings(), 0.05, 0.5) is None
