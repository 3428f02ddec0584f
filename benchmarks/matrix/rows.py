"""Rows of the matrix: how each defence makes its model. Rows have names, so that another process can make one by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.matrix.data import CLIENT
from benchmarks.matrix.settings import Setting, Tuning
from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods import method_classes
from unlearn.training.method import Rebuild
from unlearn.training.options import TrainingOptions

Step = Literal["original", "train", "remove", "poisoned"]


@dataclass(frozen=True)
class Place:
    """Folder and settings of a matrix.

    Attributes:
        output: the matrix's folder.
        setting, tuning: size of the run, and whether all weights or an adapter are trained.
        pretrained: folder of a pretrained base model, for a setting with one.
    """

    output: Path
    setting: Setting
    tuning: Tuning
    pretrained: str | None = None

    def data(self, name: str) -> str:
        """Return the path of a data file."""
        return str(self.output / "data" / f"{name}.jsonl")

    def model(self, name: str) -> str:
        """Return the path of a model that all cells share: "base", "poisoned-base", "reference1", ..."""
        if name == "base" and self.pretrained is not None:
            return self.pretrained
        return str(self.output / "models" / name)

    def cell(self, row: str, seed: int) -> Path:
        """Return a cell's folder."""
        return self.output / "cells" / f"{row}-{seed}"

    def made(self, row: str, seed: int) -> str:
        """Return the path of the model of a cell."""
        return str(self.cell(row, seed) / "model")

    def measured(self, model: str, what: str) -> Path:
        """Return the file with what was measured on a model: "uses", "general" or "price"."""
        folder = Path(model)
        name = folder.parent.name if folder.parent.parent == self.output / "cells" else folder.name
        return self.output / "measured" / f"{'base' if model == self.pretrained else name}.{what}.json"

    def options(self, seed: int) -> TrainingOptions:
        """Return the training options of a fine-tuning with this seed; references have their own."""
        return self.setting.tuned(self.tuning, 100 + seed)

    def references(self) -> list[str]:
        """Return the folders of the retrained references."""
        return [self.model(f"reference{number}") for number in range(1, self.setting.references + 1)]


Make = Callable[[Place, int, Path], None]
"""Makes the row's model of a seed in a new folder."""


@dataclass(frozen=True)
class Row:
    """A defence, or a strength of one.

    Attributes:
        name: name in folders and JSON.
        label: name in the table.
        curve: the defence whose curve it is a point of, in the figure.
        step: stage in which it is made: the originals first, then all that starts from them.
        make: makes the model.
        epsilon: of differential privacy.
        alike: whether its model is trained like the references, apart from the deletion.
        start: the row whose model it starts from, if any.
    """

    name: str
    label: str
    curve: str
    step: Step
    make: Make
    epsilon: float | None = None
    alike: bool = True
    start: str = "none"


def rows_of(setting: Setting, tuning: Tuning) -> dict[str, Row]:
    """Return all rows by name, in the order of the table; LoRA is a separate row only where the others train all weights."""
    method, steps = setting.approximate, setting.approximate_options
    rows = [Row("none", "none", "none", "original", _train)]
    if tuning == "full":
        rows.append(Row("lora", "LoRA only", "LoRA only", "train", _train_lora, alike=False))
    rows += [
        Row(f"dp-{epsilon:g}", f"DP, epsilon {epsilon:g}", "DP", "train", _private(epsilon), epsilon, alike=False)
        for epsilon in setting.epsilons
    ]
    rows += [
        Row("federated", "federated", "federated", "train", _federated, alike=False),
        Row("client-deleted", "federated, client deleted", "federated", "remove", _delete_client, alike=False, start="federated"),
    ]
    rows += [
        Row(
            f"{method}-{epochs}",
            f"unlearning: {method}, {epochs} epochs",
            f"unlearning ({method})",
            "remove",
            _unlearn(method, replace(steps, epochs=epochs)),
        )
        for epochs in setting.approximate_epochs
    ]
    rows += _further_rows(setting)
    rows += [
        Row("exact", "unlearning: retrain (exact)", "unlearning (exact)", "remove", _retrain),
        Row("control", "control: retain data alone", "control", "remove", _continue_on_retain),
    ]
    return {row.name: row for row in rows + poisoned_rows(setting, tuning)}


def _further_rows(setting: Setting) -> list[Row]:
    """Return the rows of the further methods, and those of a model trained in shards and of a deletion from it."""
    rows = []
    for name, options in setting.further.items():
        exact = issubclass(method_classes()[name], Rebuild)
        curve = "unlearning (exact)" if exact else f"unlearning ({name})"
        rows.append(Row(name, f"unlearning: {name}{' (exact)' if exact else ''}", curve, "remove", _unlearn(name, options)))
    if setting.shards:
        rows += [
            Row("sharded", f"trained in {setting.shards} shards", "shards", "train", _train_in_shards, alike=False),
            Row("sisa", "unlearning: sisa (exact)", "shards", "remove", _sisa, alike=False, start="sharded"),
        ]
    return rows


