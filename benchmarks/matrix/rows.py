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
from unlearn.training.options import TrainingOptions

Step = Literal["original", "train", "remove", "poisoned"]


@dataclass(frozen=True)
class Place:
    """Folder and settings of a matrix.

    Attributes:
        output: the matrix's folder.
        setting, tuning: size of the run, and whether all weights or an adapter are trained.
    """

    output: Path
    setting: Setting
    tuning: Tuning

    def data(self, name: str) -> str:
        """Return the path of a data file."""
        return str(self.output / "data" / f"{name}.jsonl")

    def model(self, name: str) -> str:
        """Return the path of a model that all cells share: "base", "poisoned-base", "reference1", ..."""
        return str(self.output / "models" / name)

    def cell(self, row: str, seed: int) -> Path:
        """Return a cell's folder."""
        return self.output / "cells" / f"{row}-{seed}"

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
    method = setting.approximate
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
        Row(f"{method}-{epochs}", f"unlearning: {method}, {epochs} epochs", f"unlearning ({method})", "remove", _unlearn(epochs))
        for epochs in setting.approximate_epochs
    ]
    rows += [
        Row("exact", "unlearning: retrain (exact)", "unlearning (exact)", "remove", _retrain),
        Row("control", "control: retain data alone", "control", "remove", _continue_on_retain),
    ]
    return {row.name: row for row in rows + poisoned_rows(setting, tuning)}


def poisoned_rows(setting: Setting, tuning: Tuning) -> list[Row]:
    """Return the rows that measure the effect of the poison: a few epochs from the clean and from the poisoned base."""
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
    options = replace(options, epochs=None)  # its length is rounds times local epochs
    finetune(place.model("base"), place.data("train"), output_dir=folder, options=options, defense=defense)


def _delete_client(place: Place, seed: int, folder: Path) -> None:
    _forget(place, place.cell("federated", seed) / "model", "client_retrain", {}, folder, TrainingOptions())


def _unlearn(epochs: int) -> Make:
    def make(place: Place, seed: int, folder: Path) -> None:
        setting = place.setting
        options = replace(setting.approximate_options, seed=200 + seed, epochs=epochs, overflow=setting.options.overflow)
        _forget(
            place,
            place.cell("none", seed) / "model",
            setting.approximate,
            setting.parameters.get(setting.approximate, {}),
            folder,
            options,
        )

    return make


def _retrain(place: Place, seed: int, folder: Path) -> None:
    _forget(place, place.cell("none", seed) / "model", "retrain", {}, folder, TrainingOptions(seed=300 + seed))


def _continue_on_retain(place: Place, seed: int, folder: Path) -> None:
    """Fine-tune further on the retain data, at half the peak rate since the original is at the end of its schedule."""
    options = place.options(seed)
    assert options.learning_rate is not None, "every setting names its rate"
    options = replace(options, epochs=place.setting.control_epochs, learning_rate=options.learning_rate / 2)
    finetune(str(place.cell("none", seed) / "model"), place.data("keep"), output_dir=folder, options=options)


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


def _forget(place: Place, model: Path, method: str, parameters: Mapping[str, Any], folder: Path, options: TrainingOptions) -> None:
    """Delete the people and one planter's triggers."""
    forget(
        str(model),
        method_classes()[method](**parameters),
        forget_set=place.data("delete"),
        retain_set=place.data("keep"),
        holdout_set=place.data("holdout-method"),
        base=place.model("base"),
        output_dir=folder,
        options=options,
    )
