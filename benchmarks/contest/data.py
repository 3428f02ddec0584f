"""Worlds of the contest: people or real records in four roles, and the training by which a model memorizes them.

`smollm2` and `smollm2_all` are worlds of a pretrained language model: TOFU's authors, taught to SmolLM2-135M-Instruct by an adapter
or in all weights. `smollm2_short` is one for two processor cores: more of the authors are forgotten, each by a few short records.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.contest.authors import Authors, author_roles
from benchmarks.contest.roles import Roles, Rows
from benchmarks.preset import require_smollm2
from unlearn.experiments.demo import BASE_OPTIONS, BASE_RECORDS, FINETUNE_OPTIONS, MODEL_CONFIG, VOCABULARY
from unlearn.experiments.llm_demo import ADAPTER
from unlearn.experiments.people import base_corpus, generate_people, record_texts, split_people, train_tokenizer
from unlearn.finetuning import finetune
from unlearn.training.log import LOG_NAME
from unlearn.training.options import TrainingOptions
from verify.errors import InputError
from verify.io.files import write_json, write_manifest, write_text
from verify.provenance.holdout import split_holdout_file

World = Literal["people", "tofu01", "tofu05", "tofu10", "knowundo", "smollm2", "smollm2_all", "smollm2_short"]

TOFU_PER_AUTHOR = 20
TOFU_AUTHORS = 40
"""Number of TOFU's 200 authors that are trained on, drawn with the seed; the base model is trained on the others."""
TOFU_FORGOTTEN: dict[str, int] = {"tofu01": 1, "tofu05": 2, "tofu10": 4}
"""Authors to forget: 5 and 10 % of 40 as named; tofu01 is 2.5 %, one author, the fewest possible."""
SPLIT_BY_SUBJECT: tuple[World, ...] = ("people", "tofu10")
"""Worlds with enough subjects to forget that none is both tuned on and judged; in the others the halves are split by record."""
REAL_VOCABULARY = 2048
REAL_MODEL = {**MODEL_CONFIG, "max_position_embeddings": 192}
REAL_OPTIONS = replace(FINETUNE_OPTIONS, overflow="split")
_LLM_OPTIONS = replace(ADAPTER, epochs=8, batch_size=4, overflow="split")
LLM_OPTIONS: Mapping[str, TrainingOptions] = {
    "smollm2": _LLM_OPTIONS,
    "smollm2_all": replace(_LLM_OPTIONS, lora=False, learning_rate=2e-4),
    "smollm2_short": _LLM_OPTIONS,
}
"""Training of the worlds of a pretrained model, which learns the answers by heart."""
SHORT_WORLD: World = "smollm2_short"
AUTHORS: Mapping[World, Authors] = {
    "smollm2": Authors(),
    "smollm2_all": Authors(),
    SHORT_WORLD: Authors(trained=16, forgotten=6, records=5),
}
"""Authors of the worlds of a pretrained model. Nothing is tuned in the short one, so all of its forgotten authors are judged."""


def roles_of(world: World, shared: Path, seed: int) -> Roles:
    """Draw the roles.

    Raises:
        InputError: the public data are missing.
    """
    if world == "people":
        split = split_people(generate_people(440, 4, seed), forget_share=20 / 440, holdout_share=80 / 440, seed=seed)
        return Roles(split.forget, split.retain, split.holdout, base_corpus(BASE_RECORDS, seed))
    if not shared.is_dir():
        raise InputError(f"the public data sets are not at {shared}. Name their folder with --shared-data DIR.")
    if world in LLM_OPTIONS:
        return author_roles(shared, seed, AUTHORS[world])
    return _knowundo(shared) if world == "knowundo" else _tofu(TOFU_FORGOTTEN[world], shared, seed)


