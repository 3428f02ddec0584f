"""Worlds of the level table's measurement: subjects to train on, never-trained controls, and how a model is trained.

`people`: the demo's fictitious people and its model of 0.2 million weights. `tofu`: TOFU authors on a model of the same width that
was trained on other authors. `smollm2`: TOFU authors on SmolLM2-135M with an adapter, in bfloat16, as `unlearn demo-llm` trains.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.real import train_base as train_people_base
from benchmarks.contest.data import fine_tuning, roles_of, write_world
from benchmarks.contest.data import train_base as train_tofu_base
from benchmarks.preset import require_smollm2
from unlearn.experiments.demo import FINETUNE_OPTIONS
from unlearn.experiments.llm_demo import ADAPTER
from unlearn.training.options import TrainingOptions
from verify.io.files import is_complete
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
    methods: tuple[Literal["level", "npo"], ...] = ()


SIZES: Mapping[Name, Sizes] = {
    "people": Sizes(half=8, quarter=4, sets=3, people=20, full=5, kept=1, treated=1, methods=("level", "npo")),
    "tofu": Sizes(half=8, quarter=4, sets=3, people=2, full=2),
    "smollm2": Sizes(half=2, quarter=0, sets=3, people=2, full=1),
}
TOFU_TRAINED, TOFU_CONTROLS = 24, 10
"""Authors that the small TOFU model is trained on; records of each of the 20 holdout authors that are controls."""
LLM_TRAINED, LLM_EACH, LLM_CONTROLS, LLM_CONTROLS_EACH = 16, 8, 12, 4
"""Authors and records of each, trained on and as controls. The shortest records of an author are taken, for the time."""
LLM_OPTIONS = replace(ADAPTER, epochs=4, batch_size=4)
TREATMENT = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=16, overflow="split")
LLM_TREATMENT = replace(ADAPTER, learning_rate=2e-4, epochs=1, batch_size=4)
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
        rows=rows,
        controls=_of_each(controls, TOFU_CONTROLS),
        options=fine_tuning("tofu05"),
        treatment=TREATMENT,
        sizes=SIZES["tofu"],
        channels=(EXACT_TEXT, INSTRUCTION, NO_PROMPT, "layer 2"),
        layer=2,
        requests=(1, 2),
        seed=seed,
    )


def _smollm2(folder: Path, shared: Path, seed: int) -> World:
    base = require_smollm2()
    rows, controls = _authors(shared, seed, LLM_TRAINED)
    kept = list(dict.fromkeys(row["subject_id"] for row in controls))[:LLM_CONTROLS]
    return World(
        name="smollm2",
        folder=folder,
        base=base,
        rows=_of_each(rows, LLM_EACH, shortest=True),
        controls=_of_each([row for row in controls if row["subject_id"] in kept], LLM_CONTROLS_EACH, shortest=True),
        options=LLM_OPTIONS,
        treatment=LLM_TREATMENT,
        sizes=SIZES["smollm2"],
        channels=(EXACT_TEXT, NO_PROMPT, "layer 15"),
        layer=15,
        requests=(1, 2),
        seed=seed,
    )


def _authors(shared: Path, seed: int, count: int) -> tuple[Rows, Rows]:
    """Return the records of some TOFU authors, and TOFU's holdout."""
    roles = roles_of("tofu05", shared, seed)
    rows = [*roles.retain, *roles.forget]
    authors = list(dict.fromkeys(row["subject_id"] for row in rows))
    drawn = {authors[number] for number in np.random.default_rng([seed, 1]).permutation(len(authors))[:count]}
    return [row for row in rows if row["subject_id"] in drawn], roles.holdout


def _of_each(rows: Rows, count: int, *, shortest: bool = False) -> Rows:
    """Return the first or the shortest records of each subject, in the order of the rows."""
    own: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        own.setdefault(row["subject_id"], []).append(index)
    if shortest:
        own = {name: sorted(indices, key=lambda index: _length(rows[index])) for name, indices in own.items()}
    chosen = {index for indices in own.values() for index in indices[:count]}
    return [row for index, row in enumerate(rows) if index in chosen]


def _length(row: Mapping[str, Any]) -> int:
    return len(row["prompt"]) + len(row["completion"])


def _read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _numbers(rows: Rows) -> NDArray[np.intp]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row["subject_id"], len(numbers)) for row in rows], dtype=np.intp)
