"""Sweeps run every combination once, go on where they were cut off, and run on a cluster as on one machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

import unlearn.cli
from unlearn import TrainingOptions, finetune
from unlearn.jobs import Job, run_jobs
from unlearn.sweep import Sweep
from verify.errors import InputError

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
        seeds=(0, 1),
        options=TrainingOptions(epochs=1, batch_size=4),
    )


@pytest.mark.slow
def test_every_combination_once(world: Path, tmp_path: Path) -> None:
    """Parameters and training options are told apart; a second sweep runs only what is new."""
    grid = {"npo": {"beta": [0.1, 1.0], "learning_rate": [1e-3]}, "grad_diff": {}}
    entries = sweep_of(world, tmp_path / "out", grid).run(lambda _, __: None)
    assert len(entries) == 6
    assert {run.parameters.get("beta") for run, _ in entries if run.method == "npo"} == {0.1, 1.0}
    assert all(found.residual is not None for _, found in entries)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("manifest.json")}
    again = sweep_of(world, tmp_path / "out", {**grid, "gradient_ascent": {}}).run(lambda _, __: None)
    assert len(again) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    listed = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [entry["folder"] for entry in listed] == [run.name for run, _ in again]
    assert (tmp_path / "out" / "sweep.md").read_text().count("\n") == 10
    assert "<svg" in (tmp_path / "out" / "sweep.svg").read_text()


@pytest.mark.parametrize(
    ("grid", "match"),
    [
        ({"nothing": {}}, "no method"),
        ({"npo": {"gamma": [1.0]}}, "neither its parameter nor a training option"),
        ({"pdu": {"slack": [-1.0]}}, "--slack"),
    ],
)
def test_bad_grids(world: Path, tmp_path: Path, grid: Any, match: str) -> None:
    """Refused before the first run."""
    with pytest.raises(InputError, match=match):
        list(sweep_of(world, tmp_path / "out", grid).runs())
    assert not (tmp_path / "out").exists()


def test_from_the_shell(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`unlearn sweep` prints the table; a grid that is no grid is refused."""
    (tmp_path / "grid.json").write_text('{"npo": {"beta": [0.5]}}')
    given = ["sweep", "--model", str(world / "original"), "--forget", str(world / "forget.jsonl")]
    given += ["--retain", str(world / "retain.jsonl"), "--output", str(tmp_path / "out"), "--epochs", "1"]
    assert unlearn.cli.main([*given, "--grid", str(tmp_path / "grid.json")]) == 0
    assert "beta=0.5 seed=0" in capsys.readouterr().out
    (tmp_path / "grid.json").write_text('["npo"]')
    assert unlearn.cli.main([*given, "--grid", str(tmp_path / "grid.json")]) == 2


def work(folder: str, number: int, dies_first: bool = False) -> int:
    """A job for a cluster; one kills its worker the first time."""
    import os

    mark = Path(folder) / f"died-{number}"
    if dies_first and not mark.exists():
        mark.touch()
        os._exit(1)
    return number * number


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made:
        yield made


@pytest.mark.slow
def test_a_cluster_does_the_same(cluster: LocalCluster, tmp_path: Path) -> None:
    """On a real scheduler with two workers: every job's result, also of one whose worker was killed."""
    jobs = [Job(str(n), 1.0, work, {"folder": str(tmp_path), "number": n, "dies_first": n == 2}) for n in range(5)]
    engine = f"dask://{cluster.scheduler_address.removeprefix('tcp://')}"
    assert sorted(result for _, result in run_jobs(jobs, engine=engine)) == [0, 1, 4, 9, 16]
    assert (tmp_path / "died-2").exists()


@pytest.mark.parametrize(
    ("engine", "match"), [("dask", "must look like"), ("spark://x:1", "must look like"), ("dask://127.0.0.1:1", "answers")]
)
def test_engines_that_are_none(engine: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kind and a scheduler that is not there are said, not waited for."""
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(InputError, match=match):
        list(run_jobs([Job("a", 1.0, work, {"folder": ".", "number": 1})], engine=engine))
