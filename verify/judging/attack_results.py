"""Attack results of every model, and its utility on the retain set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from verify.judging.gates import resolvable_rates
from verify.schema.attack_results import AttackResult, RateAtFPR, Utility
from verify.schema.parts import Value
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.intervals import mean_with_interval
from verify.statistics.roc import membership_auc, tpr_at_fpr

Array = NDArray[np.float64]

LARGEST_LOGARITHM = 700.0
"""Cap on the logarithm of a utility ratio: the interval of a model that loses tens of nats on a record has no finite upper end."""


def attack_results(table: ScoreTable, settings: Settings) -> list[AttackResult]:
    """Compute the result of every attack against every model."""
    from verify.attacks import attack_classes

    results, kinds = [], attack_classes()
    for name in table.attacks():
        kind = kinds[name]
        for model in table.models():
            block = table.blocks[model, "forget"]
            if name not in block.scores:
                continue
            forget = block.scores[name]
            control = table.block(model, "holdout")
            against = None if control is None else control.scores[name]
            both_ways = kind.family == "membership" and settings.rule > 1
            looks = 2 if both_ways else 1
            results.append(
                AttackResult(
                    attack=name,
                    family=kind.family,
                    model=model,
                    unit=kind.unit,
                    mean=Value.of(mean_with_interval(forget, settings.confidence)),
                    holdout_mean=None if against is None else Value.of(mean_with_interval(against, settings.confidence)),
                    auc=None if against is None else Value.of(membership_auc(forget, against, settings.confidence)),
                    tpr=() if against is None else _rates(forget, against, settings, looks),
                    tpr_reversed=() if against is None or not both_ways else _rates(-forget, -against, settings, looks),
                )
            )
    return results


def _rates(forget: Array, against: Array, settings: Settings, looks: int) -> tuple[RateAtFPR, ...]:
    """Compute true-positive rates with intervals that hold together over this many looks."""
    confidence = 1 - (1 - settings.confidence) / looks
    return tuple(
        RateAtFPR(fpr=rate, tpr=Value.of(tpr_at_fpr(forget, against, rate, confidence)))
        for rate in resolvable_rates(len(against), settings.fpr)
    )


def utility_of_models(table: ScoreTable, references: Sequence[str], settings: Settings) -> tuple[Utility, ...]:
    """Compute geometric-mean token probability on the retain set, and its ratio to the references' (else the original's)."""
    if table.block("target", "retain") is None:
        return ()
    yardstick = _yardstick(table, references)
    rows = []
    for model in table.models():
        loss = table.loss(model, "retain")
        held_out = table.block(model, "holdout")
        rows.append(
            Utility(
                model=model,
                retain=_exponential(-loss, settings),
                holdout=None if held_out is None else _exponential(-held_out.loss, settings),
                ratio=_exponential(yardstick - loss, settings),  # paired: the same records under both
            )
        )
    return tuple(rows)


def utility_ratio(table: ScoreTable, references: Sequence[str], settings: Settings) -> Value | None:
    """Return the target's ratio of `utility_of_models` alone; None without a retain set."""
    if table.block("target", "retain") is None:
        return None
    return _exponential(_yardstick(table, references) - table.loss("target", "retain"), settings)


def _yardstick(table: ScoreTable, references: Sequence[str]) -> Array:
    """Average the references' losses on each retain record, or return the original's [N]."""
    return np.asarray(table.losses(references or ["original"], "retain").mean(axis=0))


def _exponential(logs: Array, settings: Settings) -> Value:
    """Exponentiate a mean of logarithms with its interval; clips infinite ends, which JSON cannot hold."""
    mean = mean_with_interval(logs, settings.confidence)
    value, low, high = (float(np.exp(min(one, LARGEST_LOGARITHM))) for one in (mean.value, mean.low, mean.high))
    return Value(value=value, low=low, high=high, n=mean.n, level=mean.level)
