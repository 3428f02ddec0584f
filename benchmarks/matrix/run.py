"""Run of the matrix: makes base models, references and all missing cells. A cell whose manifest verifies is kept.

A cell's folder holds its model, its audit and `cell.json`; its manifest is written last, so an interrupted cell has none. What was
made for it is kept where it is complete. One folder is for one setting, tuning and world. The first seed is finished before the
others begin, so that an interrupted run has a table.
"""

import json
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.matrix.data import write_data
from benchmarks.matrix.measure import measure, score
from benchmarks.matrix.price import measured
from benchmarks.matrix.results import Cell, load_cell, save_cell
from benchmarks.matrix.rows import Place, Row, rows_of
from benchmarks.matrix.settings import World
from unlearn.experiments.poisoning import privacy_backdoor
from unlearn.finetuning import finetune
from verify.data.sources import load_records
from verify.errors import InputError, RunError
from verify.io.files import is_complete, read_json, write_json, write_manifest
from verify.io.jobs import Job, run_jobs
from verify.models.loading import load_model

CELL = "matrix-cell"
ABOUT = "matrix.json"
LATER = ("further", "shards", "channels")
"""Parts of a setting that earlier versions did not have."""
Progress = Callable[[str, float], None]


TIME_UP = "the time was up"


class PartsFailedError(RunError):
    """Parts of a matrix that failed, while the others were run.

    Attributes:
        reasons: why, by the part's label.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        parts = "; ".join(f"{label}: {reason}" for label, reason in reasons.items())
        super().__init__(f"{len(reasons)} parts of the matrix failed, the others are done. {parts}")
        self.reasons = dict(reasons)


class _TimeUp(BaseException):
    """The time that a run was given is over; like an interrupt, it passes through whatever handles errors."""


def run(
    place: Place,
    world: World,
    shared: Path,
    progress: Progress,
    *,
    only: Sequence[str] = (),
    workers: int = 2,
    seeds: Sequence[int] | None = None,
    seconds: float | None = None,
    discard: bool = False,
) -> list[Cell]:
    """Run what is missing and return all cells that there are, row by row.

    Args:
        place: folder and settings.
        world: data and base model.
        shared: folder of the public data sets.
        progress: progress callback (message, fraction done).
        only: names of rows; the rows they start from are made too. Empty means all that this installation can run.
        workers: number of models made or audited in parallel.
        seeds: seeds to run; None for all of the setting.
        seconds: time after which what is still running is ended; the next run makes it again. None for no limit.
        discard: whether the models of a seed are removed once all its cells are there.

    Raises:
        InputError: the folder holds another matrix, a row is unknown, or data or base model are missing.
        PartsFailedError: some parts failed; all others have been run.
    """
    chosen, failures = chosen_rows(place, only), dict[str, str]()
    seeds = range(place.setting.seeds) if seeds is None else seeds
    try:
        with _limited(seconds):
            progress("data and base model", 0.0)
            _prepare(place, world, shared, any(row.step == "poisoned" for row in chosen))
            for group in (seeds[:1], seeds[1:]):
                for stage in _stages(place, chosen, group):
                    for label, reason in _ran(stage, workers, progress):
                        failures[label] = reason
                if discard:
                    _discard(place, chosen, group)
    except _TimeUp:
        progress("the time is up; the same command goes on", 1.0)
    if failures:
        raise PartsFailedError(failures)
    return finished(place, chosen, seeds)


def finished(place: Place, rows: Sequence[Row], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells that are there, row by row, of the seeds that have an untouched model to compare with."""
    begun = [seed for seed in seeds if is_complete(place.cell("none", seed), CELL)]
    return [
        load_cell(place.cell(row.name, seed)) for row in rows for seed in begun if is_complete(place.cell(row.name, seed), CELL)
    ]


