"""Rank of a rebuilt shard among its siblings: by hand, exact by simulation, and its floor."""

from dataclasses import replace

import numpy as np
import pytest

from verify.statistics.shard_siblings import ShardLosses, SiblingRank, controls_p_value, sibling_power, sibling_rank

WHO, CONTROLS = ["a", "a", "b"], ["x", "y"]


def by_hand() -> ShardLosses:
    """Four shards; y: before -2.0, rebuilt 1.0, siblings 1.1, 0.9 and 1.4 above the controls of each model."""

    def shard(y: float, level: float) -> tuple[list[float], list[float]]:
        return [y + level - 0.5, y + level + 0.5, y + level], [level + 1, level - 1]

    before, rebuilt = shard(-2.0, 0.3), shard(1.0, -0.2)
    siblings = [shard(y, level) for y, level in ((1.1, 0.0), (0.9, 0.5), (1.4, 0.1))]
    columns = [np.array([model[side] for model in siblings]) for side in (0, 1)]
    return ShardLosses(
        *(np.array(values) for values in (before[0], rebuilt[0])),
        columns[0],
        *(np.array(values) for values in (before[1], rebuilt[1])),
        columns[1],
    )


def rank(losses: ShardLosses, margin: float) -> SiblingRank:
    """Rank with the subjects above."""
    return sibling_rank(losses, WHO, CONTROLS, margin)


def test_a_known_answer_by_hand() -> None:
    """One sibling of three lies lower than the rebuilt shard: p = 2/4; at the margin, 0.1 * 3.1333 higher, two do: 3/4."""
    found = rank(by_hand(), 0.0)
    assert (found.remembered, found.over_forgotten, found.smallest) == (0.5, 0.75, 0.25)
    assert found.contrast == pytest.approx(3.4 / 3 - 1)
    assert found.gap == pytest.approx(3.4 / 3 + 2)
    assert rank(by_hand(), 0.1).remembered == 0.75


def test_an_untouched_shard_has_the_smallest_p_value_and_four_shards_accuse_nobody() -> None:
    """The shard before the deletion in place of the rebuilt one: p = 1/S, which two directions at 0.05 need S >= 40 for."""
    losses = by_hand()
    found = rank(replace(losses, rebuilt=losses.before, control_rebuilt=losses.control_before), 0.1)
    assert found.remembered == found.smallest == 0.25
    assert not found.accused(0.05)
    many = replace(losses, rebuilt=losses.before, control_rebuilt=losses.control_before)
    many = replace(many, siblings=np.tile(losses.siblings, (13, 1)), control_siblings=np.tile(losses.control_siblings, (13, 1)))
    assert rank(many, 0.1).accused(0.05)


def test_ranks_of_honest_rebuilds_are_uniform() -> None:
    """Heavy-tailed losses, ten shards, 600 honest rebuilds: p <= 0.1 and p <= 0.3 as often as that, chance aside."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(600):
        forget = rng.standard_t(3, (11, 3)) + rng.standard_normal((11, 1))
        control = rng.standard_t(3, (11, 2))
        losses = ShardLosses(forget[0] - 3, forget[1], forget[2:], control[0], control[1], control[2:])
        p.append(rank(losses, 0.0).remembered)
    for level in (0.1, 0.3):
        assert np.mean(np.array(p) <= level + 1e-9) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 600))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rebuilt": np.zeros(2)}, "expected losses of 3 records"),
        ({"siblings": np.zeros((0, 3))}, "one sibling"),
        ({"before": np.array([0, np.nan, 0])}, "finite"),
        ({"siblings": np.zeros((2, 3))}, "same shards"),
    ],
)
def test_impossible_losses(change: dict[str, np.ndarray], message: str) -> None:
    """Shapes that do not fit, no sibling, a missing loss, or other shards for the controls raise."""
    with pytest.raises(ValueError, match=message):
        rank(replace(by_hand(), **change), 0.1)


def test_every_rank_is_equally_likely_however_the_shards_differ() -> None:
    """Twenty shards of other levels and sizes of effect, none of which saw the subject: whichever held it, the p-values over all of
    them are 1/20, 2/20, ..., 1, each once, in both directions. That the shard was drawn at random is all that is assumed.
    """
    rng = np.random.default_rng(3)
    forget = np.arange(20.0)[:, None] ** 2 + rng.standard_t(3, (20, 3))
    control = rng.normal(0, 0.1, (20, 2))
    found = []
    for held in range(20):
        others = np.arange(20) != held
        losses = ShardLosses(forget[held] - 400, forget[held], forget[others], control[held], control[held], control[others])
        found.append(rank(losses, 0.0))
    for p in (sorted(one.remembered for one in found), sorted(one.over_forgotten for one in found)):
        assert p == pytest.approx([place / 20 for place in range(1, 21)])


def test_a_shard_that_lies_apart_on_controls_by_hand() -> None:
    """Siblings at 0, 0.5 and 0.1, the rebuilt shard at -0.2: t = -0.4 / (0.2646 sqrt(4/3)), two degrees of freedom, p = 0.32."""
    assert controls_p_value(by_hand(), CONTROLS) == pytest.approx(0.3204, abs=1e-3)
    alone = replace(by_hand(), siblings=by_hand().siblings[:1], control_siblings=by_hand().control_siblings[:1])
    assert controls_p_value(alone, CONTROLS) is None
    same = replace(by_hand(), control_siblings=np.zeros((3, 2)))
    assert controls_p_value(same, CONTROLS) is None


def test_power_by_simulation() -> None:
    """39 shards accuse nobody; forty find what was wholly kept, and an honest rebuild is accused in one of twenty at margin 0."""
    assert sibling_power(39, 1.0, 2.2, 0.1, 0.1, 0.05) == 0.0
    assert sibling_power(40, 1.0, 2.2, 0.1, 0.1, 0.05) == 1.0
    assert sibling_power(40, 0.0, 2.2, 0.1, 0.0, 0.05) == pytest.approx(1 / 40, abs=0.008), "one of the two directions"
    assert sibling_power(40, 0.0, 2.2, 0.1, 0.1, 0.05) < 1 / 40
