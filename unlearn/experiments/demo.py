"""Demo of both packages on fictitious people: train, unlearn by six methods, audit every result, print one table.

Nothing is precomputed: every number in the table is measured in this run. The independent retraining checks the whole: the audit
must not accuse it in any way of asking, and must accuse the untouched model. At the end one person is deleted exactly, in two ways,
and both deletions are executed again.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unlearn.experiments.comparison import Experiment, Methods
from unlearn.experiments.one_person import OnePerson, ProvedDeletion
from unlearn.experiments.people import (
    base_corpus,
    generate_people,
    other_wordings,
    record_texts,
    split_people,
    train_tokenizer,
)
from unlearn.training.options import TrainingOptions
from verify.io.files import new_output, write_json, write_text
from verify.schema.evidence import Entry

TRAINED, FORGOTTEN, HELD_OUT = 180, 20, 80
"""Numbers of people: trained on; to be forgotten (some of these); never trained on (half for the methods, half for the audits)."""
RECORDS_PER_SUBJECT = 4
BASE_RECORDS = 20_000
VOCABULARY = 1024

MODEL_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "dtype": "float32",
}
BASE_OPTIONS = TrainingOptions(
    learning_rate=5e-3, epochs=1, batch_size=32, scheduler="linear", warmup_ratio=0.05, weight_decay=0.1, logging_steps=100
)
FINETUNE_OPTIONS = TrainingOptions(
    learning_rate=6e-3, epochs=24, batch_size=16, scheduler="linear", warmup_ratio=0.1, weight_decay=0.1, logging_steps=100
)
METHODS: Methods = {
    "gradient_ascent": ({}, TrainingOptions(learning_rate=5e-4, epochs=20, batch_size=32)),
    "grad_diff": ({"gamma": 0.2}, TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16)),
    "npo": ({"alpha": 3.0}, TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16)),
    "task_vector": ({}, TrainingOptions(learning_rate=1e-3, epochs=5, batch_size=16)),
    "level": ({}, TrainingOptions()),
    "retrain": ({}, TrainingOptions()),
}
"""Parameters and training options per method, tuned by a few trials: published values are for models of a billion weights."""

ONE_PASS = dataclasses.replace(FINETUNE_OPTIONS, epochs=1, save_steps=5)
"""Training of the models that one person is deleted from."""
SHARDS = 16

BASE_SHARE, PROOF_SHARE = 0.2, 0.05
"""Shares of the total time spent on data and base model, and on the one person, for the progress bar."""


def run_demo(output: Path, seed: int, progress: Callable[[str, float], None]) -> tuple[list[Entry], list[ProvedDeletion]]:
    """Create data and base model in `output`, run the experiment there, and delete one person exactly.

    Returns:
        (method, evidence, cost relative to a retraining), the untouched model first; and one person's proved deletions.

    Raises:
        InputError: `output` already holds something.
    """
    from unlearn.finetuning import finetune

    new_output(output)
    write_data(output, seed)
    progress("training the base model", 0.02)
    base = finetune(
        str(output / "config.json"),
        str(output / "data" / "base.jsonl"),
        output_dir=output / "models" / "base",
        tokenizer=str(output / "tokenizer"),
        options=dataclasses.replace(BASE_OPTIONS, seed=seed),
    )
    experiment = Experiment(output, base.model_dir, output / "data", FINETUNE_OPTIONS, METHODS, seed=seed)
    scale = 1 - BASE_SHARE - PROOF_SHARE
    entries = experiment.run(lambda phase, share: progress(phase, BASE_SHARE + scale * share))
    person = OnePerson(output, base.model_dir, output / "data", dataclasses.replace(ONE_PASS, seed=seed + 2), SHARDS)
    return entries, person.run(lambda phase: progress(phase, 1 - PROOF_SHARE))


def write_data(
    output: Path,
    seed: int,
    *,
    trained: int = TRAINED,
    forgotten: int = FORGOTTEN,
    held_out: int = HELD_OUT,
    base_records: int = BASE_RECORDS,
) -> None:
    """Write people by role, their records in other words, the base corpus, the tokenizer and the base model's configuration."""
    count = trained + held_out
    people = generate_people(count, RECORDS_PER_SUBJECT, seed)
    split = split_people(people, forgotten / count, held_out / count, seed=seed)
    corpus = base_corpus(base_records, seed)
    files = {
        "forget": split.forget,
        "retain": split.retain,
        "holdout": split.holdout,
        "train": [*split.retain, *split.forget],
        "base": corpus,
        "rewordings": other_wordings(count, RECORDS_PER_SUBJECT, seed),
    }
    for name, records in files.items():
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        write_text(output / "data" / f"{name}.jsonl", "\n".join(lines) + "\n", mode=0o600)
    tokenizer = train_tokenizer(record_texts(corpus), VOCABULARY)
    tokenizer.save_pretrained(str(output / "tokenizer"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(output / "config.json", {**MODEL_CONFIG, "vocab_size": len(tokenizer), **ids})
