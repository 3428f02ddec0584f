"""Optimizer step of each objective against one of a stock `transformers.Trainer` on the forget batch."""

import copy
import itertools
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from preset import BATCH, bench_model, bench_windows, stock_batches
from timing import SHARES, clock, note
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from unlearn.methods import method_classes
from unlearn.methods.jensun import JensUn
from unlearn.methods.scrub import SCRUB
from unlearn.training.arguments import token_counts, training_arguments
from unlearn.training.initial_outputs import load_or_compute_outputs
from unlearn.training.losses import ObjectiveLoss
from unlearn.training.method import (
    InsideLayers,
    Objective,
    Progress,
    WithAlternatives,
    WithMemory,
    WithWeightPenalty,
)
from unlearn.training.options import TrainingOptions
from unlearn.training.penalty import WeightPenalty
from unlearn.training.run import arithmetic_of
from unlearn.training.trainer import RecordTrainer, Steering
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel
from verify.training.schedule import Lengths, PairSampler

STEPS = 12
TARGETS = {
    **dict.fromkeys(("gradient_ascent", "ceu"), 0.7),
    **dict.fromkeys(("grad_diff", "simnpo", "npo", "wga", "satimp", "pdu"), 1.1),
    **dict.fromkeys(("dpo", "altpo"), 1.5),
    "rmu": 0.45,
    "undial": 0.9,
    "grad_ascent_kl": 1.3,
}
OBJECTIVES = {name: kind() for name, kind in method_classes().items() if isinstance(kind(), Objective)}


class StepTimes(TrainerCallback):
    """Seconds from one optimizer step's end to the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(clock())

    def seconds(self) -> list[float]:
        """Return the durations, without those of the first two steps as warm-up."""
        return [later - earlier for earlier, later in itertools.pairwise(self.ends[1:])]


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Single rows for a stock trainer, which pads them again."""

    def __init__(self, windows: Any) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Any:
        return self.windows[index]


def stock_step_times(
    model: Any, windows: Any, folder: Path, steps: int = STEPS, bf16: bool = False, batch: int = BATCH
) -> list[float]:
    """Time the steps of a stock trainer on the forget records."""
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=steps,
        bf16=bf16,
        use_cpu=model.device.type == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=Rows(windows), data_collator=lambda rows: stock_batches(rows, batch)[0])
    trainer.add_callback(times)
    trainer.train()
    return times.seconds()


def objective_step_times(model: Any, objective: Objective, windows: Any, folder: Path) -> list[float]:
    """Time the steps of our trainer with an objective on the same records and as many retain records."""
    options = TrainingOptions(max_steps=STEPS, batch_size=BATCH, logging_steps=1000, learning_rate=1e-5)
    return objective_steps(model, objective, bench_roles(windows), folder, options)[0]


def bench_roles(windows: Any) -> dict[str, Any]:
    """Return forget windows with as many retain and alternative ones."""
    others = {role: bench_windows(len(windows), seed) for seed, role in enumerate(("retain", "alternative"), start=1)}
    return {"forget": windows, **others}