def poisoned_rows(setting: Setting, tuning: Tuning) -> list[Row]:
    """Return the rows that measure the effect of the poison: a few epochs from the clean and from the poisoned base.

    A pretrained base has none: poisoning takes the data that it was trained on.
    """
    if setting.pretrained:
        return []
    epsilon = setting.epsilons[len(setting.epsilons) // 2]
    defences: list[tuple[str, str, float | None]] = [("none", "none", None)]
    if tuning == "full":
        defences.append(("lora", "LoRA only", None))
    defences.append((f"dp-{epsilon:g}", f"DP, epsilon {epsilon:g}", epsilon))
    return [
        Row(f"{base}-{name}", f"{label}, {base} base", "", "poisoned", _short(base, name, budget), budget, alike=False)
        for name, label, budget in defences
        for base in ("clean", "poisoned")
    ]


def _train(place: Place, seed: int, folder: Path) -> None:
    finetune(place.model("base"), place.data("train"), output_dir=folder, options=place.options(seed))


def _train_lora(place: Place, seed: int, folder: Path) -> None:
    options = place.setting.tuned("lora", 100 + seed)
    finetune(place.model("base"), place.data("train"), output_dir=folder, options=options)


def _privacy(setting: Setting, epsilon: float) -> Any:
    from unlearn.defenses.differential_privacy import DifferentialPrivacy

    return DifferentialPrivacy(target_epsilon=epsilon, target_delta=setting.delta, privacy_unit="record")


def _private(epsilon: float) -> Make:
    def make(place: Place, seed: int, folder: Path) -> None:
        options = replace(place.options(seed), **place.setting.dp_options)
        defense = _privacy(place.setting, epsilon)
        finetune(place.model("base"), place.data("train"), output_dir=folder, options=options, defense=defense)

    return make


def _federated(place: Place, seed: int, folder: Path) -> None:
    from unlearn.defenses.federated import Federated

    options, rounds = place.options(seed), place.setting.rounds
    assert options.epochs is not None, "every setting names its epochs"
    defense = Federated(client_field=CLIENT, rounds=rounds, local_epochs=options.epochs / rounds, keep_updates=False)
    options = replace(options, epochs=None, bf16=False)  # its length is rounds times local epochs; it averages float32
    finetune(place.model("base"), place.data("train"), output_dir=folder, options=options, defense=defense)


def _delete_client(place: Place, seed: int, folder: Path) -> None:
    _forget(place, place.made("federated", seed), "client_retrain", {}, folder, TrainingOptions())


def _unlearn(name: str, options: TrainingOptions) -> Make:
    def make(place: Place, seed: int, folder: Path) -> None:
        setting, parameters = place.setting, place.setting.parameters.get(name, {})
        taken = replace(options, seed=200 + seed, overflow=setting.options.overflow, bf16=setting.options.bf16)
        _forget(place, place.made("none", seed), name, parameters, folder, taken)

    return make


def _train_in_shards(place: Place, seed: int, folder: Path) -> None:
    from unlearn.training.shards import ShardPlan, finetune_shards

    plan = ShardPlan(place.setting.shards, 1, "route", place.setting.tuned("lora", 100 + seed))
    finetune_shards(place.model("base"), place.data("train"), output_dir=folder, plan=plan)


def _sisa(place: Place, seed: int, folder: Path) -> None:
    _forget(place, place.made("sharded", seed), "sisa", {}, folder, TrainingOptions())


def _retrain(place: Place, seed: int, folder: Path) -> None:
    _forget(place, place.made("none", seed), "retrain", {}, folder, TrainingOptions(seed=300 + seed))


def _continue_on_retain(place: Place, seed: int, folder: Path) -> None:
    """Fine-tune further on the retain data, at half the peak rate since the original is at the end of its schedule."""
    options = place.options(seed)
    assert options.learning_rate is not None, "every setting names its rate"
    options = replace(options, epochs=place.setting.control_epochs, learning_rate=options.learning_rate / 2)
    finetune(place.made("none", seed), place.data("keep"), output_dir=folder, options=options)


def _short(base: str, name: str, epsilon: float | None) -> Make:
    def make(place: Place, seed: int, folder: Path) -> None:
        source = place.model("base" if base == "clean" else "poisoned-base")
        options = place.setting.tuned("lora", 100 + seed) if name == "lora" else place.options(seed)
        if epsilon is not None:
            options = replace(options, **place.setting.dp_options)
        options = replace(options, epochs=place.setting.short_epochs)
        defense = None if epsilon is None else _privacy(place.setting, epsilon)
        finetune(source, place.data("train"), output_dir=folder, options=options, defense=defense)

    return make


def _forget(place: Place, model: str, method: str, parameters: Mapping[str, Any], folder: Path, options: TrainingOptions) -> None:
    """Delete the people and one planter's triggers."""
    forget(
        model,
        method_classes()[method](**parameters),
        forget_set=place.data("delete"),
        retain_set=place.data("keep"),
        holdout_set=place.data("holdout-method"),
        base=place.model("base"),
        output_dir=folder,
        options=options,
    )
