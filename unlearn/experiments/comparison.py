"""Comparison of unlearning methods on one fine-tuned model, under one audit; the demo and the benchmarks are built on it.

From a base model: fine-tune on everything, retrain reference models without the forget set, unlearn by each method, audit each
result and the untouched model against the same references. The never-trained records are split by subject: the methods calibrate
and select on one half, the audits compare with the other. Everything is in one folder; jobs run in parallel, each as soon as what
it reads is there. An interrupted run resumes: a result that is complete by its manifest and was made with the same parameters,
options and records is reused. Time and peak memory of every job are kept in `usage.json`.

`sisa` needs a model that was trained in shards, so that one is trained beside the original. Its result is audited against the
references of the original all the same: what counts is what a model shows that was never trained on the records.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn.experiments.usage import Usage, UsageFile, measured
from unlearn.finetuning import recipe_of
from unlearn.training.options import TrainingOptions
from unlearn.training.shards import ShardPlan
from verify.data.identity import RecordKey
from verify.data.records import Fields
from verify.data.sources import load_records, stream_rows
from verify.errors import InputError
from verify.io.files import MANIFEST, file_digest, read_json, verify_manifest
from verify.io.jobs import Job, run_jobs
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.holdout import FOR_AUDIT, FOR_METHOD, split_holdout_file
from verify.provenance.shard_plan import SHARDS
from verify.schema.evidence import Entry, Evidence
from verify.schema.settings import Settings

UNTOUCHED = "none (untouched)"
SHARDED = "sharded"
"""Folder of the model that `sisa` unlearns from."""
BASE = "the base"
"""Name of the base among the models to score; it has no folder in the experiment."""

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
        save_steps: steps between the original's checkpoints, for `rollback`; 0 keeps none.
        shards: how the model that `sisa` unlearns from is trained; None without that method.
        settings: settings of the audits; seed and treatment of long records are set here.
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
    save_steps: int = 0
    shards: ShardPlan | None = None
    settings: Settings = field(default_factory=Settings)

    def run(
        self, progress: Callable[[str, float], None], beside: Sequence[Job] = (), found: dict[str, Any] | None = None
    ) -> list[Entry]:
        """Run all jobs and return their outcome.

        Args:
            progress: called with what is done and the share of the work.
            beside: further jobs, which wait for jobs of the experiment; heavy ones begin before the models are scored, those
                lighter than an audit at the end. A job returns False where its result was there.
            found: takes the results of `beside`, by label.

        Returns:
            (method, evidence, cost relative to retraining), the untouched model first.
        """
        split_holdout_file(self.data / "holdout.jsonl", self.output / "holdout", self.fields, self.seed)
        audits = [self._audit(name) for name in (UNTOUCHED, *self.methods)]
        # Jobs start in this order as they become ready: long ones that others wait for come first, so that no core idles later.
        first, later = self._fine_tunes()
        trainings = [*first, *sorted([*later, *self._unlearnings(), self._scoring(BASE)], key=lambda job: -job.weight)]
        heavy = [job for job in beside if job.weight >= audits[0].weight]
        light = [job for job in beside if job not in heavy]
        jobs = [*trainings, *heavy, *(self._scoring(name) for name in self._models()), *audits, *light]
        made, used = self._run_jobs(jobs, progress)
        if found is not None:
            found |= {job.label: made[job.label] for job in beside}
        retraining = used.get("forgetting by retrain")
        return [
            (
                name,
                Evidence.load(self.audit_dir(name) / "evidence.json"),
                one.seconds / retraining.seconds if (one := used.get(f"forgetting by {name}")) and retraining else None,
            )
            for name in (UNTOUCHED, *self.methods)
        ]

    def _run_jobs(
        self, jobs: Sequence[Job], progress: Callable[[str, float], None]
    ) -> tuple[Mapping[str, Any], Mapping[str, Usage]]:
        """Run jobs; return their results and usage by label, for a resumed job the usage of its first run."""
        usage = UsageFile(self.output)
        total, results = sum(job.weight for job in jobs), dict[str, Any]()
        done = 0.0
        began, reused = time.monotonic(), 0.0
        progress(jobs[0].label, 0.0)
        wrapped = [replace(job, run=measured, arguments={"run": job.run, "arguments": job.arguments}) for job in jobs]
        for job, (made, used) in run_jobs(wrapped):
            done += job.weight
            reused += job.weight * (made is False or job.label in usage.stages)
            results[job.label] = made
            if made is not False:  # else the time of the look-up would be recorded as that of a training
                usage.add(job.label, used)
            worked = done - reused
            left = (time.monotonic() - began) * (total - done) / worked if worked else None
            progress(job.label if left is None else f"{job.label}, {_duration(left)} left", done / total)
        return results, usage.stages

    def _fine_tunes(self) -> tuple[list[Job], list[Job]]:
        """Return the two fine-tunings to start first, one for each core, and the others; methods wait for the first ones."""
        runs = {"original": ("train", self.seed + 1)}
        runs |= {f"reference{number}": ("retain", self.seed + 10 + number) for number in range(1, self.references + 1)}
        jobs = [
            Job(making(name), self.weights[0], _finetune, self._finetune_arguments(name, data, seed))
            for name, (data, seed) in runs.items()
        ]
        if self.shards is not None:
            jobs.insert(1, Job(making(SHARDED), self.weights[0], _finetune_shards, {"experiment": replace(self, methods={})}))
        return jobs[:2], jobs[2:]

    def _finetune_arguments(self, name: str, data: str, seed: int) -> dict[str, Any]:
        return {
            "model": self.base,
            "data": self.data / f"{data}.jsonl",
            "output": self.output / "models" / name,
            "fields": self.fields,
            "options": replace(self.options, seed=seed, save_steps=self.save_steps if name == "original" else 0),
        }

    def _unlearnings(self) -> list[Job]:
        return [
            Job(
                making(name),
                self.weights[0 if name in ("retrain", "rollback") else 1],
                _forget,
                {
                    "experiment": replace(self, methods={}),
                    "name": name,
                    "parameters": parameters,
                    "options": replace(
                        options, seed=self.seed + 100, overflow=self.options.overflow, bf16=options.bf16 or self.options.bf16
                    ),
                },
                frozenset({making(SHARDED if name == "sisa" else "original")}),
            )
            for name, (parameters, options) in self.methods.items()
        ]

    def _models(self) -> list[str]:
        """Return the folders of the models that the audits score, those that take longest first: an ensemble runs every member."""
        names = ["original", *self._references, *self.methods]
        return sorted(names, key=lambda name: name != "sisa")

    @property
    def _references(self) -> list[str]:
        return [f"reference{number}" for number in range(1, self.references + 1)]

    def _scoring(self, name: str) -> Job:
        """Return the job that scores one model for the cache, from which all audits read its numbers; the base is scored first."""
        after = set() if name == BASE else {scoring(BASE), making("original"), making(name)}
        about = {"experiment": replace(self, methods={}), "name": name}
        return Job(scoring(name), self.weights[2], _score, about, frozenset(after))

    def _audit(self, name: str) -> Job:
        """Return the job that audits one model, once it and what it is compared with are scored."""
        read = ["original", *self._references, *([] if name == UNTOUCHED else [name])]
        about = {"experiment": replace(self, methods={}), "name": name}
        return Job(f"auditing {name}", self.weights[2] / 3, audit_result, about, frozenset(map(scoring, read)))

    def holdout(self, name: str) -> Path | None:
        """Return one half of the never-trained records, or None for the methods' half where there are too few to split."""
        path = self.output / "holdout" / name
        return path if path.exists() else None

    def audit_dir(self, name: str) -> Path:
        """Return the folder of a method's audit."""
        return self.output / "audits" / ("untouched" if name == UNTOUCHED else name)