def objective_steps(
    model: Any, objective: Objective, roles: dict[str, Any], folder: Path, options: TrainingOptions, given: Any = None
) -> tuple[list[float], list[float]]:
    """Take the steps of a run with an objective; return their seconds and the losses that were logged."""
    arithmetic, times = arithmetic_of(model, options), StepTimes()
    layer = objective.inner_layer(model) if isinstance(objective, InsideLayers) else None
    loaded, device = LoadedModel(model, None, "bench", "", ""), next(model.parameters()).device
    half = options.bf16 and not arithmetic.in_copies
    with torch.no_grad(), arithmetic.of(model), torch.autocast(device.type, torch.bfloat16, enabled=half):
        reference = load_or_compute_outputs(
            _made(folder / "reference"), loaded, objective.reference, roles, 0, layer=layer, given=given
        )
    progress = Progress(values=dict(objective.begin()) if isinstance(objective, WithMemory) else {})
    if isinstance(objective, InsideLayers) and not is_adapter(model):
        chosen = {id(parameter) for parameter in objective.trained_parameters(model)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)

    penalty = None
    if isinstance(objective, WithWeightPenalty) and objective.anchor_weight:
        penalty = WeightPenalty.of(model, roles["retain"][:BATCH], 0, objective.anchor_weight, 0, arithmetic)
    read = {role: found for role, found in roles.items() if role != "retain" or objective.needs_retain}
    trainer = RecordTrainer(
        model=model,
        args=training_arguments(options, folder, len(roles["forget"]), device, arithmetic),
        pair_loss=ObjectiveLoss(objective, read, reference, progress, 0),
        sampler=_sampler(roles, objective, options.batch_size or BATCH),
        seed=0,
        steering=Steering(
            progress=progress, advance=objective.advance if isinstance(objective, WithMemory) else None, penalty=penalty
        ),
        arithmetic=arithmetic,
        callbacks=[times],
    )
    trainer.train()
    return times.seconds(), [loss for _, loss in trainer.losses]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_step(benchmark: Any, name: str, tmp_path: Path) -> None:
    """Compare the time of a step with that of a stock step, in alternate runs."""
    objective, target = OBJECTIVES[name], TARGETS.get(name)
    model, windows = bench_model(), bench_windows(BATCH * STEPS)
    ours, stock = [], []
    for round_ in range(2):
        stock += stock_step_times(copy.deepcopy(model), windows, tmp_path / f"stock{round_}")
        ours += objective_step_times(copy.deepcopy(model), objective, windows, tmp_path / f"ours{round_}")
    ratio = note(f"{name} step / stock step" + (f" (target {target})" if target else ""), ours, stock)
    benchmark.extra_info.update(ratio=ratio, target=target)
    if not isinstance(objective, InsideLayers):  # its work depends on the layer at which it stops
        share = step_products(model, objective, bench_roles(windows)) / statistics.median(ours) / product_rate()
        SHARES.append((f"{name} step, of the machine's matrix-product rate", share))
        benchmark.extra_info.update(share_of_matrix_product_rate=share)
    benchmark.pedantic(lambda: objective_step_times(copy.deepcopy(model), objective, windows, tmp_path / "again"), rounds=1)


def product_rate(size: int = 1024, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> float:
    """Measure floating-point operations per second of a square matrix product, the median of nine after a first one."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    one @ other
    times = []
    for _ in range(9):
        started = clock()
        one @ other
        times.append(clock() - started)
    return 2 * size**3 / statistics.median(times)


def step_products(model: Any, objective: Objective, given: dict[str, Any]) -> float:
    """Count operations of a step's matrix products, forward and backward: layers on every token, the head on scored ones.

    Padding is not counted, nor is attention, under a tenth at this length. Distributions before unlearning take a forward pass of
    the original head. An objective that alternates between its sets passes half of them in a mean step.
    """
    layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    head, total = model.lm_head.weight.numel(), 0
    roles = roles_read(objective, given)
    for role, found in roles.items():
        former = f"{role}_logits" in objective.reference or f"{role}_random_logits" in objective.reference
        total += 6 * layers * sum(token_counts(found)) + (6 + 2 * former) * head * sum(int(w.scored.sum()) for w in found)
    return total * BATCH / len(given["forget"]) / (len(roles) if isinstance(objective, SCRUB) else 1)


def roles_read(objective: Objective, given: dict[str, Any]) -> dict[str, Any]:
    """Return the sets that an objective passes through the model."""
    found = dict(given)
    if not isinstance(objective, WithAlternatives):
        del found["alternative"]
    if not objective.needs_retain:
        del found["retain"]
    if isinstance(objective, JensUn):  # the refusal stands in for the record
        del found["forget"]
    return found


def _sampler(roles: Any, objective: Objective, batch: int) -> PairSampler:
    """Build the sampler of training, which groups records by length."""
    own = token_counts(roles["forget"])
    if isinstance(objective, WithAlternatives):
        own = list(map(max, zip(own, token_counts(roles["alternative"]), strict=True)))
    partners = token_counts(roles["retain"]) if objective.needs_retain else []
    return PairSampler(len(own), len(partners), 0, Lengths(own, partners, batch))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
