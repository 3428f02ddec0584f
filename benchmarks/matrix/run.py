"""Run of the matrix: makes base models, references and all missing cells. A cell whose manifest verifies is kept.

A cell's folder holds its model, its audit and `cell.json`; its manifest is written last, so an interrupted cell has none and is
made again from the beginning, which takes minutes at most. One folder is for one setting, tuning and data set.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.matrix.data import write_data
from benchmarks.matrix.measure import measure, uses_of
from benchmarks.matrix.price import measured
from benchmarks.matrix.results import Cell, load_cell, save_cell
from benchmarks.matrix.rows import Place, Row, rows_of
from benchmarks.matrix.settings import DataName
from unlearn.experiments.poisoning import privacy_backdoor
from unlearn.finetuning import finetune
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import is_complete, read_json, write_json, write_manifest
from verify.io.jobs import Job, run_jobs

CELL = "matrix-cell"
ABOUT = "matrix.json"
Progress = Callable[[str, float], None]


def run(
    place: Place, data: DataName, shared: Path, progress: Progress, *, only: Sequence[str] = (), workers: int = 2
) -> list[Cell]:
    """Run what is missing and return all cells, row by row.

    Args:
        place: folder and settings.
        data: name of the data set.
        shared: folder of the public data sets.
        progress: progress callback (message, fraction done).
        only: names of rows; the rows they start from are made too. Empty means all.
        workers: number of cells made in parallel.

    Raises:
        InputError: the folder holds another matrix, or a row is unknown.
    """
    chosen = _chosen(place, only)
    _claim(place, data)
    if not (place.output / "data" / "config.json").exists():
        progress("writing data", 0.0)
        write_data(place.output / "data", data, place.setting, shared)
    progress("training the base model", 0.0)
    _make_base(place, any(row.step == "poisoned" for row in chosen))
    stages = [_references(place)]
    for steps in (("original",), ("train", "poisoned"), ("remove",)):
        rows = [row for row in chosen if row.step in steps]
        stages.append(
            [
                Job(f"{row.label}, seed {seed}", 1.0, make_cell, {"place": place, "name": row.name, "seed": seed})
                for row in rows
                for seed in range(place.setting.seeds)
            ]
        )
    total, done = sum(len(stage) for stage in stages), 0
    for stage in stages:
        for job in _ran(stage, workers):
            done += 1
            progress(job.label, done / total)
    return [load_cell(place.cell(row.name, seed)) for row in chosen for seed in range(place.setting.seeds)]


def _ran(stage: Sequence[Job], workers: int) -> Iterator[Job]:
    """Run the jobs and yield each as it finishes; a single worker is this process, with its own thread count."""
    if workers > 1 and stage:
        yield from (job for job, _ in run_jobs(stage, workers))
        return
    for job in stage:
        job.run(**job.arguments)
        yield job


def _chosen(place: Place, only: Sequence[str]) -> list[Row]:
    """Return the requested rows, with those they start from."""
    rows = rows_of(place.setting, place.tuning)
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise InputError(f"there is no row called {', '.join(unknown)}. Use any of: {', '.join(rows)}.")
    wanted = {"none", *(only or rows)}
    wanted |= {rows[name].start for name in wanted}
    return [row for name, row in rows.items() if name in wanted]


def _claim(place: Place, data: DataName) -> None:
    """Bind the folder to this matrix, so that numbers of two settings never appear in one table."""
    about = {"data": data, "tuning": place.tuning, "setting": asdict(place.setting), "controls": "divided"}
    path = place.output / ABOUT
    if path.exists() and read_json(path) != json.loads(json.dumps(about)):
        raise InputError(f"{place.output} holds another matrix. Name a new folder with --output, or remove it.")
    write_json(path, about)


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


def _references(place: Place) -> list[Job]:
    return [
        Job(f"reference {number}", 1.0, make_reference, {"place": place, "number": number})
        for number in range(1, place.setting.references + 1)
    ]


def make_reference(place: Place, number: int) -> None:
    """Train a model without the deleted records, and count how often the triggers work on it."""
    folder, uses = Path(place.model(f"reference{number}")), Path(place.model(f"reference{number}.uses.json"))
    if not is_complete(folder, "model"):
        shutil.rmtree(folder, ignore_errors=True)
        options = place.setting.tuned(place.tuning, 10 + number)
        finetune(place.model("base"), place.data("keep"), output_dir=folder, options=options)
        uses.unlink(missing_ok=True)
    if not uses.exists():
        write_json(uses, uses_of(place, folder))


def make_cell(place: Place, name: str, seed: int) -> None:
    """Make and measure one row's model of one seed, unless the cell is complete."""
    row, folder = rows_of(place.setting, place.tuning)[name], place.cell(name, seed)
    if is_complete(folder, CELL):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with measured() as price:
        row.make(place, seed, folder / "model")
    save_cell(measure(place, row, seed, folder / "model", folder / "audit", price), folder)
    write_manifest(folder, CELL, {"row": name, "seed": seed})