def making(name: str) -> str:
    """Return the label of the job that makes a model of an experiment's folder."""
    if name == SHARDED:
        return "fine-tuning in shards"
    return f"fine-tuning {name}" if name == "original" or name.startswith("reference") else f"forgetting by {name}"


def scoring(name: str) -> str:
    """Return the label of the job that scores a model."""
    return f"scoring {name}"


def _finetune(model: Path, data: Path, output: Path, fields: Fields, options: TrainingOptions) -> bool:
    """Fine-tune a model, and return whether that was still to be done."""
    from unlearn.finetuning import finetune

    missing = not _is_done(output, {"data": data}, options=asdict(options))
    if missing:
        finetune(str(model), str(data), output_dir=output, fields=fields, options=options)
    if options.save_steps:
        _commit(output)
    return missing


def _commit(model: Path) -> None:
    """Commit to a finished training, before anything is deleted from it, so that its deletions can be executed again."""
    path = commitment_of(model)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        TrainingCommitment.of(model).save(path)


def commitment_of(model: Path) -> Path:
    """Return the file that commits to the training of a model of an experiment."""
    return model.parents[1] / "commitments" / f"{model.name}.json"


def _finetune_shards(experiment: Experiment) -> bool:
    """Train the model that `sisa` unlearns from, and return whether there was none of the same plan and records."""
    from unlearn.training.shards import finetune_shards

    folder, data, plan = experiment.output / "models" / SHARDED, experiment.data / "train.jsonl", experiment.shards
    assert plan is not None, "this job is made for a plan"
    missing = not (folder / MANIFEST).exists()
    if missing:
        finetune_shards(str(experiment.base), str(data), output_dir=folder, plan=plan, fields=experiment.fields)
    else:
        about = verify_manifest(folder, "model")["about"]
        key = RecordKey.load()
        records = {key.of(record.fingerprint) for record in load_records(str(data), experiment.fields)}
        wanted = json.loads(json.dumps({**asdict(plan), "options": asdict(plan.options)}))
        if any(about.get(name) != value for name, value in wanted.items()) or records != set(read_json(folder / SHARDS)["records"]):
            raise InputError(f"{folder} holds a run with another plan or records. Remove the folder, or name another output.")
    _commit(folder)
    return missing


