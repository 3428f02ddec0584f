"""The whole house on invented people: train, forget five ways, audit every result, one table.

Nothing in here is prepared: every number of the table is measured in this run. The independent retraining is the check on the
whole: the audit must certify it, and must accuse the untouched model.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.demo.people import base_corpus, generate_people, record_texts, split_people, train_tokenizer
from unlearn.options import TrainingOptions
from verify.console import progress_bar, quiet_libraries
from verify.evidence import Evidence
from verify.files import new_output, write_json, write_manifest, write_text

SUBJECTS = 200
RECORDS_PER_SUBJECT = 4
BASE_RECORDS = 20_000
VOCABULARY = 1024
REFERENCES = 4
WORKERS = 2

MODEL_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
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
METHODS: dict[str, tuple[dict[str, Any], TrainingOptions]] = {
    "gradient_ascent": ({}, TrainingOptions(learning_rate=5e-4, epochs=20, batch_size=32)),
    "grad_diff": ({"gamma": 0.2}, TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16)),
    "npo": ({"alpha": 3.0}, TrainingOptions(learning_rate=3e-3, epochs=20, batch_size=16)),
    "task_vector": ({}, TrainingOptions(learning_rate=1e-3, epochs=5, batch_size=16)),
    "retrain": ({}, TrainingOptions()),
}
"""Parameters and training options of each method: found on this model by a few trials, since published ones are for billions."""

UNTOUCHED = "none (untouched)"


@dataclass(frozen=True)
class Job:
    """One independent run. Its arguments are paths and numbers, never records."""

    label: str
    weight: float
    run: Callable[..., Any]
    arguments: dict[str, Any]


def run_demo(output: Path, seed: int = 0) -> int:
    """Run everything below `output`, print the table, return the exit status.

    Raises:
        InputError: `output` already holds something.
    """
    new_output(output)
    with progress_bar("inventing people") as progress:
        entries = _run(output, seed, progress)
    from verify.report.html import render_comparison
    from verify.report.text import comparison

    write_text(output / "report.html", render_comparison(entries))
    write_manifest(output, "demo", {"seed": seed, "verdicts": {name: evidence.verdict for name, evidence, _ in entries}})
    print(comparison(entries))  # noqa: T201
    print(f"\nreport: {output / 'report.html'}\nevery audit: {output / 'audits'}")  # noqa: T201
    return 0


Entries = list[tuple[str, Evidence, float | None]]


def _run(output: Path, seed: int, progress: Callable[[str, float], None]) -> Entries:
    """The three stages: data and base model, all trainings, all audits."""
    _write_data(output, seed)
    base = Job("training the base model", 12, _finetune, _base_arguments(output, seed))
    original = Job("fine-tuning on all people", 10, _finetune, _finetune_arguments(output, "original", "train", seed + 1))
    references = [
        Job(
            f"retraining reference {number}",
            9,
            _finetune,
            _finetune_arguments(output, f"reference{number}", "retain", seed + 10 + number),
        )
        for number in range(1, REFERENCES + 1)
    ]
    methods = [
        Job(f"forgetting by {name}", 9 if name == "retrain" else 3, _forget, _forget_arguments(output, name, seed))
        for name in METHODS
    ]
    audited = [UNTOUCHED, *METHODS]
    audits = [Job(f"auditing {name}", 3, _audit, _audit_arguments(output, name, seed)) for name in audited]
    stages = [[base], [original, *references], methods, audits[:1], audits[1:]]
    total = sum(job.weight for stage in stages for job in stage)
    done, results = 0.0, {}
    for stage in stages:
        for job, result in _in_parallel(stage, lambda label, done=done: progress(label, done / total)):  # type: ignore[misc]
            results[job.label] = result
            done += job.weight
            progress(job.label, done / total)
    retraining = results["forgetting by retrain"]
    return [
        (
            name,
            Evidence.load(output / "audits" / _folder(name) / "evidence.json"),
            None if name == UNTOUCHED else results[f"forgetting by {name}"] / retraining,
        )
        for name in audited
    ]


def _in_parallel(jobs: Sequence[Job], announce: Callable[[str], None]) -> Iterator[tuple[Job, Any]]:
    """Run independent jobs side by side, one thread each, and yield them as they end."""
    from joblib import Parallel, delayed

    announce(", ".join(job.label for job in jobs[:WORKERS]))
    parallel = Parallel(n_jobs=min(WORKERS, len(jobs)), return_as="generator_unordered")
    tasks = (delayed(_numbered)(number, job.run, job.arguments) for number, job in enumerate(jobs))
    for number, result in parallel(tasks):
        yield jobs[number], result


def _numbered(number: int, run: Callable[..., Any], arguments: dict[str, Any]) -> tuple[int, Any]:
    import torch

    quiet_libraries()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    return number, run(**arguments)


def _write_data(output: Path, seed: int) -> None:
    """People, their roles, the base corpus, the tokenizer and the base model's configuration."""
    split = split_people(generate_people(SUBJECTS, RECORDS_PER_SUBJECT, seed), seed=seed)
    corpus = base_corpus(BASE_RECORDS, seed)
    files = {
        "forget": split.forget,
        "retain": split.retain,
        "holdout": split.holdout,
        "train": [*split.retain, *split.forget],
        "base": corpus,
    }
    for name, records in files.items():
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        write_text(output / "data" / f"{name}.jsonl", "\n".join(lines) + "\n", mode=0o600)
    tokenizer = train_tokenizer(record_texts(corpus), VOCABULARY)
    tokenizer.save_pretrained(str(output / "tokenizer"))
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    write_json(output / "config.json", {**MODEL_CONFIG, "vocab_size": len(tokenizer), **ids})


