"""Comparison of unlearning methods on one fine-tuned model, under one audit; the demo and the benchmarks are built on it.

From a base model: fine-tune on everything, retrain reference models without the forget set, unlearn by each method, audit each
result and the untouched model against the same references. The never-trained records are split by subject: the methods calibrate
and select on one half, the audits compare with the other. Everything is in one folder; the jobs of a stage run in parallel. An
interrupted run resumes: a result that is complete by its manifest and was made with the same parameters, options and records is
reused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn.experiments.jobs import Job, run_jobs
from unlearn.finetuning import recipe_of
from unlearn.training.options import TrainingOptions
from verify.data.records import Fields
from verify.data.sources import load_records, stream_rows
from verify.errors import InputError
from verify.io.files import MANIFEST, file_digest, verify_manifest
from verify.provenance.holdout import FOR_AUDIT, FOR_METHOD, split_holdout_file
from verify.schema.evidence import Entry, Evidence

UNTOUCHED = "none (untouched)"

Methods = Mapping[str, tuple[dict[str, Any], TrainingOptions]]
"""Method name -> (parameters, training options)."""


@dataclass(frozen=True)
class Experiment:
    """Models, data and methods of a comparison.

    Attributes:
        output: folder for models, audits and caches.
        base: folder of the model that everything starts from.
        data: folder with train, forget, retain and holdout as `.jsonl`; the audits also ask in the words of `rewordings.jsonl`, if
            it is there.
        options: training options of the original and of the references.
        methods: methods to compare; costs are relative to "retrain", if it is among them.
        references: number of retrained reference models.
        fields: names of the columns.
        seed: seed of the original; those of references and methods are derived from it.
        weights: expected work of a fine-tune, a method and an audit, for the progress bar.
    """

    output: Path
    base: Path
    data: Path
    options: TrainingOptions
    methods: Methods
    references: int = 4
    fields: Fields = field(default_factory=Fields)
    seed: int = 0
    weights: tuple[float, float, float] = (10, 3, 3)

    def run(self, progress: Callable[[str, float], None]) -> list[Entry]:
        """Run all stages; return (method, evidence, cost relative to retraining), the untouched model first."""
        split_holdout_file(self.data / "holdout.jsonl", self.output / "holdout", self.fields, self.seed)
        stages = [self._fine_tunes(), self._unlearnings(), *self._audits()]
        total = sum(job.weight for stage in stages for job in stage)
        done, seconds = 0.0, {}
        for stage in stages:
            progress(stage[0].label, done / total)
            for job, result in run_jobs(stage):
                seconds[job.label] = result
                done += job.weight
                progress(job.label, done / total)
        retraining = seconds.get("forgetting by retrain")
        return [
            (
                name,
                Evidence.load(self.audit_dir(name) / "evidence.json"),
                seconds[f"forgetting by {name}"] / retraining if retraining and name != UNTOUCHED else None,
            )
            for name in (UNTOUCHED, *self.methods)
        ]

    def _fine_tunes(self) -> list[Job]:
        runs = {"original": ("train", self.seed + 1)}
        runs |= {f"reference{number}": ("retain", self.seed + 10 + number) for number in range(1, self.references + 1)}
        return [
            Job(f"fine-tuning {name}", self.weights[0], _finetune, self._finetune_arguments(name, data, seed))
            for name, (data, seed) in runs.items()
        ]

    def _finetune_arguments(self, name: str, data: str, seed: int) -> dict[str, Any]:
        return {
            "model": self.base,
            "data": self.data / f"{data}.jsonl",
            "output": self.output / "models" / name,
            "fields": self.fields,
            "options": replace(self.options, seed=seed),
        }

    def _unlearnings(self) -> list[Job]:
        return [
            Job(
                f"forgetting by {name}",
                self.weights[0 if name == "retrain" else 1],
                _forget,
                {
                    "experiment": replace(self, methods={}),
                    "name": name,
                    "parameters": parameters,
                    "options": replace(options, seed=self.seed + 100, overflow=self.options.overflow),
                },
            )
            for name, (parameters, options) in self.methods.items()
        ]

    def _audits(self) -> list[list[Job]]:
        """Return the audits in two stages: that of the untouched model fills the cache with the references' scores."""
        jobs = [
            Job(f"auditing {name}", self.weights[2], _audit, {"experiment": replace(self, methods={}), "name": name})
            for name in (UNTOUCHED, *self.methods)
        ]
        return [jobs[:1], jobs[1:]]

    def holdout(self, name: str) -> Path | None:
        """Return one half of the never-trained records, or None for the methods' half where there are too few to split."""
        path = self.output / "holdout" / name
        return path if path.exists() else None

    def audit_dir(self, name: str) -> Path:
        """Return the folder of a method's audit."""
        return self.output / "audits" / ("untouched" if name == UNTOUCHED else name)