def _forget(experiment: Experiment, name: str, parameters: dict[str, Any], options: TrainingOptions) -> bool:
    """Unlearn by one method, and return whether that was still to be done."""
    from unlearn.forgetting import fill_in, forget
    from unlearn.methods import method_classes

    models = experiment.output / "models"
    before = models / (SHARDED if name == "sisa" else "original")
    method, recipe = method_classes()[name](**parameters), recipe_of(before)
    sets = {role: experiment.data / f"{role}.jsonl" for role in ("forget", "retain")}
    if (holdout := experiment.holdout(FOR_METHOD)) is not None:
        sets["holdout"] = holdout
    if _is_done(
        models / name,
        sets,
        method=name,
        parameters=asdict(method),
        options=asdict(fill_in(options, method, recipe)),
        weights_before=_weights(before),
    ):
        return False
    forget(
        str(before),
        method,
        forget_set=str(sets["forget"]),
        retain_set=str(sets["retain"]),
        holdout_set=None if holdout is None else str(holdout),
        base=str(experiment.base),
        output_dir=models / name,
        fields=experiment.fields,
        options=options,
    )
    return True


def audit_result(experiment: Experiment, name: str) -> None:
    """Audit a model of the experiment's folder against its references, unless that is done.

    Args:
        experiment: with the references trained.
        name: a method, any other folder of `models`, or `UNTOUCHED`.

    Raises:
        InputError: the audit that is there is of another model.
    """
    from verify import audit

    models = experiment.output / "models"
    target, folder = models / ("original" if name == UNTOUCHED else name), experiment.audit_dir(name)
    if (folder / MANIFEST).exists():
        verify_manifest(folder, "audit")
        audited = next(model for model in Evidence.load(folder / "evidence.json").models if model.role == "target")
        if audited.weights != _weights(target):
            raise InputError(f"{folder} is the audit of another model. Remove the folder, or name another output.")
        return
    references = [str(models / f"reference{number}") for number in range(1, experiment.references + 1)]
    audit(str(target), str(models / "original"), references=references, output_dir=folder, **_audited(experiment))


def _score(experiment: Experiment, name: str) -> None:
    """Score a model of the experiment's folder for all audits; what the cache holds is not computed again."""
    from verify import score_ahead

    models = experiment.output / "models"
    score_ahead(
        None if name == BASE else str(models / name),
        str(models / "original"),
        references=experiment.references,
        **_audited(experiment),
    )


def _audited(experiment: Experiment) -> dict[str, Any]:
    """Return what all audits of an experiment are given."""
    data, options = experiment.data, experiment.options
    return {
        "base": str(experiment.base),
        "forget_set": str(data / "forget.jsonl"),
        "retain_set": str(data / "retain.jsonl"),
        "holdout_set": str(experiment.holdout(FOR_AUDIT)),
        "fields": experiment.fields,
        "settings": experiment.settings.model_copy(update={"seed": experiment.seed, "overflow": options.overflow}),
        "rewordings": _rewordings(experiment),
        "cache_dir": experiment.output / "cache",
    }


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


def _is_done(folder: Path, sets: Mapping[str, Path], **about: Any) -> bool:
    """Return whether a folder holds the finished result of a training with these sets and settings.

    Args:
        folder: the folder of its result.
        sets: role -> file it must have been made from.
        about: further entries that its manifest must have.

    Raises:
        InputError: the folder contains a run with other options, parameters, weights or records.
        IntegrityError: the folder does not match its manifest.
    """
    if not (folder / MANIFEST).exists():
        return False
    found = verify_manifest(folder, "model")["about"]
    wanted = json.loads(json.dumps(about))  # as read from a manifest, where tuples are lists
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if (found.get("inputs") or {}).get("digests") != {role: file_digest(path) for role, path in sets.items()}:
        other.append("records")
    if other:
        raise InputError(
            f"{folder} holds a run with other {' and '.join(other)}. Remove the folder and its audit, or name another output."
        )
    return True


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def _weights(folder: Path) -> str:
    return str(verify_manifest(folder, "model")["about"]["weights"])
