"""What runs in a contest: its entries in order of importance, and the settings that each is tuned over.

On small models a method gets six settings: three learning rates, and two weights of its retain term (two lengths if it has none).
On a pretrained model it gets three, with rates that are shares of the fine-tuning's: an adapter and all weights take other ones. On
`smollm2_short` it gets the one that was chosen on `smollm2`.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from benchmarks.contest.data import LLM_OPTIONS, SHORT_WORLD, World
from unlearn.methods import method_classes
from unlearn.training.method import Rebuild
from unlearn.training.options import TrainingOptions, learning_rate_of

UNTOUCHED, RETRAIN = "untouched", "retrain"
"""Entries without a method: the original, and a retraining with a seed of its own."""
UNTUNED: Mapping[str, Mapping[str, Any]] = {"level, untuned": {}, "level, longer source": {"share": 1 / 12}}
"""`level` needs no references for its defaults, so it also runs untuned, as a user would run it, and with a source that is trained
twice as long (small models only)."""
BY_TABLE = "level, table"
"""`level` untuned, its aim from the method's half of a level table of the original, which is made once. It can be named on small
models."""
EXACT = ("sisa", "rollback")
"""Exact rebuilds that can be named beside the approximate methods; they have no settings."""
MAIN = ("level", "calibrated_distillation", "npo", "simnpo", "grad_diff", "rmu", "wga", *EXACT)
"""Run first, so that a contest that is cut off can be published."""
SLOW = ("ties", "negmerge", "altpo", "fisher", "ssd")
"""Run before the other methods, so that at the end no process waits for a long one."""

BATCH = 4
RATES = (3e-4, 1e-3, 3e-3)
EPOCHS = 12
LENGTHS = (6, 12)
RETAIN_FACTORS = (1.0, 5.0)
"""Multiples of a method's default weight of the retain term, since published weights are for models that hardly memorize. The
default of `level` was found on models like these, so it gets a smaller one instead."""

LLM_EPOCHS = 6
LLM_WITH_RETAIN = ((0.2, 1.0), (0.6, 5.0), (2.0, 5.0))
"""Settings on a pretrained model of a method with a retain term: rate as a share of the fine-tuning's, multiple of its weight."""
LLM_WITHOUT_RETAIN = (0.05, 0.2, 0.6)
"""Rates of any other method: on the small models these were best at the lowest rate, or find their scale by themselves."""
LLM_LEVEL = ((1 / 16, 1.0), (1 / 4, 1.0), (1 / 4, 0.2))
"""Settings of `AIMED` methods around the default rate of `level`, an eighth, with their own number of passes."""
FOUND: Mapping[str, tuple[float, float]] = {
    "level": (1 / 4, 0.2),
    "npo": (0.6, 5.0),
    "simnpo": (0.2, 1.0),
    "grad_diff": (0.6, 5.0),
    "rmu": (2.0, 5.0),
    "wga": (0.2, 1.0),
}
"""What was chosen on `smollm2` (benchmarks/results/contest_smollm2.json), where other authors are drawn: the settings of
`smollm2_short`, which tunes nothing. Methods that have no choice there take the first setting of that world, `AIMED` ones their
defaults."""


AIMED = ("level", "calibrated_distillation")
"""Methods that estimate where to go, and hold the retain set by a weight of their own."""
OWN_STEPS = ("calibrated_distillation",)
"""Methods that keep their own number of passes and batch size: these passes are divided among views of each record."""


@dataclass(frozen=True)
class Setting:
    """One setting of a method: its parameters, and the training options that differ from the method's own."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    options: TrainingOptions = field(default_factory=TrainingOptions)

    @property
    def described(self) -> dict[str, Any]:
        """What the results say of it."""
        return {**self.parameters, "learning_rate": self.options.learning_rate, "epochs": self.options.epochs}


def approximate_methods() -> list[str]:
    """Return all methods except exact rebuilds and FedEraser, which deletes from federations only."""
    return [name for name, kind in method_classes().items() if not isinstance(kind(), Rebuild) and name != "federaser"]


def entries_of(world: World, methods: list[str]) -> list[str]:
    """Return the entries of a contest with these methods, the most important first."""
    untuned = [name for name in UNTUNED if world not in LLM_OPTIONS or name == "level, untuned"]
    first = [*MAIN, *SLOW]
    return [UNTOUCHED, RETRAIN, *untuned, *sorted(methods, key=lambda name: first.index(name) if name in first else len(first))]


def method_of(entry: str) -> str:
    """Return the method of an entry."""
    return "level" if entry in UNTUNED or entry == BY_TABLE else entry


def settings_of(entry: str, world: World = "people") -> list[Setting]:
    """Return the settings of an entry, none of one without a method; a method without training options searches by itself."""
    if entry in (UNTOUCHED, RETRAIN):
        return []
    if entry in UNTUNED:
        return [Setting(UNTUNED[entry])]
    if entry == BY_TABLE:
        return [Setting({"sources": ("table",)})]
    if entry in EXACT:
        return [Setting()]
    if not method_classes()[entry].defaults.get("epochs"):
        return [Setting(options=TrainingOptions(batch_size=BATCH))]
    return list(_on_pretrained(entry, world) if world in LLM_OPTIONS else _on_small(entry))


def _on_small(name: str) -> Iterator[Setting]:
    weight = _retain_weight(name)
    if weight is None:
        choices: list[tuple[dict[str, Any], float]] = [({}, epochs) for epochs in LENGTHS]
    else:
        factors = (0.2, 1.0) if name in AIMED else RETAIN_FACTORS
        choices = [({"alpha": factor * weight}, EPOCHS) for factor in factors]
    for (parameters, epochs), rate in itertools.product(choices, RATES):
        options = TrainingOptions(learning_rate=rate, epochs=epochs, batch_size=BATCH)
        yield Setting(parameters, TrainingOptions(learning_rate=rate) if name in OWN_STEPS else options)


def _on_pretrained(name: str, world: World) -> Iterator[Setting]:
    weight, whole = _retain_weight(name), learning_rate_of(LLM_OPTIONS[world])
    if world == SHORT_WORLD and name in AIMED and name not in FOUND:
        yield Setting()
        return
    if weight is None:
        for share in LLM_WITHOUT_RETAIN[: 1 if world == SHORT_WORLD else None]:
            yield Setting({}, TrainingOptions(learning_rate=share * whole, epochs=LLM_EPOCHS, batch_size=BATCH))
        return
    epochs = None if name in AIMED else LLM_EPOCHS
    grid = LLM_LEVEL if name in AIMED else LLM_WITH_RETAIN
    for share, factor in [FOUND.get(name, grid[0])] if world == SHORT_WORLD else grid:
        options = TrainingOptions(learning_rate=share * whole, epochs=epochs, batch_size=None if name in OWN_STEPS else BATCH)
        yield Setting({"alpha": factor * weight}, options)


def _retain_weight(name: str) -> float | None:
    """Return the default weight of a method's retain term; None where it has none."""
    return next((float(entry.default) for entry in fields(method_classes()[name]) if entry.name == "alpha"), None)
