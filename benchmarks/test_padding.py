"""Length-grouped batching: an epoch over TOFU with records of similar length together, against the same epoch in random order."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from timing import note

import verify.models.log_probabilities
from unlearn import NPO, TrainingOptions
from unlearn.training import schedule
from unlearn.training.options import Trained
from unlearn.training.run import Run, run_objective, train_records
from verify.data.records import Fields
from verify.data.sources import load_records
from verify.models.loading import load_model

ROOT = Path(__file__).parents[1]
OPTIONS = TrainingOptions(learning_rate=1e-5, epochs=1, batch_size=16)


@pytest.mark.parametrize("what", ["fine-tune, 1,600 records", "npo, 200 records"])
def test_epoch(benchmark: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time an epoch of the pretrained 260,000-parameter model, both orders alternately."""
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not shared.is_dir():
        pytest.skip(f"the public data sets are not at {shared}; set UNLEARN_SHARED_DATA to their folder")
    sys.path.insert(0, str(ROOT / "tests"))
    from stories260k import convert

    torch.set_num_threads(1)  # fastest for so small a model
    base = convert(shared / "stories260k", tmp_path / "base")
    sets = {
        name: load_records(str(shared / "tofu" / f"{name}.json"), Fields("question", "answer")) for name in ("full", "forget05")
    }
    sorted_pairs, runs = schedule.epoch_pairs, 0

    def epoch() -> float:
        nonlocal runs
        runs += 1
        loaded, work, started = load_model(base), tmp_path / f"work{runs}", time.perf_counter()
        trained: Trained = (
            run_objective(loaded, NPO(), Run(sets["forget05"], OPTIONS, work, retain=sets["full"][:3800]))
            if what.startswith("npo")
            else train_records(loaded, Run(sets["full"][:1600], OPTIONS, work))
        )
        assert trained.result.steps
        return time.perf_counter() - started

    ours, stock = [], []
    for _ in range(2):
        with monkeypatch.context() as drawn:
            drawn.setattr(schedule, "epoch_pairs", lambda *given: sorted_pairs(*given[:4]))
            drawn.setattr(verify.models.log_probabilities, "WORTH_A_PASS", 10**9)
            stock.append(epoch())
        ours.append(epoch())
    benchmark.extra_info.update(ratio=note(f"grouped by length / random order: {what}", ours, stock))
    benchmark.pedantic(epoch, rounds=1)