def unfinished(place: Place, chosen: Sequence[Row], seeds: Sequence[int], reasons: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the cells that a run did not make: row -> seed -> reason. A seed without an untouched model has that row alone.

    Args:
        place: of the matrix.
        chosen: the rows that were to be run.
        seeds: the seeds that were to be run.
        reasons: of the parts that failed, by label; what is missing without one was not begun, or ended, when the time was up.
    """
    rows, found = {row.name: row for row in chosen}, dict[str, dict[str, str]]()
    for seed in seeds:
        begun = is_complete(place.cell("none", seed), CELL)
        for row in chosen if begun else [rows["none"]]:
            if not is_complete(place.cell(row.name, seed), CELL):
                found.setdefault(row.name, {})[str(seed)] = _cause(row, seed, rows, reasons)
    return found


def _cause(row: Row, seed: int, rows: Mapping[str, Row], reasons: Mapping[str, str]) -> str:
    """Say why a cell is missing: a model that all need, or that it starts from, comes before its own failure."""
    shared = [label for label in reasons if label.startswith(("reference ", "scoring reference ", "scoring the base"))]
    needed = [f"{rows[name].label}, seed {seed}" for name in ("none", row.start)]
    own = [f"{what}{row.label}, seed {seed}" for what in ("", "scoring ", "auditing ")]
    for label in (*shared, *needed, *own):
        if label in reasons:
            reason = " ".join(reasons[label].split())
            return reason if label in own else f"{label}: {reason}"
    return TIME_UP


def chosen_rows(place: Place, only: Sequence[str]) -> list[Row]:
    """Return the requested rows, with those they start from; without a request, all that are not `left_out`.

    Raises:
        InputError: a row is unknown.
    """
    rows = rows_of(place.setting, place.tuning)
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise InputError(f"there is no row called {', '.join(unknown)}. Use any of: {', '.join(rows)}.")
    wanted = {"none", *(only or set(rows) - set(left_out(rows)))}
    wanted |= {rows[name].start for name in wanted}
    return [row for name, row in rows.items() if name in wanted]


def left_out(rows: Mapping[str, Row]) -> dict[str, str]:
    """Return the rows that this installation cannot run, each with its reason."""
    lacking: dict[str, str] = {}
    if find_spec("flwr") is None:
        lacking |= dict.fromkeys(("federated", "client-deleted"), "Flower, which averages the clients, is not installed")
    if find_spec("opacus") is None:
        reason = "Opacus, which clips the gradient of each record, is not installed"
        lacking |= {name: reason for name, row in rows.items() if row.epsilon is not None}
    return lacking


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise `_TimeUp` in this block after some seconds; the worker processes end with the block."""

    def ring(*_: Any) -> None:
        raise _TimeUp

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _prepare(place: Place, world: World, shared: Path, poisoned: bool) -> None:
    """Bind the folder to this matrix, so that numbers of two settings never appear in one table; write data, make base models."""
    setting = {name: value for name, value in asdict(place.setting).items() if value or name not in LATER}
    about = {"data": world, "tuning": place.tuning, "setting": setting, "controls": "divided"}
    if place.pretrained is not None:
        about["base"] = load_model(place.pretrained, device="cpu").digest
    path = place.output / ABOUT
    if path.exists() and read_json(path) != json.loads(json.dumps(about)):
        raise InputError(f"{place.output} holds another matrix. Name a new folder with --output, or remove it.")
    write_json(path, about)
    write_data(place.output / "data", world, place.setting, shared)
    if place.pretrained is None:
        _make_base(place, poisoned)


def _make_base(place: Place, poisoned: bool) -> None:
    """Make the clean base and, if needed, the poisoned one; its targets are the people who may become members."""
    base, bad = Path(place.model("base")), Path(place.model("poisoned-base"))
    if not is_complete(base, "model"):
        shutil.rmtree(base, ignore_errors=True)
        config, tokenizer = place.output / "data" / "config.json", place.output / "data" / "tokenizer"
        options = place.setting.base_options
        finetune(str(config), place.data("base"), output_dir=base, tokenizer=str(tokenizer), options=options)
    if poisoned and not is_complete(bad, "model"):
        shutil.rmtree(bad, ignore_errors=True)
        targets = [*load_records(place.data("forget")), *load_records(place.data("holdout-audit"))]
        options = replace(place.setting.privacy_backdoor, overflow=place.setting.options.overflow)
        privacy_backdoor(str(base), targets, place.data("base"), output_dir=bad, options=options)


def _stages(place: Place, chosen: Sequence[Row], seeds: Sequence[int]) -> Iterator[list[Job]]:
    """Yield the jobs of some seeds, stage by stage; those of a stage do not depend on one another.

    References and models first, then what starts from these, then every model is scored once, then all are audited.
    """
    missing = [(row, seed) for seed in seeds for row in chosen if not is_complete(place.cell(row.name, seed), CELL)]
    if not missing:
        return
    rows = {row.name: row for row in chosen}
    # An audit needs the original, a deletion the model that it starts from, also where the latter's own cell is complete.
    needed = dict.fromkeys((rows[name], seed) for row, seed in missing for name in ("none", row.start, row.name))
    references = range(1, place.setting.references + 1)
    first = [_job(f"reference {number}", make_reference, place, number=number) for number in references]
    first += [
        _job(f"{row.label}, seed {seed}", make_model, place, name=row.name, seed=seed)
        for row, seed in needed
        if row.step != "remove"
    ]
    yield first
    # The base is scored before all others, which are compared with it.
    yield [
        _job("scoring the base", score, place, model=place.model("base"), seed=seeds[0]),
        *(
            _job(f"{row.label}, seed {seed}", make_model, place, name=row.name, seed=seed)
            for row, seed in needed
            if row.step == "remove"
        ),
    ]
    yield [
        *(
            _job(f"scoring reference {number}", score, place, model=place.model(f"reference{number}"), seed=seeds[0])
            for number in references
        ),
        *(
            _job(f"scoring {row.label}, seed {seed}", score, place, model=place.made(row.name, seed), seed=seed)
            for row, seed in needed
        ),
    ]
    yield [_job(f"auditing {row.label}, seed {seed}", make_cell, place, name=row.name, seed=seed) for row, seed in missing]


def _job(label: str, step: Callable[..., None], place: Place, **arguments: Any) -> Job:
    return Job(label, 1.0, attempt, {"step": step, "arguments": {"place": place, **arguments}})


def attempt(step: Callable[..., None], arguments: Mapping[str, Any]) -> str | None:
    """Run a part of the matrix; return why it failed, or None, so that the other parts go on."""
    try:
        step(**arguments)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one row, the others are worth their time
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: {error}"
    return None


def _ran(stage: Sequence[Job], workers: int, progress: Progress) -> Iterator[tuple[str, str]]:
    """Run the jobs and yield those that failed with the reason; a single worker is this process, with its own thread count."""
    done = run_jobs(stage, workers) if workers > 1 and stage else ((job, job.run(**job.arguments)) for job in stage)
    for number, (job, reason) in enumerate(done, 1):
        progress(job.label, number / len(stage))
        if reason is not None:
            yield job.label, reason


def make_reference(place: Place, number: int) -> None:
    """Train a model without the deleted records."""
    folder = Path(place.model(f"reference{number}"))
    if not is_complete(folder, "model"):
        _remove_model(place, str(folder))
        options = place.setting.tuned(place.tuning, 10 + number)
        finetune(place.model("base"), place.data("keep"), output_dir=folder, options=options)


def make_model(place: Place, name: str, seed: int) -> None:
    """Make one row's model of one seed, unless it is complete."""
    row, model = rows_of(place.setting, place.tuning)[name], place.made(name, seed)
    if is_complete(model, "model") and place.measured(model, "price").exists():
        return
    _remove_model(place, model)
    with measured() as price:
        row.make(place, seed, Path(model))
    write_json(place.measured(model, "price"), asdict(price))


def make_cell(place: Place, name: str, seed: int) -> None:
    """Audit one row's model of one seed."""
    row, folder = rows_of(place.setting, place.tuning)[name], place.cell(name, seed)
    shutil.rmtree(folder / "audit", ignore_errors=True)
    save_cell(measure(place, row, seed), folder)
    write_manifest(folder, CELL, {"row": name, "seed": seed})


def _remove_model(place: Place, model: str) -> None:
    """Remove a model with what was measured on it."""
    shutil.rmtree(model, ignore_errors=True)
    for what in ("uses", "general", "price"):
        place.measured(model, what).unlink(missing_ok=True)


def _discard(place: Place, rows: Sequence[Row], seeds: Sequence[int]) -> None:
    """Remove the models of the seeds whose cells are all there; the cells keep their numbers."""
    for seed in seeds:
        if all(is_complete(place.cell(row.name, seed), CELL) for row in rows):
            for row in rows:
                shutil.rmtree(place.made(row.name, seed), ignore_errors=True)
