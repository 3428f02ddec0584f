"""Losses on controls by level: a known parabola, honest targets, the tilting attack, and what cannot be checked."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.calibration.attacks.tilted import Shape, tilted
from verify.statistics.channels import EXACT_TEXT
from verify.statistics.level_checks import controls_unseen
from verify.statistics.level_contrast import TableLosses, calibrate
from verify.statistics.level_shape import control_shapes
from verify.statistics.level_simulation import TableWorld, simulate_table
from verify.statistics.level_table import judge_table

SEED, WORLD = 7, TableWorld(subjects=20, control_subjects=30)


def drawn(seed: int = 0, world: TableWorld = WORLD) -> tuple[TableLosses, list[str], list[str]]:
    """One simulated audit of an honest deletion."""
    return simulate_table(world, "honest", np.random.default_rng(seed))


def test_a_parabola_is_found_as_it_is() -> None:
    """A difference of 0.5 + 0.3 l - 0.2 l^2 on all controls: found to the last digit, by its root mean square and by its mean."""
    losses, subjects, controls = drawn()
    found, _, _ = calibrate(losses, subjects, controls, SEED)
    assert found is not None
    level, own = found.control.levels, np.clip(found.forget.levels, found.control.levels.min(), found.control.levels.max())
    curved = replace(losses, control_target=losses.control_original + 0.5 + 0.3 * level - 0.2 * level**2)
    exact, other = control_shapes({EXACT_TEXT: curved, "int8": curved}, subjects, controls, 0.10, SEED)
    moved = 0.3 * own - 0.2 * own**2 - np.mean(0.3 * level - 0.2 * level**2)
    assert exact.moved == pytest.approx(np.sqrt(np.mean(moved**2)), rel=1e-6)
    assert other.moved == pytest.approx(abs(np.mean(moved)), rel=1e-6)
    assert exact.p_value < 1e-12
    assert not exact.held
    assert exact.level == pytest.approx(0.005)
    assert exact.allowed == pytest.approx(0.05 * found.subject_gap.mean())


def test_honest_targets_are_within_chance() -> None:
    """p <= 0.1 in no more than a fifth of 80 honest targets and in some; at most one is refused."""
    checks = [control_shapes({EXACT_TEXT: losses}, *whose, 0.10, SEED)[0] for losses, *whose in map(drawn, range(80))]
    assert 1 <= sum(check.p_value <= 0.1 for check in checks) <= 16
    assert sum(not check.held for check in checks) <= 1


@pytest.mark.parametrize("shape", ["turned", "bent"])
def test_a_tilt_fools_the_tests_and_not_the_check(shape: Shape) -> None:
    """The hardest fifth keeps half of its gap, and so do hard controls: certified like an honest deletion, but for this check."""
    certified, refused, noticed = 0, 0, 0
    for seed in range(20):
        losses, subjects, controls = drawn(seed)
        attacked = tilted(losses, subjects, controls, SEED, 0.5, shape)
        known = attacked.target - losses.target
        hardest = np.argsort(-np.nanmean(losses.pool, axis=0))[:8]
        assert known[hardest].mean() < -1
        assert attacked.control_target.mean() == pytest.approx(losses.control_target.mean())
        certified += judge_table({EXACT_TEXT: attacked}, subjects, controls, 0.10, 0.05, SEED).certified
        noticed += not controls_unseen(attacked, controls, 4.05, 0.10).held
        refused += not control_shapes({EXACT_TEXT: attacked}, subjects, controls, 0.10, SEED)[0].held
    assert certified >= 10
    assert noticed == 0
    assert refused == 20


def test_a_tilt_of_the_records_alone_is_accused() -> None:
    """Without the controls the kept records lie off their line, whatever hides them in the mean."""
    losses, subjects, controls = drawn()
    attacked = tilted(losses, subjects, controls, SEED, 0.5, "records alone")
    assert judge_table({EXACT_TEXT: attacked}, subjects, controls, 0.10, 0.05, SEED).accused
    assert control_shapes({EXACT_TEXT: attacked}, subjects, controls, 0.10, SEED)[0].held


def test_what_cannot_be_checked_is_left_out() -> None:
    """A channel that was not scored or that the original knows little on, one subject, equal levels of all controls: no error."""
    losses, subjects, controls = drawn()
    silent = replace(losses, control_target=np.full(len(controls), np.nan))
    unknown = replace(losses, original=losses.target)
    flat = replace(losses, control_pool=np.full_like(losses.control_pool, 3.0))
    found = control_shapes({EXACT_TEXT: losses, "int8": silent, "int4": unknown}, subjects, controls, 0.10, SEED)
    assert [check.channel for check in found] == [EXACT_TEXT]
    assert control_shapes({EXACT_TEXT: flat}, subjects, controls, 0.10, SEED)[0].held
    assert control_shapes({EXACT_TEXT: unknown}, subjects, controls, 0.10, SEED) == ()
    assert control_shapes({EXACT_TEXT: losses}, ["one"] * len(subjects), controls, 0.10, SEED) == ()
