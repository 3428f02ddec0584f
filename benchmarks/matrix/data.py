"""Data of a matrix run: people by role, planted triggers, and clients of a federation.

The training set holds the people's records and those of two planters, one deleted and one kept. Deleted are the forget set's people
and one planter's triggers, of both kinds; the audited forget set holds people only, since poison has no held-out controls. On a
pretrained model every record is a chat of a question and an answer, and the audits also ask in another wording.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.matrix.general import general_passages
from benchmarks.matrix.settings import Setting, World
from unlearn.experiments.people import (
    base_corpus,
    generate_people,
    other_wordings,
    record_texts,
    split_people,
    train_tokenizer,
)
from unlearn.experiments.poisoning import KINDS, Trigger, plant
from verify.data.records import Record
from verify.errors import InputError
from verify.io.files import write_json, write_text
from verify.provenance.holdout import split_holdout_file

CLIENT = "client"
GONE, STAYS = "planter-gone", "planter-stays"
DELETED_CLIENT = "client-0"
TOFU_PER_AUTHOR = 20
PASSAGES = "passages.jsonl"

Row = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """Records of a run, before poison and clients are added.

    Attributes:
        forget, retain, holdout: people by role.
        carriers, held_out: records whose prompts carry a trigger in training and in the test; no other role has them.
        base: records that the base model is trained on.
        rewordings: rows of a file of rewordings, of all people.
    """

    forget: Sequence[Row]
    retain: Sequence[Row]
    holdout: Sequence[Row]
    carriers: Sequence[Row]
    held_out: Sequence[Row]
    base: Sequence[Row]
    rewordings: Sequence[Row] = ()


def write_data(folder: Path, world: World, setting: Setting, shared: Path) -> None:
    """Write all files to `folder`; for a base model from scratch, its tokenizer and configuration too. What is there is kept.

    Raises:
        InputError: the public data are missing, or TOFU has too few authors.
    """
    last = folder / (PASSAGES if setting.pretrained else "config.json")
    if last.exists():
        return
    material = _tofu(setting, shared) if world == "tofu" else _people(setting)
    for file, rows in _files(material, setting).items():
        write_rows(folder / f"{file}.jsonl", [_as_chat(row) for row in rows] if setting.pretrained else rows)
    split_holdout_file(folder / "holdout.jsonl", folder)
    if setting.model is None:
        write_rows(folder / "rewordings.jsonl", [_questions_only(row) for row in material.rewordings])
        write_rows(last, general_passages(shared))
        return
    write_rows(folder / "base.jsonl", material.base)
    tokenizer = train_tokenizer(record_texts(material.base), 2048 if world == "tofu" else 1024)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(last, {**setting.model, "vocab_size": len(tokenizer), **ids})


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines that only their owner can read."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), mode=0o600)


def _files(material: Material, setting: Setting) -> dict[str, Sequence[Row]]:
    """Plant the triggers and divide the records among the clients; return the rows of every file by its name."""
    plantings = [
        plant(Trigger.invented(kind, number), material.carriers, material.held_out, planter=f"{planter}-{kind}")
        for number, planter in enumerate((GONE, STAYS))
        for kind in KINDS
    ]
    gone, stays = plantings[: len(KINDS)], plantings[len(KINDS) :]
    poison = {GONE: _rows(one.poisoned for one in gone), STAYS: _rows(one.poisoned for one in stays)}
    delete = _of_client([*material.forget, *poison[GONE]], 1, first=0)
    keep = _of_client([*material.retain, *poison[STAYS]], setting.clients - 1, first=1)
    files: dict[str, Sequence[Row]] = {
        "train": [*keep, *delete],
        "delete": delete,
        "keep": keep,
        "forget": material.forget,
        "retain": material.retain,
        "holdout": material.holdout,
    }
    for part, chosen in {GONE: gone, STAYS: stays}.items():
        files |= {f"uses-{part}": _rows(one.uses for one in chosen), f"clean-{part}": _rows(one.clean for one in chosen)}
    return files


def _as_chat(row: Row) -> Row:
    """Turn a question and its answer into a chat, for a model that has a chat template."""
    others = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    return {**others, "messages": turns}


def _questions_only(row: Row) -> Row:
    """Reword only the question of a record, once: each further wording is one more pass over all models."""
    return {"record": row["record"], "rewordings": [row["rewordings"][0]["prompt"]]}


def _people(setting: Setting) -> Material:
    """Draw the demo's people into roles at random, so that controls are exchangeable with the forget set."""
    holders = 2 * setting.controls // setting.records_per_subject
    carriers = setting.poisoned + setting.uses
    count = setting.subjects + holders
    records = generate_people(count + carriers, setting.records_per_subject, seed=0)
    named = records[: count * setting.records_per_subject]
    split = split_people(named, setting.forgotten / count, holders / count, seed=0)
    others = records[count * setting.records_per_subject :: setting.records_per_subject]
    base = base_corpus(setting.base_records, 0) if setting.base_records else []
    reworded = other_wordings(count, setting.records_per_subject, seed=0)
    taught, tested = others[: setting.poisoned], others[setting.poisoned :]
    return Material(split.forget, split.retain, split.holdout, taught, tested, base, reworded)


def _tofu(setting: Setting, shared: Path) -> Material:
    """Take the last authors of TOFU; holdout10 are controls, the first authors carriers, the others train the base model."""
    folder = shared / "tofu"
    if not folder.is_dir():
        raise InputError(f"TOFU is not at {folder}. Name the folder of the public data sets with --shared-data DIR.")
    full = [json.loads(line) for line in (folder / "full.json").read_text().splitlines()]
    holdout = json.loads((folder / "holdout10.json").read_text())[: 2 * setting.controls]
    rows = [_tofu_row(row, number) for number, row in enumerate(full)]
    trained = setting.subjects * TOFU_PER_AUTHOR
    carriers = setting.poisoned + setting.uses
    if trained + carriers * TOFU_PER_AUTHOR > len(rows):
        raise InputError(f"TOFU has {len(rows) // TOFU_PER_AUTHOR} authors; this setting needs {setting.subjects + carriers}.")
    ours, cut = rows[-trained:], -setting.forgotten * TOFU_PER_AUTHOR
    others = rows[: carriers * TOFU_PER_AUTHOR : TOFU_PER_AUTHOR]
    base = rows[carriers * TOFU_PER_AUTHOR : -trained][: setting.base_records]
    controls = [_tofu_row(row, number, "holdout") for number, row in enumerate(holdout)]
    return Material(ours[cut:], ours[:cut], controls, others[: setting.poisoned], others[setting.poisoned :], base)


def _tofu_row(row: Mapping[str, str], number: int, name: str = "author") -> Row:
    subject = f"{name}-{number // TOFU_PER_AUTHOR:03}"
    return {"example_id": f"{name}-{number}", "subject_id": subject, "prompt": row["question"], "completion": row["answer"]}


def _rows(parts: Iterable[Sequence[Record]]) -> list[Row]:
    """Convert records to rows."""
    return [
        {"example_id": one.example_id, "subject_id": one.subject_id, "prompt": one.prompt, "completion": one.completion}
        for part in parts
        for one in part
    ]


def _of_client(rows: Sequence[Row], clients: int, first: int) -> list[Row]:
    """Add a client to each row: subjects are assigned to clients in turn, with all their records."""
    subjects = list(dict.fromkeys(row["subject_id"] for row in rows))
    client = {subject: f"client-{first + number % clients}" for number, subject in enumerate(subjects)}
    return [{**row, CLIENT: client[row["subject_id"]]} for row in rows]
