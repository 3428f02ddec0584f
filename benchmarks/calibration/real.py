"""Real audits by rule 1: small models fine-tuned on fictitious people, with known ground truth because this script trained them.

Honest retrainings, retrainings that kept a fifth of the forget set, and models that over-forgot it; all judged against the same
references. An interrupted run resumes: a model whose manifest verifies is not trained again.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration.rules import Readings, read
from unlearn import GradDiff
from unlearn.experiments.demo import BASE_OPTIONS, FINETUNE_OPTIONS, write_data
from unlearn.training.options import TrainingOptions
from verify.io.files import is_complete, write_text
from verify.io.jobs import WORKERS, Job, run_jobs
from verify.scores.table import ScoreTable

REFERENCES = 4
KEPT_SHARE = 0.2
OVER_FORGETTING = (GradDiff(gamma=0.1), TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=16))
"""A short ascent after an honest retraining: forget records become less probable than if they had never been seen."""

TRUTHS = ("honest retraining", "20 % kept", "over-forgotten")


@dataclass(frozen=True)
class RealAudit:
    """One audit of a model with known ground truth."""

    truth: str
    number: int
    verdict: str
    residual: float
    accused: int
    records: int
    forget_quality: bool
    plain_auc: bool


def audit_real(
    folder: Path,
    per_truth: int,
    progress: Callable[[str, float], None],
    seed: int = 0,
    *,
    sizes: Mapping[str, int] | None = None,
    workers: int = WORKERS,
) -> Iterator[RealAudit]:
    """Train missing models, audit every model, and yield the outcomes.

    Args:
        folder: holds data, models and audits.
        per_truth: number of models of each kind.
        progress: progress callback (label, fraction done).
        seed: of the data and the base model.
        sizes: numbers of people and base records that differ from the demo's, by the names of `write_data`.
        workers: number of processes.
    """
    train_base(folder, seed, sizes)
    trainings = [("original", "train", 1), *((f"reference{n}", "retain", 10 + n) for n in range(1, REFERENCES + 1))]
    trainings += [(f"honest{n}", "retain", 100 + n) for n in range(per_truth)]
    for n in range(per_truth):
        write_kept(folder, n)
        trainings.append((f"kept{n}", f"kept{n}", 200 + n))
    over = [Job(f"over-forgetting {n}", 1, _over_forget, {"folder": folder, "number": n}) for n in range(per_truth)]
    train = [
        Job(f"training {name}", 5, _train, {"folder": folder, "name": name, "data": data, "seed": own})
        for name, data, own in trainings
    ]
    names = [(truth, prefix, n) for truth, prefix in zip(TRUTHS, ("honest", "kept", "over"), strict=True) for n in range(per_truth)]
    audits = [Job(f"auditing {prefix}{n}", 1, _audit, {"folder": folder, "name": f"{prefix}{n}"}) for _, prefix, n in names]
    stages = [train, over, audits[:1], audits[1:]]
    total, done = sum(job.weight for stage in stages for job in stage), 0.0
    for stage in stages:
        for job, _ in run_jobs(stage, workers):
            done += job.weight
            progress(job.label, done / total)
    for truth, prefix, number in names:
        yield _outcome(folder / "audits" / f"{prefix}{number}", truth, number)


def train_base(folder: Path, seed: int, sizes: Mapping[str, int] | None = None) -> None:
    """Write the demo's data and train its base model, unless that is done."""
    from unlearn.finetuning import finetune

    if is_complete(folder / "models" / "base"):
        return
    write_data(folder, seed, **(sizes or {}))
    finetune(
        str(folder / "config.json"),
        str(folder / "data" / "base.jsonl"),
        output_dir=folder / "models" / "base",
        tokenizer=str(folder / "tokenizer"),
        options=replace(BASE_OPTIONS, seed=seed),
    )


def write_kept(folder: Path, number: int) -> None:
    """Write the retain set with a fifth of the forget records, drawn with the model's number."""
    forget, retain = ((folder / "data" / f"{name}.jsonl").read_text().splitlines() for name in ("forget", "retain"))
    chosen = np.random.default_rng([number, 7]).permutation(len(forget))[: round(KEPT_SHARE * len(forget))]
    write_text(folder / "data" / f"kept{number}.jsonl", "\n".join([*retain, *(forget[index] for index in chosen)]) + "\n")


def _train(folder: Path, name: str, data: str, seed: int) -> None:
    from unlearn.finetuning import finetune

    if not is_complete(folder / "models" / name):
        finetune(
            str(folder / "models" / "base"),
            str(folder / "data" / f"{data}.jsonl"),
            output_dir=folder / "models" / name,
            options=replace(FINETUNE_OPTIONS, seed=seed),
        )


def _over_forget(folder: Path, number: int) -> None:
    from unlearn.training.run import Run, run_objective
    from unlearn.training.saving import save_model
    from verify.data.sources import load_records
    from verify.models.loading import load_model

    output = folder / "models" / f"over{number}"
    if is_complete(output):
        return
    loaded = load_model(str(folder / "models" / f"honest{number}"))
    forget, retain = (load_records(str(folder / "data" / f"{name}.jsonl")) for name in ("forget", "retain"))
    objective, options = OVER_FORGETTING
    run = Run(forget, replace(options, seed=number), output / "work", retain=retain)
    trained = run_objective(loaded, objective, run)
    save_model(trained.model, loaded.tokenizer, output, {"over_forgotten": number})


def _audit(folder: Path, name: str) -> None:
    from verify import Settings, audit

    output = folder / "audits" / name
    if is_complete(output, "audit"):
        return
    models, data = folder / "models", folder / "data"
    sets: dict[str, Any] = {f"{role}_set": str(data / f"{role}.jsonl") for role in ("forget", "retain", "holdout")}
    audit(
        str(models / name),
        str(models / "original"),
        references=[str(models / f"reference{number}") for number in range(1, REFERENCES + 1)],
        output_dir=output,
        settings=Settings(rule=1, attacks=("loss",)),
        cache_dir=folder / "cache",
        **sets,
    )


def _outcome(folder: Path, truth: str, number: int) -> RealAudit:
    evidence = json.loads((folder / "evidence.json").read_text())
    other = read_others(folder)
    residual = evidence["residual"]["value"] if evidence["residual"] else float("nan")
    count = len(ScoreTable.load(folder / "scores.parquet").loss("target", "forget"))
    return RealAudit(
        truth, number, evidence["verdict"], residual, len(evidence["accused"]), count, other.forget_quality, other.plain_auc
    )


def read_others(folder: Path) -> Readings:
    """Return what rule 1 and the rules of other authors say of the losses in an audit's folder."""
    table = ScoreTable.load(folder / "scores.parquet")
    references = table.losses([model for model in table.models() if model.startswith("reference")], "forget")
    return read(table.loss("original", "forget"), table.loss("target", "forget"), references, table.loss("target", "holdout"))
