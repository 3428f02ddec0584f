"""Sweep over methods and settings: each run is unlearned and audited, with one table and one figure of all.

Every run has a folder named by a digest of everything its result depends on: its settings and the sweep's, the weights of the
models and the records of the sets. A run that is complete by its manifest is not repeated, so an interrupted sweep resumes and a
larger one reuses the runs of a smaller one; a sweep with other models, records or options gets folders of its own.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unlearn.training.options import TrainingOptions, require_reporter
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import MANIFEST, verify_manifest, write_json, write_text
from verify.io.jobs import Job, run_jobs
from verify.models.loading import load_model
from verify.provenance.holdout import FOR_AUDIT, FOR_METHOD, split_holdout_file
from verify.schema.evidence import Evidence

Grid = Mapping[str, Mapping[str, Sequence[Any]]]
"""Method -> name of a parameter or training option -> values."""


@dataclass(frozen=True)
class Run:
    """A setting of a method.

    Attributes:
        method: the method's name.
        parameters: parameters of the method.
        options: training options that differ from the sweep's.
        seed: seed of the training.
        made_from: digest of the inputs shared by the sweep's runs (`Sweep.digest`).
    """

    method: str
    parameters: dict[str, Any]
    options: dict[str, Any]
    seed: int
    made_from: str = ""

    @property
    def name(self) -> str:
        """Return the folder name: the method and a digest of settings and inputs."""
        content = json.dumps(asdict(self), sort_keys=True)
        return f"{self.method}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"

    def words(self) -> str:
        """Describe the settings in words."""
        chosen = {**self.parameters, **self.options, "seed": self.seed}
        return " ".join(f"{name}={value}" for name, value in chosen.items())


def _content_of(record: Record) -> str:
    """Serialize a record; fields added in later versions count only where they are set, so that older sweeps resume."""
    later = ("other_subjects", "turn_fields", "chat_fields", "special_tokens")
    return json.dumps({name: value for name, value in asdict(record).items() if value or name not in later})


@dataclass(frozen=True)
class Sweep:
    """A sweep's methods, settings and data. All sources are paths, since they cross processes.

    Attributes:
        model: the model before unlearning.
        forget, retain: paths of the sets.
        output: folder of the runs.
        grid: methods with the values to try; every combination is run.
        seeds: seeds that each combination is run with.
        base, references: as for `forget` and `audit`.
        holdout: never-trained records; split by subject, half for the methods and half for the audits.
        fields: names of the columns.
        options: training options of all runs.
        attacks: attacks of each audit.
    """

    model: str
    forget: str
    retain: str
    output: Path
    grid: Grid
    seeds: tuple[int, ...] = (0,)
    base: str | None = None
    holdout: str | None = None
    references: tuple[str, ...] = ()
    fields: Fields = field(default_factory=Fields)
    options: TrainingOptions = field(default_factory=TrainingOptions)
    attacks: tuple[str, ...] = ("quick",)

    def runs(self) -> list[Run]:
        """Return every combination of method and settings.

        Raises:
            InputError: a method, parameter or option is unknown, a value is refused, or a model or set cannot be read.
        """
        settings = list(self._settings())  # validate the whole grid before reading anything
        made_from = self.digest()
        return [dataclasses.replace(run, made_from=made_from) for run in settings]

    def digest(self) -> str:
        """Compute SHA-256 of what all runs share: model weights, records by keyed hashes, options and attacks."""
        models = {"model": self.model, "base": self.base, **{f"reference {n}": path for n, path in enumerate(self.references)}}
        sets, key = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}, RecordKey.load()
        content = {
            "models": {role: load_model(path).digest for role, path in models.items() if path is not None},
            "sets": {
                role: [key.of(_content_of(record), "sweep") for record in load_records(path, self.fields)]
                for role, path in sets.items()
                if path is not None
            },
            "options": {**asdict(self.options), "seed": None},  # each run has its own
            "attacks": self.attacks,
            # Runs of versions whose methods and audits shared these records are not resumed.
            **({} if self.holdout is None else {"holdout": "divided"}),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _settings(self) -> Iterator[Run]:
        """Yield every combination of settings, without the digest of the inputs."""
        from unlearn.methods import method_classes

        classes = method_classes()
        known = {entry.name for entry in dataclasses.fields(TrainingOptions)}
        for method, values in self.grid.items():
            if method not in classes:
                raise InputError(f"the grid names {method!r}, which is not a method. See `unlearn methods`.")
            own = {entry.name for entry in dataclasses.fields(classes[method])}
            strange = [name for name in values if name not in own | known]
            if strange:
                raise InputError(
                    f"the grid of {method} names {', '.join(strange)}: neither its parameter nor a training option. Remove it."
                )
            for chosen in itertools.product(*values.values()):
                setting = dict(zip(values, chosen, strict=True))
                parameters = {name: value for name, value in setting.items() if name in own}
                options = {name: value for name, value in setting.items() if name not in own}
                _method(classes[method], parameters)
                require_reporter(dataclasses.replace(self.options, **options))
                for seed in self.seeds:
                    yield Run(method, parameters, options, seed)

    def run(self, progress: Callable[[str, float], None], engine: str | None = None) -> list[tuple[Run, Evidence]]:
        """Run all runs that are not complete, and write `sweep.json`, `sweep.md` and `sweep.svg`."""
        runs = self.runs()
        if self.holdout is not None:
            split_holdout_file(self.holdout, self.output / "holdout", self.fields)
        jobs = [
            Job(f"{run.method} {run.words()}", 1.0, run_one, {"sweep": dataclasses.replace(self, grid={}), "run": run})
            for run in runs
        ]
        for done, (job, _) in enumerate(run_jobs(jobs, engine=engine), 1):
            progress(job.label, done / len(jobs))
        entries = [(run, Evidence.load(self.output / run.name / "audit" / "evidence.json")) for run in runs]
        write_json(
            self.output / "sweep.json", [{**asdict(run), "folder": run.name, "verdict": found.verdict} for run, found in entries]
        )
        write_text(self.output / "sweep.md", table(entries))
        write_text(self.output / "sweep.svg", draw(entries))
        return entries


def run_one(sweep: Sweep, run: Run) -> None:
    """Unlearn and audit one setting; a complete model or audit is kept."""
    from unlearn.forgetting import forget
    from unlearn.methods import method_classes
    from verify import Settings, audit

    folder, halves = sweep.output / run.name, sweep.output / "holdout"
    for_method = halves / FOR_METHOD if sweep.holdout is not None and (halves / FOR_METHOD).exists() else None
    if not (folder / "model" / MANIFEST).exists():
        forget(
            sweep.model,
            _method(method_classes()[run.method], run.parameters),
            forget_set=sweep.forget,
            retain_set=sweep.retain,
            holdout_set=None if for_method is None else str(for_method),
            base=sweep.base,
            output_dir=folder / "model",
            fields=sweep.fields,
            options=dataclasses.replace(sweep.options, **run.options, seed=run.seed),
        )
    verify_manifest(folder / "model", "model")
    if (folder / "audit" / MANIFEST).exists():
        verify_manifest(folder / "audit", "audit")
        return
    audit(
        str(folder / "model"),
        sweep.model,
        base=sweep.base,
        references=list(sweep.references),
        forget_set=sweep.forget,
        retain_set=sweep.retain,
        holdout_set=None if sweep.holdout is None else str(halves / FOR_AUDIT),
        fields=sweep.fields,
        output_dir=folder / "audit",
        settings=Settings(attacks=sweep.attacks, overflow=sweep.options.overflow),
        cache_dir=sweep.output / "cache",
    )


def _method(kind: Any, parameters: Mapping[str, Any]) -> Any:
    """Instantiate a method with values of the grid; raise InputError where they do not fit."""
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()})
    except TypeError as error:
        raise InputError(f"the grid's values do not fit {kind.__name__}: {error}.") from None


def _utility(evidence: Evidence) -> Any:
    """Return the target's utility ratio with its interval, or None."""
    return next((entry.ratio for entry in evidence.utility if entry.model == "target"), None)


