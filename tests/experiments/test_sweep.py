"""Sweeps run every combination once, go on where they were cut off, and run on a cluster as on one machine."""

import json
import multiprocessing
import multiprocessing.resource_tracker
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jobs_here import run_jobs_here
from tqdm.std import TqdmDefaultWriteLock, tqdm
from worker_jobs import noted, work

import unlearn.cli.main
from unlearn import TrainingOptions, finetune
from unlearn.experiments.sweep import Sweep, run_one
from verify.data.identity import KEY_VARIABLE
from verify.errors import InputError, RunError
from verify.io.jobs import Job, _run_numbered, run_jobs

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(16)]
OPTIONS = TrainingOptions(learning_rate=5e-3, epochs=4, batch_size=4)


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for name, rows in (("train", ROWS[:12]), ("forget", ROWS[:4]), ("retain", ROWS[4:12]), ("holdout", ROWS[12:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finetune(model_dir, folder / "train.jsonl", output_dir=folder / "original", options=OPTIONS)
    for seed in (1, 2, 3):
        options = TrainingOptions(learning_rate=5e-3, epochs=4, batch_size=4, seed=seed)
        finetune(model_dir, folder / "retain.jsonl", output_dir=folder / f"reference{seed}", options=options)
    return folder


def sweep_of(world: Path, output: Path, grid: Any) -> Sweep:
    return Sweep(
        model=str(world / "original"),
        forget=str(world / "forget.jsonl"),
        retain=str(world / "retain.jsonl"),
        holdout=str(world / "holdout.jsonl"),
        references=tuple(str(world / f"reference{seed}") for seed in (1, 2, 3)),
        output=output,
        grid=grid,
        attacks=("loss",),
        seeds=(0, 1),
        options=TrainingOptions(epochs=1, batch_size=4),
    )


@pytest.mark.slow
def test_every_combination_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and training options are told apart; a second sweep runs only what is new."""
    monkeypatch.setattr("unlearn.experiments.sweep.run_jobs", lambda jobs, engine: run_jobs_here(jobs))
    grid = {"npo": {"beta": [0.1, 1.0], "learning_rate": [1e-3]}}
    entries = sweep_of(world, tmp_path / "out", grid).run(lambda _, __: None)
    assert len(entries) == 4
    assert {run.parameters.get("beta") for run, _ in entries if run.method == "npo"} == {0.1, 1.0}
    assert all(found.residual is not None for _, found in entries)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("manifest.json")}
    again = sweep_of(world, tmp_path / "out", {**grid, "gradient_ascent": {}}).run(lambda _, __: None)
    assert len(again) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    listed = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [entry["folder"] for entry in listed] == [run.name for run, _ in again]
    assert (tmp_path / "out" / "sweep.md").read_text().count("\n") == 8
    assert "<svg" in (tmp_path / "out" / "sweep.svg").read_text()


@pytest.mark.slow
def test_a_folder_belongs_to_what_it_was_made_from(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same settings have the same folder; another model, set, option or attack has another, and so has another key."""
    sweep = sweep_of(world, tmp_path / "out", {"npo": {"beta": [0.1]}})
    (tmp_path / "fewer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    shutil.copy(world / "forget.jsonl", tmp_path / "moved.jsonl")
    others = [
        replace(sweep, **change)
        for change in (
            {"model": str(world / "reference1")},
            {"base": str(world / "reference1")},
            {"references": sweep.references[:2]},
            {"forget": str(tmp_path / "fewer.jsonl")},
            {"holdout": None},
            {"options": replace(sweep.options, learning_rate=1e-2)},
            {"attacks": ("verbatim",)},
        )
    ]
    names = [run.name for run in sweep.runs()]
    assert [run.name for run in replace(sweep, forget=str(tmp_path / "moved.jsonl")).runs()] == names
    assert [run.name for run in replace(sweep, options=replace(sweep.options, seed=9)).runs()] == names
    found = [*names, *(run.name for other in others for run in other.runs())]
    assert len(set(found)) == 2 * (1 + len(others))
    (tmp_path / "other.key").write_text("a5" * 32)
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "other.key"))
    assert set(names).isdisjoint(run.name for run in sweep.runs())


@pytest.mark.slow
def test_other_options_are_run_anew(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep with another learning rate in the same folder does not take over the first one's model, and leaves it there."""
    monkeypatch.setattr("verify.audit", lambda *_, **__: None)
    sweep = replace(sweep_of(world, tmp_path / "out", {"npo": {}}), seeds=(0,))
    for rate in (1e-4, 1e-3, 1e-4):
        asked = replace(sweep, options=replace(sweep.options, learning_rate=rate))
        (run,) = asked.runs()
        run_one(asked, run)
        about = json.loads((tmp_path / "out" / run.name / "model" / "manifest.json").read_text())["about"]
        assert about["options"]["learning_rate"] == rate
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("grid", "match"),
    [
        ({"nothing": {}}, "not a method"),
        ({"npo": {"gamma": [1.0]}}, "neither its parameter nor a training option"),
        ({"pdu": {"slack": [-1.0]}}, "--slack"),
        ({"npo": {"beta": [0.0]}}, "--beta"),
        ({"npo": {"scheduler": ["step"]}}, "--scheduler"),
        ({"npo": {"report_to": ["wandb"]}}, "pip install wandb"),
    ],
)
def test_bad_grids(world: Path, tmp_path: Path, grid: Any, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the first run."""
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", list)
    with pytest.raises(InputError, match=match):
        list(sweep_of(world, tmp_path / "out", grid).runs())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_from_the_shell(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`unlearn sweep` prints the table; a grid that is no grid is refused."""
    (tmp_path / "grid.json").write_text('{"npo": {"beta": [0.5]}}')
    given = ["sweep", "--model", str(world / "original"), "--forget", str(world / "forget.jsonl")]
    given += ["--retain", str(world / "retain.jsonl"), "--output", str(tmp_path / "out"), "--epochs", "1"]
    assert unlearn.cli.main.main([*given, "--grid", str(tmp_path / "grid.json")]) == 0
    assert "beta=0.5 seed=0" in capsys.readouterr().out
    (tmp_path / "grid.json").write_text('["npo"]')
    assert unlearn.cli.main.main([*given, "--grid", str(tmp_path / "grid.json")]) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_begins_once_what_it_waits_for_is_done(workers: int, tmp_path: Path) -> None:
    """Also where that comes later in the list; where a core is free, what waits for nothing that runs does not wait."""
    about = {"late": {"long", "short"}, "long": set[str](), "short": set[str](), "next": {"short"}}
    until = {"long": "next ends"} if workers == 2 else {}
    jobs = [
        Job(name, 1.0, noted, {"folder": str(tmp_path), "name": name, "until": until.get(name, "")}, frozenset(after))
        for name, after in about.items()
    ]
    assert {job.label: found for job, found in run_jobs(jobs, workers)} == {name: name for name in about}
    place = {line: number for number, line in enumerate((tmp_path / "log").read_text().splitlines())}
    assert all(place[f"{one} ends"] < place[f"{name} begins"] for name, after in about.items() for one in after)
    assert (place["next ends"] < place["long ends"]) == (workers == 2)


@pytest.mark.slow
def test_a_cluster_does_the_same(dask_engine: str, tmp_path: Path) -> None:
    """On a real scheduler with two workers: every job's result, also of one whose worker was killed."""
    jobs = [Job(str(n), 1.0, work, {"folder": str(tmp_path), "number": n, "dies_first": n == 2}) for n in range(5)]
    assert sorted(result for _, result in run_jobs(jobs, engine=dask_engine)) == [0, 1, 4, 9, 16]
    assert (tmp_path / "died-2").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_local_worker_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job's result, also of one whose worker was killed; workers that die again and again are an error, not a wait."""
    jobs = [Job(str(n), 1.0, work, {"folder": str(tmp_path), "number": n, "dies_first": n == 1}) for n in range(3)]
    assert sorted(result for _, result in run_jobs(jobs)) == [0, 1, 4]
    assert (tmp_path / "died-1").exists()
    monkeypatch.setattr("verify.io.jobs.ATTEMPTS", 2)  # each time two workers start
    with pytest.raises(RunError, match="2 times in a row"):
        list(run_jobs([Job(str(n), 1.0, os._exit, {"status": 1}) for n in range(2)]))


def test_a_worker_leaves_no_semaphore(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar within a job registers none in the system, where one outside of it does."""
    registered, register = list[str](), multiprocessing.resource_tracker.register
    monkeypatch.setattr(
        multiprocessing.resource_tracker, "register", lambda name, kind: registered.append(kind) or register(name, kind)
    )
    # As in a worker, which was not forked.
    monkeypatch.setattr(multiprocessing, "RLock", multiprocessing.get_context("spawn").RLock)

    def fresh(run: Callable[[], Any]) -> list[str]:
        registered.clear()
        monkeypatch.delattr(tqdm, "_lock", raising=False)
        monkeypatch.delattr(TqdmDefaultWriteLock, "mp_lock", raising=False)
        run()
        return list(registered)

    assert fresh(lambda: list(tqdm(range(2), disable=True))) == ["semaphore"]
    assert fresh(lambda: _run_numbered(0, list, {}, None)) == []
    assert _run_numbered(0, lambda: list(tqdm(range(2), disable=True)), {}, None) == (0, [0, 1])
    assert registered == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "match"), [("dask", "must look like"), ("spark://x:1", "must look like"), ("dask://127.0.0.1:1", "answers")]
)
def test_engines_that_are_none(engine: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kind and a scheduler that is not there are said, not waited for."""
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(InputError, match=match):
        list(run_jobs([Job("a", 1.0, work, {"folder": ".", "number": 1})], engine=engine))
