"""Tiny trainings and their deletions: settings drawn at random, and what an auditor is given of them."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from tiny_models import make_llama, make_tokenizer

from unlearn import TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods.retrain import Retrain
from unlearn.methods.rollback import Rollback
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import write_json
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.reexecute import reexecute
from verify.schema.reexecution import Reexecution

Method = Literal["rollback", "two deletions in a row", "retrain", "sisa"]
Row = dict[str, Any]
NOTED = "world.json"
RECORDS = 12
FORGOTTEN = 2
"""Largest number of forget records."""


@dataclass(frozen=True)
class Setting:
    """How a training and its deletion are made.

    Attributes:
        method: the deletion.
        options: of the training.
        attention_dropout: whether the base has dropout of its own.
        threads: threads of the training and the deletion.
        long: whether some records are longer than the context, so that they are split.
        gone: number of forget records.
        committed: whether there is a commitment.
    """

    method: Method
    options: TrainingOptions
    attention_dropout: bool
    threads: int
    long: bool
    gone: int
    committed: bool

    @classmethod
    def drawn(cls, draw: random.Random, methods: tuple[Method, ...]) -> "Setting":
        """Draw everything independently."""
        method = draw.choice(methods)
        lora = method == "sisa" or draw.random() < 0.5
        long = draw.random() < 0.25
        options = TrainingOptions(
            learning_rate=draw.choice((1e-4, 1e-3)),
            epochs=draw.choice((1, 2)),
            batch_size=draw.choice((1, 2, 3)),
            gradient_accumulation=draw.choice((1, 2)),
            scheduler=draw.choice(("linear", "cosine", "constant")),
            warmup_ratio=draw.choice((0.0, 0.3)),
            optimizer="sophia" if draw.random() < 0.3 else "adamw",
            weight_decay=draw.choice((0.0, 0.1)),
            seed=draw.randrange(1000),
            bf16=draw.random() < 0.4,
            lora=lora,
            lora_dropout=draw.choice((0.0, 0.1)) if lora else 0.0,
            save_steps=0 if method == "sisa" else draw.choice((1, 2)),
            overflow="split" if long else "refuse",
        )
        return cls(
            method=method,
            options=options,
            attention_dropout=draw.random() < 0.4,
            threads=draw.choice((1, 2)),
            long=long,
            gone=draw.randint(1, FORGOTTEN),
            committed=draw.random() < 0.7,
        )

    def traits(self) -> list[str]:
        """Name what is particular about it."""
        options = self.options
        named = {
            "LoRA" if options.lora else "all weights": True,
            "bfloat16" if options.bf16 else "float32": True,
            "Sophia" if options.optimizer == "sophia" else "AdamW": True,
            "dropout": bool(self.attention_dropout or options.lora_dropout),
            "accumulation": options.gradient_accumulation > 1,
            f"{self.threads} threads" if self.threads > 1 else "1 thread": True,
            "split records": self.long,
            "no commitment": not self.committed and self.method != "retrain",
        }
        return [self.method, *(name for name, applies in named.items() if applies)]


@dataclass(frozen=True)
class World:
    """A training, its deletion, and what an auditor is given.

    Attributes:
        setting: how it was made.
        base: folder of the model that training started from.
        rows: all training records.
        gone: the forget records.
        before: folder of the model before the last deletion; None for a training of its own.
        after: folder of the deleted model.
        commitment: file of the commitment, or None.
    """

    setting: Setting
    base: Path
    rows: list[Row]
    gone: list[Row]
    before: Path | None
    after: Path
    commitment: Path | None

    def judge(self, **changed: Any) -> Reexecution:
        """Execute the deletion again."""
        given = {
            "model": self.after,
            "base": self.base,
            "data": self.rows,
            "forget_set": self.gone,
            "log": self.before,
            "commitment": self.commitment,
            "requested": datetime.now(UTC).isoformat(),
            "segments": "all",
        }
        return reexecute(**{**given, **changed})

    def copied(self, folder: Path) -> "World":
        """Return the same with a copy of the deleted model, to tamper with."""
        shutil.copytree(self.after, folder / "after")
        return replace(self, after=folder / "after")

    @property
    def log(self) -> TrainingLog:
        """Log of the deleted model."""
        return TrainingLog.read(self.after / LOG_NAME)

    def save(self, folder: Path) -> None:
        """Note it, so that a later run of the benchmark need not make it again."""
        content = {**asdict(self), "base": str(self.base), "after": str(self.after)}
        content |= {name: None if content[name] is None else str(content[name]) for name in ("before", "commitment")}
        write_json(folder / NOTED, content)

    @classmethod
    def read(cls, folder: Path) -> "World | None":
        """Read what was noted; None where it is not finished."""
        if not (folder / NOTED).is_file():
            return None
        content = json.loads((folder / NOTED).read_text())
        setting = Setting(**{**content["setting"], "options": TrainingOptions(**content["setting"]["options"])})
        paths = {name: content[name] and Path(content[name]) for name in ("base", "after", "before", "commitment")}
        return cls(setting=setting, rows=content["rows"], gone=content["gone"], **paths)


def by_name(rows: list[Row]) -> dict[str, Row]:
    """Return records by their keyed hashes."""
    key = RecordKey.load()
    return {key.of(record.fingerprint): row for row, record in zip(rows, load_records(rows), strict=True)}


def make_rows(draw: random.Random, long: bool = False) -> list[Row]:
    """Make records of invented words, all with the same number of tokens but for long ones, which exceed the context."""

    def word() -> str:
        # Letters of which the tokenizer joins none, so that words of one length have one number of tokens.
        return "".join(draw.choice("gkps") + draw.choice("aeiu") for _ in range(3))

    rows = [
        {"example_id": f"r{number}", "prompt": f"{word()} {word()}?", "completion": f"{word()} {word()}."}
        for number in range(RECORDS)
    ]
    for row in rows[:3] if long else ():
        row["completion"] = " ".join(word() for _ in range(14)) + "."
    return rows


def base_of(folder: Path, attention_dropout: bool, seed: int = 0) -> Path:
    """Return the folder of a base model; it is made at the first call."""
    path = folder / f"base-{int(attention_dropout)}-{seed}"
    if not (path / "model.safetensors").is_file():
        tokenizer = make_tokenizer()
        model = make_llama(tokenizer, seed)
        model.config.attention_dropout = 0.2 if attention_dropout else 0.0
        tokenizer.save_pretrained(path)
        model.save_pretrained(path)
    return path


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def commit(model: Path, path: Path, age: timedelta = timedelta()) -> Path:
    """Commit to a training, as of some time ago."""
    commitment = TrainingCommitment.of(model)
    created = (datetime.now(UTC) - age).isoformat(timespec="seconds")
    commitment.model_copy(update={"created": created}).save(path)
    return path


def build(setting: Setting, folder: Path, bases: Path, draw: random.Random, late: bool = False) -> World:
    """Train, commit and delete.

    Args:
        setting: how.
        folder: a new folder.
        bases: where the base models are kept.
        draw: chooses records.
        late: delete one record of the middle of the training, so that states stay before it.
    """
    rows, base = make_rows(draw, setting.long), base_of(bases, setting.attention_dropout)
    with threads(setting.threads):
        before, commitment = trained(setting, base, rows, folder), None
        gone = [_in_the_middle(before, rows)] if late else draw.sample(rows, setting.gone)
        if setting.committed and setting.method != "retrain":
            commitment = commit(before, folder / "commitment.json")
        if setting.method == "two deletions in a row":
            first, rest = gone[:1], [row for row in rows if row is not gone[0]]
            forget(before, Rollback(), forget_set=first, data=rows, base=base, output_dir=folder / "first")
            before, rows, gone = folder / "first", rest, [draw.choice(rest)]
            commitment = commit(before, folder / "second.json") if setting.committed else None
        method: Any = {"sisa": SISA(), "retrain": Retrain()}.get(setting.method, Rollback())
        options = setting.options if setting.method == "retrain" else None
        forget(before, method, forget_set=gone, data=rows, base=base, output_dir=folder / "after", options=options)
    return World(setting, base, rows, gone, None if setting.method == "retrain" else before, folder / "after", commitment)


def _in_the_middle(before: Path, rows: list[Row]) -> Row:
    """Return a record of the microbatch in the middle of a training."""
    log = TrainingLog.read(before / LOG_NAME)
    return by_name(rows)[log.records[log.microbatches[len(log.microbatches) // 2].records[0]]]


def trained(setting: Setting, base: Path, rows: list[Row], folder: Path) -> Path:
    """Train the model before the deletion."""
    if setting.method == "sisa":
        plan = ShardPlan(2, 2, "average", setting.options)
        return finetune_shards(base, rows, output_dir=folder / "before", plan=plan).model_dir
    return finetune(base, rows, output_dir=folder / "before", options=setting.options).model_dir
