"""The world of the trials: invented people, a model that knows them, retrained references and one honest retraining beside them.

Either a small model is trained from nothing, or a pretrained one is taught the people with an adapter. None of the people are the
contest's, which have the seeds 0 to 2.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.experiments.demo import BASE_OPTIONS, BASE_RECORDS, FINETUNE_OPTIONS, write_data
from unlearn.experiments.llm_demo import ADAPTER, ASKED, write_people
from unlearn.experiments.llm_demo import Sizes as DemoSizes
from unlearn.training.options import TrainingOptions
from verify.data.records import Record
from verify.data.sources import load_records, stream_rows
from verify.errors import InputError
from verify.io.files import is_complete, read_json, write_json
from verify.models.loading import LoadedModel, load_model
from verify.provenance.holdout import split_holdout_file

CONTEST_SEEDS = (0, 1, 2)
ABOUT = "world.json"
TAUGHT = replace(ADAPTER, batch_size=8, learning_rate=2e-3, epochs=8)
"""How an adapter learns the people here: fewer and larger steps than in the demo, since a GPU is bound by their number."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of people: trained on, forgotten (some of these), never trained on; and of references and base records.

    `wordings`: in how many wordings a pretrained model is taught every fact.
    """

    trained: int = 200
    forgotten: int = 10
    held_out: int = 80
    references: int = 4
    base_records: int = BASE_RECORDS
    epochs: float | None = None
    wordings: int = ASKED


@dataclass(frozen=True)
class Place:
    """A world's folder.

    Attributes:
        folder: holds data, models, measurements and results.
        seed: of people and trainings.
        sizes: how many people.
        model: folder of a pretrained model, to be taught by an adapter; None trains a small one from nothing.
    """

    folder: Path
    seed: int
    sizes: Sizes
    model: Path | None = None

    @property
    def options(self) -> TrainingOptions:
        """Options of the original's training and of the references'."""
        options = FINETUNE_OPTIONS if self.model is None else TAUGHT
        return options if self.sizes.epochs is None else replace(options, epochs=self.sizes.epochs)

    def data(self, role: str) -> Path:
        return self.folder / "data" / f"{role}.jsonl"

    def records(self, role: str) -> list[Record]:
        return load_records(str(self.data(role)))

    def rewordings(self) -> list[Mapping[str, Any]]:
        """Return the rewordings of the records that an audit asks about: those to forget, and its never-trained ones."""
        own = {record.example_id for role in ("forget", "holdout-audit") for record in self.records(role)}
        return [row for row in stream_rows(str(self.data("rewordings"))) if row["record"] in own]

    def path(self, name: str) -> Path:
        """Return the folder of a model."""
        return self.model if name == "base" and self.model is not None else self.folder / "models" / name

    def load(self, name: str) -> LoadedModel:
        return load_model(self.path(name))

    @property
    def references(self) -> list[str]:
        return [f"reference{number}" for number in range(1, self.sizes.references + 1)]

    @property
    def trainings(self) -> dict[str, tuple[str, int]]:
        """Name of every model that is trained as the original -> (data, seed)."""
        retrained = [*self.references, "honest"]
        return {"original": ("train", 1), **{name: ("retain", 10 + number) for number, name in enumerate(retrained)}}


def prepare(place: Place) -> None:
    """Write the data and train the base model, unless that is done.

    Raises:
        InputError: the folder holds another world.
    """
    from unlearn.finetuning import finetune

    sizes, seed = place.sizes, place.seed
    _bind(place)
    if not place.data("holdout-audit").exists():
        if place.model is None:
            people = {"trained": sizes.trained, "forgotten": sizes.forgotten, "held_out": sizes.held_out}
            write_data(place.folder, seed, **people, base_records=sizes.base_records)
        else:
            taught = DemoSizes(people=sizes.trained, never_taught=sizes.held_out)
            write_people(place.folder / "data", taught, seed, sizes.forgotten, sizes.wordings)
        split_holdout_file(place.data("holdout"), place.folder / "data", seed=seed)
    if place.model is None and not is_complete(place.path("base")):
        finetune(
            str(place.folder / "config.json"),
            str(place.data("base")),
            output_dir=place.path("base"),
            tokenizer=str(place.folder / "tokenizer"),
            options=replace(BASE_OPTIONS, seed=seed),
        )


def _bind(place: Place) -> None:
    """Bind the folder to this world, so that results of other people or trainings never stand beside each other.

    Raises:
        InputError: it was begun with another one.
    """
    about = {"seed": place.seed, "sizes": asdict(place.sizes), "options": asdict(place.options)}
    if place.model is not None:
        about["base"] = load_model(place.model, device="cpu").digest
    path = place.folder / ABOUT
    if path.exists() or (place.folder / "data").exists():
        found = read_json(path) if path.exists() else {}
        differing = [name for name in {**about, **found} if found.get(name) != json.loads(json.dumps(about)).get(name)]
        if differing:
            raise InputError(
                f"{place.folder} was begun with another world ({', '.join(differing)}). Give the same sizes, seed and model, or a "
                "new --output."
            )
    write_json(path, about)


def train(place: Place, name: str) -> None:
    """Train the original, a reference or the honest retraining, and note what it took, unless that is done."""
    data, seed = place.trainings[name]
    train_on(place, name, data, seed)


def train_on(place: Place, name: str, data: str, seed: int) -> None:
    """Train a model as the original was, and note what it took, unless that is done.

    Args:
        place: the world.
        name: of the model.
        data: role or other name of the file that it learns.
        seed: of the training; no two models of a world have the same.
    """
    from unlearn.finetuning import finetune

    if is_complete(place.path(name)):
        return
    started, used = time.monotonic(), time.process_time()
    options = replace(place.options, seed=100 * place.seed + seed)
    done = finetune(str(place.path("base")), str(place.data(data)), output_dir=place.path(name), options=options)
    took = {"tokens": done.result.tokens, "seconds": time.monotonic() - started, "processor": time.process_time() - used}
    write_json(place.folder / "costs" / f"{name}.json", took)


def cost_of(place: Place, name: str = "honest") -> dict[str, float]:
    """Return tokens, seconds and processor seconds of a training."""
    found = read_json(place.folder / "costs" / f"{name}.json")
    return {key: float(value) for key, value in found.items()}
