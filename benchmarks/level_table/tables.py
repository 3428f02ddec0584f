"""The comparison of a world: every pool and the full retrainings against honest targets, channel by channel."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.level_table.levels import Comparison, Pairs, Pool, compare, joined, mean_gap, pair_up
from benchmarks.level_table.measure import BASE, STATISTICS, Scored, file_of, read_scored
from benchmarks.level_table.trainings import Kind, Model, models_of
from benchmarks.level_table.worlds import World
from verify.statistics.channels import EXACT_TEXT

Numbers = NDArray[np.intp]

FULL = "full retrainings"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        world, channel, predictor: what is compared; the predictor names its M.
        models: R, models that left a record out.
        gap: mean gap on the channel, nats per token.
        found: the comparison.
    """

    world: str
    channel: str
    predictor: str
    models: int
    gap: float
    found: Comparison


class Measured:
    """The models of a world that were scored."""

    def __init__(self, world: World) -> None:
        """Read every file of losses that is there."""
        self.world = world
        self.models = [model for model in models_of(world) if file_of(world, model.name).exists()]
        self.scored: dict[str, Scored] = {model.name: read_scored(world, model.name) for model in self.models}

    def of(self, *kinds: Kind) -> list[Model]:
        """Return the models of some kinds."""
        return [model for model in self.models if model.kind in kinds]

    @property
    def original(self) -> Scored:
        """The model before unlearning."""
        return self.scored["original"]

    @property
    def base(self) -> Scored:
        """The model before fine-tuning."""
        return read_scored(self.world, BASE)

    def pool(self, models: Sequence[Model], channel: str) -> Pool:
        """Put models side by side as a pool."""
        return Pool.of([self.scored[model.name] for model in models], [~model.left_out for model in models], channel)

    def pools(self) -> dict[str, list[Model]]:
        """Return the pools by name: the smallest block, eight models, and all there are."""
        found = {}
        for kind, folds in (("half", 2), ("quarter", 4)):
            models = self.of(cast(Kind, kind))
            for count in sorted({folds, 8, len(models)}):
                if len(models) >= count and count:
                    found[f"{kind}, M {count}"] = models[:count]
        return found

    def unseen(self, model: Model) -> Numbers:
        """Return the records that an honest target never saw."""
        return np.flatnonzero(model.left_out)


def rows_of(found: Sequence[Measured]) -> Iterator[Row]:
    """Yield every line of the table of some worlds of one name: channels, and in each the pools and the full retrainings."""
    world, everybody = found[0].world, [measured.of("full") for measured in found]
    for channel in world.channels:
        gap = _gap(found, channel)
        predictors = {name: [{0: measured.pools()[name]} for measured in found] for name in common_pools(found)}
        others = [_others(honest) for honest in everybody]
        if all(others_here for world_others in others for others_here in world_others.values()):
            predictors[f"{FULL}, the others"] = others
        for name, sources in predictors.items():
            pairs = [_paired(measured, own, channel) for measured, own in zip(found, sources, strict=True)]
            models = left_out(sources[0][0], everybody[0][0])
            yield Row(world.name, channel, name, models, gap, compare(joined(pairs), gap))


def common_pools(found: Sequence[Measured]) -> list[str]:
    """Return the names of the pools that every world has."""
    return [name for name in found[0].pools() if all(name in measured.pools() for measured in found)]


def _gap(found: Sequence[Measured], channel: str = EXACT_TEXT) -> float:
    """Return the mean gap on a channel over the worlds, nats per token."""
    gaps = []
    for measured in found:
        targets = [(measured.scored[model.name], measured.unseen(model)) for model in measured.of("full")]
        gaps.append(mean_gap(measured.original, targets, channel))
    return float(np.mean(gaps))


def _others(honest: Sequence[Model]) -> dict[int, list[Model]]:
    """Return for each honest target the other full retrainings without the same forget set."""
    return {
        number: [other for other in honest if other.group == model.group and other is not model]
        for number, model in enumerate(honest)
    }


def left_out(models: Sequence[Model], honest: Model) -> int:
    """Return R: how many of the models left out a record that the target never saw."""
    record = int(np.flatnonzero(honest.left_out)[0])
    return sum(bool(model.left_out[record]) for model in models)


def _paired(measured: Measured, sources: Mapping[int, Sequence[Model]], channel: str, statistics: Sequence[str] = ()) -> Pairs:
    """Predict a world's honest targets by one predictor on a channel."""
    world = measured.world
    pools = {number: [measured.pool(models, name) for name in (channel, *statistics)] for number, models in sources.items()}
    targets = [
        (measured.scored[model.name].own(channel), measured.scored[model.name].controls(channel), measured.unseen(model))
        for model in measured.of("full")
    ]
    return pair_up(lambda number: pools.get(number, pools[0]), targets, world.subjects, world.control_subjects, seed=world.seed)


def regressions_of(found: Sequence[Measured], name: str) -> Iterator[Row]:
    """Yield a pool's lines on the exact text with further statistics of its pass regressed on; none where they were not kept."""
    world, gap, honest = found[0].world, _gap(found), found[0].of("full")[0]
    if not all(set(STATISTICS) <= set(one.losses) for measured in found for one in measured.scored.values()):
        return
    for statistics in ((), *((one,) for one in STATISTICS), STATISTICS):
        pairs = [_paired(measured, {0: measured.pools()[name]}, EXACT_TEXT, statistics) for measured in found]
        models = left_out(found[0].pools()[name], honest)
        yield Row(world.name, " + ".join(("loss", *statistics)), name, models, gap, compare(joined(pairs), gap))