def _finetune(model: Path, data: Path, output: Path, fields: Fields, options: TrainingOptions) -> float:
    from unlearn.finetuning import finetune

    done = _seconds(output, {"data": data}, options=asdict(options))
    if done is not None:
        return done
    return finetune(str(model), str(data), output_dir=output, fields=fields, options=options).result.seconds


def _forget(experiment: Experiment, name: str, parameters: dict[str, Any], options: TrainingOptions) -> float:
    from unlearn.forgetting import fill_in, forget
    from unlearn.methods import method_classes

    models = experiment.output / "models"
    method, recipe = method_classes()[name](**parameters), recipe_of(models / "original")
    sets = {role: experiment.data / f"{role}.jsonl" for role in ("forget", "retain")}
    if (holdout := experiment.holdout(FOR_METHOD)) is not None:
        sets["holdout"] = holdout
    done = _seconds(
        models / name,
        sets,
        method=name,
        parameters=asdict(method),
        options=asdict(fill_in(options, method, recipe)),
        weights_before=_weights(models / "original"),
    )
    if done is not None:
        return done
    result = forget(
        str(models / "original"),
        method,
        forget_set=str(sets["forget"]),
        retain_set=str(sets["retain"]),
        holdout_set=None if holdout is None else str(holdout),
        base=str(experiment.base),
        output_dir=models / name,
        fields=experiment.fields,
        options=options,
    )
    return result.seconds


def _audit(experiment: Experiment, name: str) -> None:
    from verify import Settings, audit

    models, data = experiment.output / "models", experiment.data
    target, folder = models / ("original" if name == UNTOUCHED else name), experiment.audit_dir(name)
    if (folder / MANIFEST).exists():
        verify_manifest(folder, "audit")
        audited = next(model for model in Evidence.load(folder / "evidence.json").models if model.role == "target")
        if audited.weights != _weights(target):
            raise InputError(f"{folder} is the audit of another model. Remove the folder, or name another output.")
        return
    audit(
        str(target),
        str(models / "original"),
        base=str(experiment.base),
        references=[str(models / f"reference{number}") for number in range(1, experiment.references + 1)],
        forget_set=str(data / "forget.jsonl"),
        retain_set=str(data / "retain.jsonl"),
        holdout_set=str(experiment.holdout(FOR_AUDIT)),
        fields=experiment.fields,
        output_dir=folder,
        settings=Settings(seed=experiment.seed, overflow=experiment.options.overflow),
        rewordings=_rewordings(experiment),
        cache_dir=experiment.output / "cache",
    )


def _rewordings(experiment: Experiment) -> list[Mapping[str, Any]] | None:
    """Return the rewordings of the records that the audits read; None where the data have none.

    The file has a row for every record, and a half of the never-trained records is the methods'.
    """
    path = experiment.data / "rewordings.jsonl"
    if not path.exists():
        return None
    sets = (experiment.data / "forget.jsonl", experiment.holdout(FOR_AUDIT))
    audited = {record.example_id for one in sets if one is not None for record in load_records(str(one), experiment.fields)}
    return [row for row in stream_rows(str(path)) if row["record"] in audited]


def _seconds(folder: Path, sets: Mapping[str, Path], **about: Any) -> float | None:
    """Return the seconds that a finished training took, or None if there is none yet.

    Args:
        folder: the folder of its result.
        sets: role -> file it must have been made from.
        about: further entries that its manifest must have.

    Raises:
        InputError: the folder contains a run with other options, parameters, weights or records.
        IntegrityError: the folder does not match its manifest.
    """
    if not (folder / MANIFEST).exists():
        return None
    found = verify_manifest(folder, "model")["about"]
    wanted = json.loads(json.dumps(about))  # as read from a manifest, where tuples are lists
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if (found.get("inputs") or {}).get("digests") != {role: file_digest(path) for role, path in sets.items()}:
        other.append("records")
    if other:
        raise InputError(
            f"{folder} holds a run with other {' and '.join(other)}. Remove the folder and its audit, or name another output."
        )
    return float(found["training"]["seconds"])


def _weights(folder: Path) -> str:
    return str(verify_manifest(folder, "model")["about"]["weights"])