def _base_arguments(output: Path, seed: int) -> dict[str, Any]:
    return {
        "model": output / "config.json",
        "data": output / "data" / "base.jsonl",
        "output": output / "models" / "base",
        "tokenizer": output / "tokenizer",
        "options": dataclasses.replace(BASE_OPTIONS, seed=seed),
    }


def _finetune_arguments(output: Path, name: str, data: str, seed: int) -> dict[str, Any]:
    return {
        "model": output / "models" / "base",
        "data": output / "data" / f"{data}.jsonl",
        "output": output / "models" / name,
        "tokenizer": None,
        "options": dataclasses.replace(FINETUNE_OPTIONS, seed=seed),
    }


def _finetune(model: Path, data: Path, output: Path, tokenizer: Path | None, options: TrainingOptions) -> float:
    from unlearn.finetuning import finetune

    result = finetune(
        str(model), str(data), output_dir=output, tokenizer=None if tokenizer is None else str(tokenizer), options=options
    )
    return result.result.seconds


def _forget_arguments(output: Path, name: str, seed: int) -> dict[str, Any]:
    return {"output": output, "name": name, "options": dataclasses.replace(METHODS[name][1], seed=seed + 100)}


def _forget(output: Path, name: str, options: TrainingOptions) -> float:
    from unlearn.forgetting import forget
    from unlearn.methods import method_classes

    result = forget(
        str(output / "models" / "original"),
        method_classes()[name](**METHODS[name][0]),
        forget_set=str(output / "data" / "forget.jsonl"),
        retain_set=str(output / "data" / "retain.jsonl"),
        holdout_set=str(output / "data" / "holdout.jsonl"),
        base=str(output / "models" / "base"),
        output_dir=output / "models" / name,
        options=options,
    )
    return result.seconds


def _folder(name: str) -> str:
    return "untouched" if name == UNTOUCHED else name


def _audit_arguments(output: Path, name: str, seed: int) -> dict[str, Any]:
    return {"output": output, "model": "original" if name == UNTOUCHED else name, "name": _folder(name), "seed": seed}


def _audit(output: Path, model: str, name: str, seed: int) -> None:
    from verify import Settings, audit

    models = output / "models"
    audit(
        str(models / model),
        str(models / "original"),
        base=str(models / "base"),
        references=[str(models / f"reference{number}") for number in range(1, REFERENCES + 1)],
        forget_set=str(output / "data" / "forget.jsonl"),
        retain_set=str(output / "data" / "retain.jsonl"),
        holdout_set=str(output / "data" / "holdout.jsonl"),
        output_dir=output / "audits" / name,
        settings=Settings(seed=seed),
        cache_dir=output / "cache",
    )
