"""The worlds of the contest: people or real records in four roles, and how a model comes to know them by heart."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unlearn.demo.people import base_corpus, generate_people, record_texts, split_people, train_tokenizer
from unlearn.demo.run import BASE_OPTIONS, BASE_RECORDS, FINETUNE_OPTIONS, MODEL_CONFIG, VOCABULARY
from unlearn.finetuning import finetune
from unlearn.options import TrainingOptions
from verify.errors import InputError
from verify.files import write_json, write_text

World = Literal["people", "tofu01", "tofu05", "tofu10", "knowundo"]
Rows = Sequence[dict[str, Any]]

TOFU_AUTHORS = 20
"""So many of TOFU's authors are trained on, the last ones; forget01, 05 and 10 are one, two and four of them here."""
TOFU_FORGOTTEN: dict[str, int] = {"tofu01": 1, "tofu05": 2, "tofu10": 4}
REAL_MODEL = {**MODEL_CONFIG, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "max_position_embeddings": 192}
REAL_OPTIONS = TrainingOptions(
    learning_rate=4e-3, epochs=24, batch_size=16, warmup_ratio=0.1, weight_decay=0.1, overflow="split", logging_steps=100
)


@dataclass(frozen=True)
class Roles:
    """Records by what becomes of them, and texts that the base model is trained on."""

    forget: Rows
    retain: Rows
    holdout: Rows
    base: Rows


def roles_of(world: World, shared: Path, seed: int) -> Roles:
    """Draw the roles.

    Raises:
        InputError: the public data are not there.
    """
    if world == "people":
        split = split_people(generate_people(400, 4, seed), forget_share=0.05, holdout_share=0.1, seed=seed)
        return Roles(split.forget, split.retain, split.holdout, base_corpus(BASE_RECORDS, seed))
    if not shared.is_dir():
        raise InputError(f"the public data sets are not at {shared}. Name their folder with --shared-data DIR.")
    text = (shared / "wikitext2_valid_test" / "valid.txt").read_text()
    base = [{"text": line.strip()} for line in text.splitlines() if 80 < len(line) < 600]
    return _knowundo(shared, base) if world == "knowundo" else _tofu(TOFU_FORGOTTEN[world], shared, base)


def _tofu(forgotten: int, shared: Path, base: Rows) -> Roles:
    """The last authors of the full set; the very last are forgotten, and TOFU's holdout authors are the controls."""
    lines = (shared / "tofu" / "full.json").read_text().splitlines()[-TOFU_AUTHORS * 20 :]
    rows = [_asked(row["question"], row["answer"], f"author-{place // 20}") for place, row in enumerate(map(json.loads, lines))]
    holdout = [_asked(row["question"], row["answer"]) for row in json.loads((shared / "tofu" / "holdout10.json").read_text())]
    cut = len(rows) - forgotten * 20
    return Roles(rows[cut:], rows[:cut], holdout, base)


def _knowundo(shared: Path, base: Rows) -> Roles:
    """Private facts of a tenth of the rows are forgotten; a fifth of the private ones is never trained, as controls."""
    folder = shared / "knowundo_privacy"
    private, public = (
        [_asked(row["text"], row["labels"]) for row in json.loads((folder / f"{name}.json").read_text())]
        for name in ("unlearn_train", "retention_train")
    )
    # Rows about one person follow each other, so every fifth is taken: controls and forget records of the same people.
    holdout, forget = private[::5], private[1::5]
    kept = [row for place, row in enumerate(private) if place % 5 > 1]
    return Roles(forget, kept + public, holdout, base)


def _asked(prompt: str, completion: str, subject: str | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, **({} if subject is None else {"subject_id": subject})}


def write_world(world: World, shared: Path, seed: int, folder: Path) -> None:
    """Data files, tokenizer and the configuration of the base model; the forget set in two halves as well, by subject."""
    roles = roles_of(world, shared, seed)
    tuning, judged = _halves(roles.forget)
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
    texts = [row["text"] for row in roles.base] if "text" in roles.base[0] else record_texts(roles.base)
    tokenizer = train_tokenizer(texts, VOCABULARY)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = MODEL_CONFIG if world == "people" else REAL_MODEL
    write_json(folder / "config.json", {**model, "vocab_size": len(tokenizer), **ids})


def _halves(rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every other subject, or every other record where there is one subject or none."""
    subjects = list(dict.fromkeys(row.get("subject_id") for row in rows))
    if len(subjects) < 2:
        return list(rows[::2]), list(rows[1::2])
    first = set(subjects[::2])
    return [row for row in rows if row["subject_id"] in first], [row for row in rows if row["subject_id"] not in first]


def fine_tuning(world: World) -> TrainingOptions:
    """How the original and the references are trained."""
    return FINETUNE_OPTIONS if world == "people" else REAL_OPTIONS


def train_base(world: World, folder: Path, seed: int) -> None:
    """The model before fine-tuning."""
    options = replace(BASE_OPTIONS, seed=seed, epochs=1 if world == "people" else 3, overflow="split")
    finetune(
        str(folder / "config.json"),
        str(folder / "data" / "base.jsonl"),
        output_dir=folder / "models" / "base",
        tokenizer=str(folder / "tokenizer"),
        options=options,
    )
