"""One contest: train the models, tune every method on half A of the forget set, judge the best setting of each on half B.

Every method gets six settings: three learning rates, and two weights of its retain term (two lengths if it has none). The chosen
setting has the mean loss on half A closest to the references', among those with at least nine tenths of the references' token
probability on the retain set. Every run removes the whole forget set; the verdict is on half B alone. The never-trained records are
split by subject too: half for the methods, half for the verdict.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest.data import World, fine_tuning, train_base, write_world
from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods import method_classes
from unlearn.training.method import Rebuild
from unlearn.training.options import TrainingOptions, optimizer_steps
from unlearn.training.weights import mean_loss, sample
from verify import Settings, audit
from verify.data.sources import load_records
from verify.errors import RunError
from verify.io.files import MANIFEST, read_json, write_json
from verify.judging.verdict_text import beyond_references
from verify.measures.robustness import probe
from verify.models.loading import load_model
from verify.schema.evidence import Evidence

RATES = (3e-4, 1e-3, 3e-3)
EPOCHS = 12
BATCH = 4
FLOOR = 0.9
"""Least utility, relative to the references, of a setting that may be chosen."""
RETAIN_SAMPLE = 200
RETAIN_FACTORS = (1.0, 5.0)
"""Multiples of a method's default weight of the retain term, since published weights are for models that hardly memorize. The
default of `level` was found on models like these, so it gets a smaller one instead."""
LENGTHS = (6, 12)
PROBES = ("quantization", "relearning")
UNTUNED: dict[str, dict[str, Any]] = {"level, untuned": {}, "level, longer source": {"share": 1 / 12}}
"""`level` needs no references for its defaults, so it also runs untuned, as a user would run it, and with a source that is trained
twice as long."""
PROBED = ("retrain", "level", "npo", "level, untuned")
"""Methods that are probed, against three references: a probe treats every reference too, which takes longer than all else here."""
PROBE_REFERENCES = 3


@dataclass(frozen=True)
class Place:
    """Folder and settings of a contest."""

    folder: Path
    world: World
    seed: int
    references: int

    def data(self, name: str) -> str:
        return str(self.folder / "data" / f"{name}.jsonl")

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def reference_folders(self) -> list[str]:
        return [str(self.model(f"reference{number}")) for number in range(1, self.references + 1)]


def settings_of(name: str) -> Iterator[tuple[Mapping[str, Any], TrainingOptions]]:
    """Yield the six settings of a method; one without training options searches by itself and gets one setting."""
    kind = method_classes()[name]
    if not kind.defaults.get("epochs"):
        yield {}, TrainingOptions(batch_size=BATCH)
        return
    weight = next((entry for entry in fields(kind) if entry.name == "alpha"), None)
    if weight is None:
        choices: list[tuple[dict[str, Any], float]] = [({}, epochs) for epochs in LENGTHS]
    else:
        factors = (0.2, 1.0) if name == "level" else RETAIN_FACTORS
        choices = [({"alpha": factor * weight.default}, EPOCHS) for factor in factors]
    for (parameters, epochs), rate in itertools.product(choices, RATES):
        yield parameters, TrainingOptions(learning_rate=rate, epochs=epochs, batch_size=BATCH, overflow="split")


def approximate_methods() -> list[str]:
    """Return all methods except exact rebuilds and FedEraser, which deletes from federations only."""
    return [name for name, kind in method_classes().items() if not isinstance(kind(), Rebuild) and name != "federaser"]


def run_contest(place: Place, shared: Path, methods: list[str], progress: Callable[[str, float], None]) -> list[dict[str, Any]]:
    """Run what is missing; return one entry per method, the untouched model and a retraining first."""
    _models(place, shared, progress)
    names = ["untouched", "retrain", *UNTUNED, *methods]
    entries = []
    for number, name in enumerate(names):
        progress(name, 0.3 + 0.7 * number / len(names))
        kept = place.folder / "results" / f"{name}.json"
        if not kept.exists():
            write_json(kept, _entry(place, name))
        entries.append(read_json(kept))
    return entries


def _models(place: Place, shared: Path, progress: Callable[[str, float], None]) -> None:
    if not (place.folder / "config.json").exists():
        write_world(place.world, shared, place.seed, place.folder)
    if not _done(place.model("base")):
        train_base(place.world, place.folder, place.seed)
    options = fine_tuning(place.world)
    runs = {"original": ("train", 1), "retrain": ("retain", 9)}
    runs |= {f"reference{number}": ("retain", 10 + number) for number in range(1, place.references + 1)}
    for number, (name, (data, seed)) in enumerate(runs.items()):
        progress(f"training {name}", 0.3 * number / len(runs))
        if not _done(place.model(name)):
            chosen = replace(options, seed=100 * place.seed + seed)
            finetune(str(place.model("base")), place.data(data), output_dir=place.model(name), options=chosen)


def _entry(place: Place, name: str) -> dict[str, Any]:
    """Tune a method if it has settings, and judge the result."""
    if name in ("untouched", "retrain"):
        target = place.model("original" if name == "untouched" else "retrain")
        return {"method": name, "setting": None, "tried": [], **_judge(place, name, target)}
    if name in UNTUNED:
        done = _try(place, "level", UNTUNED[name], TrainingOptions(overflow="split"), place.folder / "tried" / name)
        judged = _judge(place, name, Path(done["folder"]))
        return {"method": name, "setting": None, "tried": [], "share_of_retraining": done["share"], **judged}
    tried: list[dict[str, Any]] = []
    for number, (parameters, options) in enumerate(settings_of(name)):
        folder = place.folder / "tried" / f"{name}-{number}"
        tried.append(_try(place, name, parameters, options, folder))
    working = [entry for entry in tried if entry["utility"] is not None]
    if not working:
        return {"method": name, "setting": None, "tried": tried, "verdict": "diverged"}
    sound = [entry for entry in working if entry["utility"] >= FLOOR]
    best = min(sound, key=lambda entry: abs(entry["gap"])) if sound else max(working, key=lambda entry: entry["utility"])
    judged = _judge(place, name, Path(best["folder"]))
    for entry in tried:
        shutil.rmtree(entry.pop("folder"), ignore_errors=True)
    return {"method": name, "setting": best["setting"], "tried": tried, "share_of_retraining": best["share"], **judged}


def _try(place: Place, name: str, parameters: Mapping[str, Any], options: TrainingOptions, folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    setting = {**parameters, "learning_rate": options.learning_rate, "epochs": options.epochs}
    found: dict[str, Any] = {"setting": setting, "folder": str(folder), "utility": None, "gap": None, "share": None}
    try:
        result = forget(
            str(place.model("original")),
            method_classes()[name](**parameters),
            forget_set=place.data("forget"),
            retain_set=place.data("retain"),
            holdout_set=place.data("holdout-method"),
            base=str(place.model("base")),
            output_dir=folder,
            options=replace(options, seed=place.seed, overflow="split"),
        )
    except RunError:
        return found
    tokens = 0 if result.training is None else result.training.tokens
    gap, utility = _measure(place, folder)
    return {**found, "utility": utility, "gap": gap, "share": tokens / _retraining_tokens(place)}


def _measure(place: Place, folder: Path) -> tuple[float, float]:
    """Return the mean loss on half A minus that of the references, and the utility relative to theirs."""
    tuning = load_records(place.data("tuning"))
    kept = sample(load_records(place.data("retain")), RETAIN_SAMPLE, place.seed)
    levels = _levels(place, tuning, kept)
    loaded = load_model(folder)
    return mean_loss(loaded, tuning) - levels[0], float(np.exp(levels[1] - mean_loss(loaded, kept)))


def _levels(place: Place, tuning: Any, kept: Any) -> list[float]:
    path = place.folder / "levels.json"
    if not path.exists():
        models = [load_model(folder) for folder in place.reference_folders()]
        write_json(path, [float(np.mean([mean_loss(model, records) for model in models])) for records in (tuning, kept)])
    return [float(value) for value in read_json(path)]


def _retraining_tokens(place: Place) -> float:
    """Return the training tokens of the retraining, from its manifest."""
    training = read_json(place.model("retrain") / MANIFEST)["about"]["training"]
    assert training["steps"] >= optimizer_steps(fine_tuning(place.world), len(load_records(place.data("retain"))))
    return float(training["tokens"])


def _judge(place: Place, name: str, target: Path) -> dict[str, Any]:
    """Audit half B, and run the probes."""
    common = {"forget_set": place.data("judged"), "retain_set": place.data("retain"), "holdout_set": place.data("holdout-audit")}
    settings = Settings(attacks=("quick",), seed=place.seed, overflow="split")
    folder = place.folder / "audits" / name
    shutil.rmtree(folder, ignore_errors=True)
    evidence = audit(
        str(target),
        str(place.model("original")),
        base=str(place.model("base")),
        references=place.reference_folders(),
        output_dir=folder,
        settings=settings,
        cache_dir=place.folder / "cache",
        **common,
    )
    return {**_numbers(evidence), **(_probed(place, target, settings, common) if name in PROBED else {})}


def _probed(place: Place, target: Path, settings: Settings, sets: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the robustness to relearning and to 4-bit rounding."""
    references = place.reference_folders()[:PROBE_REFERENCES]
    found = probe(str(target), str(place.model("original")), references, probes=PROBES, settings=settings, **sets)
    int4 = next((entry for entry in found.treated if entry.probe == "quantization" and "4" in entry.treatment), None)
    return {
        "relearning_area": None if found.recovery is None else found.recovery.area,
        "int4": None if int4 is None or int4.residual is None else int4.residual.value,
    }


def _numbers(evidence: Evidence) -> dict[str, Any]:
    attack = evidence.attack("loss", "target")
    utility = next(entry for entry in evidence.utility if entry.model == "target")
    directions = [entry.direction for entry in evidence.accused]
    assert evidence.residual is not None
    return {
        "verdict": evidence.verdict,
        "why": list(evidence.explanation),
        "residual": [evidence.residual.value, evidence.residual.low, evidence.residual.high],
        "records": evidence.set("forget").records,
        "accused": {direction: directions.count(direction) for direction in sorted(set(directions))},
        "tests": {test.name: test.fired for test in evidence.tests},
        "seen": [name for family in ("membership", "extraction") for name in beyond_references(evidence.attacks, family)],
        "auc": None if attack is None or attack.auc is None else attack.auc.value,
        "utility": None if utility.ratio is None else utility.ratio.value,
    }


def _done(folder: Path) -> bool:
    return (folder / MANIFEST).exists()
