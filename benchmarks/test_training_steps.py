"""One optimizer step of each objective against one of a stock `transformers.Trainer` on the forget batch."""

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from preset import BATCH, bench_model, bench_windows, stock_batches
from timing import note
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from unlearn.methods.base import Batch, Objective
from unlearn.methods.grad_diff import GradDiff
from unlearn.methods.gradient_ascent import GradientAscent
from unlearn.methods.npo import NPO
from unlearn.options import TrainingOptions
from unlearn.schedule import PairSampler
from unlearn.trainer import RecordTrainer
from unlearn.training import training_arguments
from verify.encoding import collate

STEPS = 12
TARGETS = {"gradient_ascent": 0.7, "grad_diff": 1.1, "npo": 1.1}


class StepTimes(TrainerCallback):
    """Seconds from one optimizer step's end to the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Durations, the first two steps left out as warm-up."""
        return [later - earlier for earlier, later in zip(self.ends[2:], self.ends[3:], strict=False)]


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Single rows for a stock trainer, which pads them again."""

    def __init__(self, windows: Any) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Any:
        return self.windows[index]


def stock_step_times(model: Any, windows: Any, folder: Path) -> list[float]:
    """A stock trainer on the forget records."""
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=Rows(windows), data_collator=lambda rows: stock_batches(rows, BATCH)[0])
    trainer.add_callback(times)
    trainer.train()
    return times.seconds()


def objective_step_times(model: Any, objective: Objective, windows: Any, folder: Path) -> list[float]:
    """Our trainer with an objective on the same records and as many retain records."""
    times, retain = StepTimes(), bench_windows(len(windows), seed=1)
    reference = {"forget_log_probability": torch.full((len(windows),), -250.0)}

    def loss(module: Any, pairs: Any, _: Any) -> torch.Tensor:
        rows = torch.tensor(pairs)
        batch = Batch(
            collate([windows[index] for index, _ in pairs], 0),
            collate([retain[partner] for _, partner in pairs], 0) if objective.needs_retain else None,
        )
        return objective.loss(module, batch, {name: values[rows[:, 0]] for name, values in reference.items()})

    options = TrainingOptions(max_steps=STEPS, batch_size=BATCH, logging_steps=1000, learning_rate=1e-5)
    trainer = RecordTrainer(
        model=model,
        args=training_arguments(options, folder, len(windows), torch.device("cpu")),
        loss_of_pairs=loss,
        weigh=len,
        sampler=PairSampler(len(windows), len(retain) if objective.needs_retain else 0, 0),
        seed=0,
        callbacks=[times],
    )
    trainer.train()
    return times.seconds()


@pytest.mark.parametrize("objective", [GradientAscent(), GradDiff(), NPO()], ids=["gradient_ascent", "grad_diff", "npo"])
def test_step(benchmark: Any, objective: Objective, tmp_path: Path) -> None:
    """A step's time against the stock step's, runs in turn."""
    name = type(objective).__module__.rsplit(".", 1)[-1]
    model, windows = bench_model(), bench_windows(BATCH * STEPS)
    ours, stock = [], []
    for round_ in range(2):
        stock += stock_step_times(copy.deepcopy(model), windows, tmp_path / f"stock{round_}")
        ours += objective_step_times(copy.deepcopy(model), objective, windows, tmp_path / f"ours{round_}")
    ratio = note(f"{name} step / stock step (target {TARGETS[name]})", ours, stock)
    benchmark.extra_info.update(ratio=ratio, target=TARGETS[name])
    benchmark.pedantic(lambda: objective_step_times(copy.deepcopy(model), objective, windows, tmp_path / "again"), rounds=1)