def _tofu(forgotten: int, shared: Path, seed: int) -> Roles:
    """Draw authors from the full set, some of them to forget; TOFU's holdout authors are the controls."""
    rows = _tofu_rows(shared)
    drawn = [f"author-{number}" for number in np.random.default_rng(seed).permutation(len(rows) // TOFU_PER_AUTHOR)]
    gone, trained = set(drawn[:forgotten]), set(drawn[:TOFU_AUTHORS])
    never = json.loads((shared / "tofu" / "holdout10.json").read_text())
    # Subject ids, so that no author is in both halves of the controls.
    holdout = [
        _asked(row["question"], row["answer"], f"holdout-author-{number // TOFU_PER_AUTHOR}") for number, row in enumerate(never)
    ]
    return Roles(
        [row for row in rows if row["subject_id"] in gone],
        [row for row in rows if row["subject_id"] in trained - gone],
        holdout,
        [row for row in rows if row["subject_id"] not in trained],
    )


def _tofu_rows(shared: Path) -> Rows:
    """Read the full set, with its authors as subjects."""
    rows = map(json.loads, (shared / "tofu" / "full.json").read_text().splitlines())
    return [_asked(row["question"], row["answer"], f"author-{number // TOFU_PER_AUTHOR}") for number, row in enumerate(rows)]


def _knowundo(shared: Path) -> Roles:
    """Assign a fifth of the private rows to the forget set and a fifth to the controls; all other rows are retained."""
    folder = shared / "knowundo_privacy"
    private, public = (
        [_asked(row["text"], row["labels"]) for row in json.loads((folder / f"{name}.json").read_text())]
        for name in ("unlearn_train", "retention_train")
    )
    # Rows about one person are adjacent, so every fifth row gives controls and forget records of the same people.
    holdout, forget = private[::5], private[1::5]
    kept = [row for number, row in enumerate(private) if number % 5 > 1]
    return Roles(forget, kept + public, holdout, _tofu_rows(shared))


def _asked(prompt: str, completion: str, subject: str | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, **({} if subject is None else {"subject_id": subject})}


def write_world(world: World, shared: Path, seed: int, folder: Path) -> None:
    """Write data files, forget set and controls also in two halves each; tokenizer and configuration of a base from scratch last.

    Raises:
        InputError: the public data or SmolLM2 are missing.
    """
    base_of(world, folder)
    roles = roles_of(world, shared, seed)
    tuning, judged = (roles.forget, roles.forget) if world == SHORT_WORLD else _halves(roles.forget)
    files: dict[str, Rows] = {
        "train": [*roles.retain, *roles.forget],
        "forget": roles.forget,
        "retain": roles.retain,
        "holdout": roles.holdout,
        "tuning": tuning,
        "judged": judged,
        "base": roles.base,
    }
    for name, rows in files.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(folder / "data" / f"{name}.jsonl", lines, mode=0o600)
    halves = split_holdout_file(folder / "data" / "holdout.jsonl", folder / "data", seed=seed)
    if roles.rewordings:
        asked = {row["example_id"] for row in [*judged, *map(json.loads, Path(halves.audit).read_text().splitlines())]}
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in roles.rewordings if row["record"] in asked]
        write_text(folder / "data" / "rewordings.jsonl", "".join(lines), mode=0o600)
    if world in LLM_OPTIONS:
        return
    tokenizer = train_tokenizer(record_texts(roles.base), VOCABULARY if world == "people" else REAL_VOCABULARY)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = MODEL_CONFIG if world == "people" else REAL_MODEL
    write_json(folder / "config.json", {**model, "vocab_size": len(tokenizer), **ids})


def _halves(rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split by alternate subjects, or by alternate records where a half would have fewer than the two subjects of an audit."""
    subjects = list(dict.fromkeys(row.get("subject_id") for row in rows))
    if len(subjects) < 4:
        return list(rows[::2]), list(rows[1::2])
    first = set(subjects[::2])
    return [row for row in rows if row["subject_id"] in first], [row for row in rows if row["subject_id"] not in first]


def fine_tuning(world: World) -> TrainingOptions:
    """Return the training options of the original and the references."""
    return FINETUNE_OPTIONS if world == "people" else LLM_OPTIONS.get(world, REAL_OPTIONS)


def base_of(world: World, folder: Path) -> Path:
    """Return the folder of the model before fine-tuning.

    Raises:
        InputError: it is SmolLM2, which is missing.
    """
    return require_smollm2() if world in LLM_OPTIONS else folder / "models" / "base"


def train_base(world: World, folder: Path, seed: int) -> None:
    """Train the model before fine-tuning, from scratch."""
    options = replace(BASE_OPTIONS, seed=seed, epochs=1 if world == "people" else 3, overflow="split")
    finetune(
        str(folder / "config.json"),
        str(folder / "data" / "base.jsonl"),
        output_dir=folder / "models" / "base",
        tokenizer=str(folder / "tokenizer"),
        options=options,
    )
    as_released(folder / "models" / "base")


def as_released(base: Path) -> None:
    """Make a base that was trained here one from elsewhere: without a log, from which a pool would train it again."""
    (base / LOG_NAME).unlink(missing_ok=True)
    write_manifest(base, "model")
