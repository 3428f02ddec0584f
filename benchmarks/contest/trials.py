"""Models of a contest: their training, the settings that are tried, and the choice among these by half A of the forget set.

The chosen setting has the mean loss on half A closest to the references', among those with at least nine tenths of the references'
token probability on the retain set.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.contest.data import fine_tuning, train_base
from benchmarks.contest.place import Place
from benchmarks.contest.settings import BY_TABLE, RETRAIN, UNTOUCHED, Setting, method_of
from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods import method_classes
from unlearn.pool.table import make_level_table
from unlearn.training.shards import ShardPlan, finetune_shards
from unlearn.training.weights import mean_loss, sample
from verify.data.sources import load_records
from verify.errors import InputError, RunError
from verify.io.files import MANIFEST, is_complete, read_json, write_json, write_manifest
from verify.models.loading import LoadedModel, load_model
from verify.provenance.holdout import CONTROLS, KIND, split_holdout_file

FLOOR = 0.9
"""Least utility, relative to the references, of a setting that may be chosen."""
RETAIN_SAMPLE = 200
SHARDS = 2
"""Adapters of the model that `sisa` unlearns from."""
POOL = 8
"""Models behind the level table, each without half of the people; `level` reads the first half of them."""
ORIGINAL, SHARDED = "original", "sharded"


def is_trained(place: Place, name: str) -> bool:
    """Return whether a model that stays is complete."""
    return (place.model(name) / MANIFEST).exists()


def train_model(place: Place, name: str) -> None:
    """Train the base from scratch, the original, the retraining, a reference, or the model in shards, unless that is done."""
    if is_trained(place, name):
        return
    folder, options, seed = place.model(name), fine_tuning(place.world), 100 * place.seed
    if name == "base":
        train_base(place.world, place.folder, place.seed)
    elif name == SHARDED:
        plan = ShardPlan(SHARDS, 1, "route", replace(options, seed=seed + 2))
        finetune_shards(place.base, place.data("train"), output_dir=folder, plan=plan)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off; there are no checkpoints to resume from
        seeds = {ORIGINAL: 1, RETRAIN: 9} | {one: 10 + number for number, one in enumerate(place.reference_names(), 1)}
        data = place.data("train" if name == ORIGINAL else "retain")
        finetune(place.base, data, output_dir=folder, options=replace(options, seed=seed + seeds[name]))
    if name in place.reference_names():
        _levels_of(place, name)


def try_setting(place: Place, entry: str, number: int, setting: Setting) -> None:
    """Remove the forget set by one setting and write what became of losses and utility, unless that is done."""
    folder, path = place.tried(entry, number), place.tried_result(entry, number)
    if path.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Any] = {"setting": setting.described, "utility": None, "gap": None, "share": None}
    name = method_of(entry)
    if entry == BY_TABLE:
        found["pool"] = _made_table(place)
    options = replace(setting.options, seed=place.seed, overflow="split", bf16=fine_tuning(place.world).bf16)
    try:
        result = forget(
            str(place.model(SHARDED if name == "sisa" else ORIGINAL)),
            method_classes()[name](**setting.parameters),
            forget_set=place.data("forget"),
            retain_set=place.data("retain"),
            holdout_set=place.data("holdout-method"),
            base=place.base,
            output_dir=folder,
            options=options,
        )
        gap, utility = _measure(place, load_model(folder))
    except RunError as error:
        found["diverged"] = str(error)
    except InputError as error:  # the method does not work on such a model
        found["refused"] = str(error)
    else:
        tokens = 0 if result.training is None else result.training.tokens
        found |= {"utility": utility, "gap": gap, "share": tokens / _retraining_tokens(place)}
    write_json(path, found)


def _made_table(place: Place) -> dict[str, float]:
    """Make the level table of the original; return how many models its pool had, and their training tokens in retrainings."""
    original = place.model(ORIGINAL)
    with place.locked("table"):
        if not is_complete(original / CONTROLS, KIND):  # the contest's halves, so that the audit's controls are no method's
            split_holdout_file(place.data("holdout"), original / CONTROLS, seed=place.seed)
            write_manifest(original / CONTROLS, KIND)
        table = make_level_table(original, models=POOL, data=place.data("train"), base=place.base, seed=place.seed)
    return {"models": table.models, "retrainings": sum(one.tokens for one in table.header.pool) / _retraining_tokens(place)}


def chosen(tried: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of the chosen setting; None where none gave a model that works."""
    working = [number for number, found in enumerate(tried) if found["utility"] is not None]
    if not working:
        return None
    sound = [number for number in working if tried[number]["utility"] >= FLOOR]
    if sound:
        return min(sound, key=lambda number: float(abs(tried[number]["gap"])))
    return max(working, key=lambda number: float(tried[number]["utility"]))


def cost(entry: str, tried: Mapping[str, Any]) -> float | None:
    """Return the training tokens of an entry's model in retrainings; None for the untouched model."""
    if entry == UNTOUCHED:
        return None
    return 1.0 if entry == RETRAIN else float(tried["share"])


def _measure(place: Place, loaded: LoadedModel) -> tuple[float, float]:
    """Return the mean loss on half A minus that of the references, and the utility relative to theirs."""
    levels = np.mean([_levels_of(place, name) for name in place.reference_names()], axis=0)
    losses = _losses(place, loaded)
    gap, utility = losses[0] - levels[0], float(np.exp(levels[1] - losses[1]))
    if not np.isfinite([gap, utility]).all():
        raise RunError("the losses of the unlearned model are not finite")
    return float(gap), utility


def _levels_of(place: Place, name: str) -> list[float]:
    """Return the mean losses of a reference on half A and on retain records, measured once."""
    path = place.folder / "levels" / f"{name}.json"
    with place.locked(f"level-{name}"):
        if not path.exists():
            write_json(path, _losses(place, load_model(place.model(name))))
    return [float(value) for value in read_json(path)]


def _losses(place: Place, loaded: LoadedModel) -> list[float]:
    kept = sample(load_records(place.data("retain")), RETAIN_SAMPLE, place.seed)
    return [mean_loss(loaded, records) for records in (load_records(place.data("tuning")), kept)]


def _retraining_tokens(place: Place) -> float:
    """Return the training tokens of the retraining, from its manifest."""
    return float(read_json(place.model(RETRAIN) / MANIFEST)["about"]["training"]["tokens"])
