"""Worlds of the level table's measurement: subjects to train on, never-trained controls, and how a model is trained.

`people`: the demo's fictitious people and its model of 0.2 million weights. `tofu`: TOFU authors on a model of the same width that
was trained on other authors. `smollm2`: fictitious people, as many records of each as in the first world, on SmolLM2-135M with an
adapter, in bfloat16. What is invented SmolLM2 cannot know, and people are cheap: a verdict's units are subjects, of which it takes
dozens in every forget set, several sets, and as many as that again in controls.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.real import train_base as train_people_base
from benchmarks.contest.data import as_released, fine_tuning, roles_of, write_world
from benchmarks.contest.data import train_base as train_tofu_base
from benchmarks.preset import require_smollm2
from unlearn.experiments.demo import FINETUNE_OPTIONS
from unlearn.experiments.llm_demo import ADAPTER
from unlearn.experiments.people import generate_people, other_wordings
from unlearn.training.options import TrainingOptions
from verify.io.files import is_complete, read_json, write_json
from verify.provenance.holdout import split_holdout_file
from verify.statistics.channels import EXACT_TEXT

Name = Literal["people", "tofu", "smollm2"]
Rows = Sequence[Mapping[str, Any]]

REWORDING, INSTRUCTION, NO_PROMPT = "rewording 1", "instruction", "no prompt"


@dataclass(frozen=True)
class Sizes:
    """How many models a world gets.

    Attributes:
        half, quarter: M of the pools that leave out a half and a quarter of the subjects.
        sets: number of disjoint forget sets. people: subjects in each.
        full: full retrainings without each forget set.
        kept: retrainings of each forget set that keep a fifth of its records, and as many that keep a fifth of its subjects.
        treated: how many of the full retrainings are then trained on their forget set for a moment, so that they remember a part.
        methods: approximate methods that are run on each forget set.
    """

    half: int
    quarter: int
    sets: int
    people: int
    full: int
    kept: int = 0
    treated: int = 0
    methods: tuple[Literal["level", "level-table", "npo"], ...] = ()


SIZES: Mapping[Name, Sizes] = {
    "people": Sizes(half=8, quarter=4, sets=3, people=20, full=5, kept=1, treated=1, methods=("level", "level-table", "npo")),
    "tofu": Sizes(half=8, quarter=4, sets=4, people=5, full=5, kept=1),
    "smollm2": Sizes(half=16, quarter=8, sets=5, people=20, full=5, kept=1),
}
TOFU_TRAINED, TOFU_EACH, TOFU_CONTROLS = 40, 10, 10
"""Authors that the small TOFU model is trained on; records of each of them, and of each of the 20 holdout authors."""
LLM_TRAINED, LLM_CONTROLS, LLM_EACH = 120, 40, 4
"""People that SmolLM2 is taught, people that are controls, and records of each."""
LLM_OPTIONS = replace(ADAPTER, learning_rate=1.5e-3, epochs=8, batch_size=8)
LLM_STACK = 13
"""Most adapters that are trained at once."""
TREATMENT = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=16, overflow="split")
LLM_TREATMENT = replace(ADAPTER, learning_rate=2e-4, epochs=1, batch_size=8)
DESIGN = "world.json"
"""The moment of training by which an honest retraining comes to remember a part of its forget set."""


@dataclass(frozen=True, eq=False)
class World:
    """Records, models and training of a world.

    Attributes:
        name: of the world.
        folder: holds data, base model and measurements.
        base: folder of the model before fine-tuning.
        rows: records of the subjects that the original is trained on [K], each with `subject_id`.
        controls: records of others [N].
        options: of the fine-tuning.
        treatment: of an honest retraining that is to remember a part of its forget set.
        sizes: how many models are trained.
        channels: ways of asking.
        layer: the middle layer that is decoded, from 1.
        requests: numbers of subjects that audits ask about.
        rewordings: rows of a file of rewordings, where there is one.
        holdout: file of never-trained records for methods, where methods are run.
        seed: of every draw.
        stack: number of adapters that are trained at once; 1 trains every model by `finetune`.
    """

    name: str
    folder: Path
    base: Path
    rows: Rows
    controls: Rows
    options: TrainingOptions
    treatment: TrainingOptions
    sizes: Sizes
    channels: tuple[str, ...]
    layer: int
    requests: tuple[int, ...]
    rewordings: Rows = ()
    holdout: Path | None = None
    seed: int = 0
    stack: int = 1

    @property
    def subjects(self) -> NDArray[np.intp]:
        """Number of the subject of each record [K], from 0 in the order of the rows."""
        return _numbers(self.rows)

    @property
    def control_subjects(self) -> NDArray[np.intp]:
        """The same of the controls [N]."""
        return _numbers(self.controls)

    @property
    def forget_sets(self) -> list[NDArray[np.intp]]:
        """Subjects of each forget set, drawn at random, no subject in two."""
        drawn = np.random.default_rng([self.seed, 3]).permutation(int(self.subjects.max()) + 1)
        size = self.sizes.people
        return [np.sort(drawn[number * size : (number + 1) * size]) for number in range(self.sizes.sets)]

    def write_design(self, machine: str) -> None:
        """Write what the page needs to know of the world: numbers, and the machine that trains it, but no record."""
        numbers = {"subjects": self.subjects.tolist(), "control_subjects": self.control_subjects.tolist()}
        named = {name: getattr(self, name) for name in ("name", "seed", "layer", "channels", "requests", "stack")}
        write_json(self.folder / DESIGN, {**named, **numbers, "sizes": asdict(self.sizes), "machine": machine})


def folder_of(output: Path, name: Name, seed: int) -> Path:
    """Return the folder of a world with a seed."""
    return output / (f"{name}-{seed}" if seed else name)


def measured_world(folder: Path) -> tuple[World, str]:
    """Return a world whose records are not there, but whose models were scored, and the machine that did so.

    Raises:
        InputError: the folder has no design, or a damaged one.
    """
    about = read_json(folder / DESIGN)
    rows, controls = ([{"subject_id": str(number)} for number in about[name]] for name in ("subjects", "control_subjects"))
    sizes = Sizes(**{name: tuple(value) if isinstance(value, list) else value for name, value in about["sizes"].items()})
    world = World(
        name=about["name"],
        folder=folder,
        base=folder,
        rows=rows,
        controls=controls,
        options=TrainingOptions(),
        treatment=TREATMENT,
        sizes=sizes,
        channels=tuple(about["channels"]),
        layer=about["layer"],
        requests=tuple(about["requests"]),
        seed=about["seed"],
        stack=about["stack"],
    )
    return world, about["machine"]


def open_world(name: Name, folder: Path, shared: Path, seed: int = 0) -> World:
    """Return a world; its data and base model are made at the first call.

    Args:
        name: of the world.
        folder: where it is, or is to be.
        shared: folder of the public data sets.
        seed: of the data and of every draw.

    Raises:
        InputError: the public data or SmolLM2 are missing.
    """
    made = {"people": _people, "tofu": _tofu, "smollm2": _smollm2}[name]
    return made(folder, shared, seed)


def _people(folder: Path, _: Path, seed: int) -> World:
    train_people_base(folder, seed)
    as_released(folder / "models" / "base")
    data = folder / "data"
    halves = split_holdout_file(data / "holdout.jsonl", data, seed=seed)
    return World(
        name="people",
        folder=folder,
        base=folder / "models" / "base",
        rows=_read(data / "train.jsonl"),
        controls=_read(halves.audit),
        options=FINETUNE_OPTIONS,
        treatment=TREATMENT,
        sizes=SIZES["people"],
        channels=(EXACT_TEXT, REWORDING, INSTRUCTION, NO_PROMPT, "layer 2"),
        layer=2,
        requests=(1, 5, 20),
        rewordings=_read(data / "rewordings.jsonl"),
        holdout=halves.method,
        seed=seed,
    )


def _tofu(folder: Path, shared: Path, seed: int) -> World:
    if not is_complete(folder / "models" / "base"):
        write_world("tofu05", shared, seed, folder)
        train_tofu_base("tofu05", folder, seed)
    rows, controls = _authors(shared, seed, TOFU_TRAINED)
    return World(
        name="tofu",
        folder=folder,
        base=folder / "models" / "base",
        rows=_of_each(rows, TOFU_EACH),
        controls=_of_each(controls, TOFU_CONTROLS),
        options=fine_tuning("tofu05"),
        treatment=TREATMENT,
        sizes=SIZES["tofu"],
        channels=(EXACT_TEXT, INSTRUCTION, NO_PROMPT, "layer 2"),
        layer=2,
        requests=(1, 5),
        seed=seed,
    )


def _smollm2(folder: Path, _: Path, seed: int) -> World:
    base = require_smollm2()
    people = generate_people(LLM_TRAINED + LLM_CONTROLS, LLM_EACH, seed)  # as they are drawn, so that the last are controls
    taught = LLM_TRAINED * LLM_EACH
    return World(
        name="smollm2",
        folder=folder,
        base=base,
        rows=people[:taught],
        controls=people[taught:],
        options=LLM_OPTIONS,
        treatment=LLM_TREATMENT,
        sizes=SIZES["smollm2"],
        channels=(EXACT_TEXT, REWORDING, INSTRUCTION, NO_PROMPT, "layer 15"),
        layer=15,
        requests=(1, 5, 20),
        rewordings=other_wordings(LLM_TRAINED + LLM_CONTROLS, LLM_EACH, seed),
        seed=seed,
        stack=LLM_STACK,
    )


def _authors(shared: Path, seed: int, count: int) -> tuple[Rows, Rows]:
    """Return the records of some TOFU authors, and TOFU's holdout."""
    roles = roles_of("tofu05", shared, seed)
    rows = [*roles.retain, *roles.forget]
    authors = list(dict.fromkeys(row["subject_id"] for row in rows))
    drawn = {authors[number] for number in np.random.default_rng([seed, 1]).permutation(len(authors))[:count]}
    return [row for row in rows if row["subject_id"] in drawn], roles.holdout


def _of_each(rows: Rows, count: int) -> Rows:
    """Return the first records of each subject, in the order of the rows."""
    own: dict[str, int] = {}
    chosen = []
    for row in rows:
        own[row["subject_id"]] = own.get(row["subject_id"], 0) + 1
        if own[row["subject_id"]] <= count:
            chosen.append(row)
    return chosen


def _read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _numbers(rows: Rows) -> NDArray[np.intp]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row["subject_id"], len(numbers)) for row in rows], dtype=np.intp)