def table(entries: Sequence[tuple[Run, Evidence]]) -> str:
    """Format the results in Markdown, one row per run."""
    lines = [
        "| method | settings | verdict | residual fraction | records beyond the margin | utility |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run, found in entries:
        residual, utility = found.residual, _utility(found)
        cells = (
            run.method,
            run.words(),
            found.verdict,
            "-" if residual is None else residual.short(),
            "-" if not found.tests else str(len(found.accused)),
            "-" if utility is None else utility.short(),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(entries: Sequence[tuple[Run, Evidence]]) -> str:
    """Plot utility against residual fraction as SVG, one point per run with both intervals; a retraining is at (0, 1)."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, method in enumerate(dict.fromkeys(run.method for run, _ in entries)):
        points = [(found.residual, _utility(found)) for run, found in entries if run.method == method]
        both = [(one, other) for one, other in points if one is not None and other is not None]
        if both:
            x, y = [one.value for one, _ in both], [other.value for _, other in both]
            spread = [[one.value - one.low for one, _ in both], [one.high - one.value for one, _ in both]]
            axes.errorbar(x, y, xerr=spread, fmt="osD^v<>pPX"[number % 10], label=method, capsize=2, markersize=5, linestyle="none")
    axes.axvspan(-0.1, 0.1, color="0.92", zorder=0)  # within a tenth of a retraining
    axes.plot([0], [1], marker="*", markersize=13, color="black", linestyle="none", label="retraining")
    axes.set(
        xlabel="residual fraction (1 untouched, 0 retrained, below 0 over-forgotten)", ylabel="utility relative to a retraining"
    )
    axes.legend(fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
