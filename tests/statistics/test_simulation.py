"""The simulator behind the calibration suite and the planner draws what it says."""

import numpy as np
import pytest

from verify.statistics import World, rule_rates, simulate_losses


@pytest.mark.parametrize("errors", ["normal", "t4"])
def test_drawn_as_described(errors: str) -> None:
    """Spread of models and records, mean gap, and the share that is kept are what the world says."""
    world = World(records=4000, references=200, errors=errors)  # type: ignore[arg-type]
    original, target, references = simulate_losses(world, 0.25, False, np.random.default_rng(0))
    assert np.mean(references.mean(axis=0) - original) == pytest.approx(world.gap, abs=0.1)
    assert references.mean(axis=1).std() == pytest.approx(world.model_spread, rel=0.2)
    within = references - references.mean(axis=1, keepdims=True)
    assert np.sqrt(within.var(axis=0).mean()) == pytest.approx(world.record_spread * np.sqrt(1 + 1 / 12), rel=0.1)
    assert np.mean(references.mean(axis=0) - target > world.gap / 3) == pytest.approx(0.25, abs=0.03)


def test_hidden_means_are_hidden() -> None:
    """With `hidden` the mean residual is that of an honest retraining although a fifth is remembered."""
    _, target, references = simulate_losses(World(records=2000, references=50), 0.2, True, np.random.default_rng(1))
    assert abs(np.mean(references.mean(axis=0) - target)) < 0.15


@pytest.mark.slow
def test_rates_are_counts_with_intervals() -> None:
    """Honest models are certified or left alone, forgetful ones accused; both rates carry the number of audits."""
    honest, keeping = rule_rates(World(), audits=60), rule_rates(World(), remembered=0.2, audits=60)
    assert honest.accused.value <= 0.05
    assert keeping.accused.value == 1.0
    assert keeping.certified.value == 0.0
    assert honest.accused.n == 60


@pytest.mark.parametrize(
    "case", [{"world": World(records=0)}, {"world": World(references=1)}, {"world": World(), "remembered": 1.5}]
)
def test_impossible_worlds(case: dict[str, object]) -> None:
    """No record, one reference or a share above one raise."""
    with pytest.raises(ValueError, match="at least 1 record"):
        rule_rates(**case)  # type: ignore[arg-type]
