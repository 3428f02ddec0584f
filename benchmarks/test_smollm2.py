"""Preset `smollm2`: steps and the one pass on a pretrained model, in bfloat16, in float32, and as stock code does them.

Sides take turns in one run; medians. Shares are of the rate of a bfloat16 product of two square matrices of 1,024 rows, measured in
the same run. A step counts 6 operations per weight of a layer and token (4 below an adapter, where weights have no gradient), and
as many per weight of the head and scored token; padding, attention and the adapter's own products are not counted.
"""

import gc
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from preset import BATCH, bench_windows, smollm2_folder, smollm2_model, stock_batches
from test_memory import MEBIBYTE, peak_bytes
from test_training_steps import objective_steps, product_rate, stock_step_times
from timing import MEMORY, RESULTS, SHARES, compare, note
from torch import Tensor, nn

from unlearn import NPO, GradDiff, TrainingOptions
from unlearn.level.objective import ToLevel
from unlearn.training.method import Batch, Objective
from unlearn.training.run import token_counts
from unlearn.training.scored_batch import score_forget
from verify.models.token_stats import compute_token_statistics
from verify.training.adapters import attach_adapter

STEPS = 6
"""Of a side in a round, of which the first three are not timed."""
ROUNDS = 2
RECORDS = 64

pytestmark = pytest.mark.skipif(
    not (smollm2_folder() / "config.json").is_file(), reason="SmolLM2 is not here; fetch it with `make model`"
)


class FineTuning(GradDiff):
    """Plain fine-tuning in the shape of an objective, for the same runner: the mean loss of the records."""

    needs_retain = False
    stop_rule = None

    def loss(self, model: nn.Module, batch: Batch, _: Any) -> Tensor:
        """Return the mean loss."""
        return score_forget(model, batch).loss.mean()


OBJECTIVES: dict[str, Objective] = {
    "fine-tuning": FineTuning(),
    "grad_diff": GradDiff(),
    "npo": NPO(),
    "level": ToLevel(1.0, 5.0, 40.0, 0.3),
}


def prepared(lora: bool) -> Any:
    """Load the model, with an adapter if one is to be trained."""
    return attach_adapter(smollm2_model(), TrainingOptions(lora=lora, lora_rank=16))


def counted(model: Any, windows: Any, roles: int, lora: bool) -> float:
    """Count the operations of a step's products; see the module's docstring."""
    base = model.get_base_model() if lora else model
    layers = sum(parameter.numel() for name, parameter in base.model.layers.named_parameters() if "lora_" not in name)
    each = layers * sum(token_counts(windows)) + base.lm_head.weight.numel() * sum(int(window.scored.sum()) for window in windows)
    return (4 if lora else 6) * each * roles * BATCH / len(windows)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_step(name: str, lora: bool, tmp_path: Path) -> None:
    """A step in bfloat16 against float32 and a stock step under autocast; its losses are those of float32 within 1 %."""
    objective, windows = OBJECTIVES[name], bench_windows(BATCH * STEPS)
    given = {"forget_level": [-3.0] * sum(int(window.scored.sum()) for window in windows)} if name == "level" else None
    seconds: dict[str, list[float]] = {"bfloat16": [], "float32": [], "stock": []}
    losses: dict[str, list[float]] = {}
    for round_ in range(ROUNDS):
        for side in seconds:
            model, folder = prepared(lora), tmp_path / f"{side}{round_}"
            if side == "stock":
                seconds[side] += stock_step_times(model, windows, folder, STEPS, bf16=True)
            else:
                options = TrainingOptions(
                    max_steps=STEPS, batch_size=BATCH, logging_steps=1, learning_rate=1e-5, bf16=side == "bfloat16"
                )
                times, losses[side] = objective_steps(model, objective, windows, folder, options, given)
                seconds[side] += times
            work = counted(model, windows, 1 if name == "fine-tuning" else 2, lora)
            del model
            gc.collect()
    kind = "LoRA" if lora else "full"
    note(f"smollm2 {name} ({kind}) / stock step, autocast", seconds["bfloat16"], seconds["stock"])
    note(f"smollm2 {name} ({kind}) bfloat16 / float32", seconds["bfloat16"], seconds["float32"])
    rate = work / statistics.median(seconds["bfloat16"]) / product_rate(dtype=torch.bfloat16)
    SHARES.append((f"smollm2 {name} ({kind}), of the bfloat16 matrix rate (target 50 %)", rate))
    apart = max(abs(half - full) / abs(full) for half, full in zip(losses["bfloat16"], losses["float32"], strict=True))
    SHARES.append((f"smollm2 {name} ({kind}), largest distance of a step's loss from float32 (target 1 %)", apart))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_one_pass(dtype: torch.dtype) -> None:
    """All token statistics against a stock loss pass in the same type."""
    model, windows = smollm2_model(dtype), bench_windows(RECORDS)
    batches = stock_batches(windows)

    def stock() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(**batch).loss.item()

    name = str(dtype).removeprefix("torch.")
    compare(f"smollm2 token statistics / stock loss pass, {name}", lambda: compute_token_statistics(model, windows, 0), stock, 3)
    seconds = RESULTS[-1][1]  # our median
    layers, head = sum(parameter.numel() for parameter in model.model.layers.parameters()), model.lm_head.weight.numel()
    work = 2 * (layers * sum(token_counts(windows)) + head * sum(int(window.scored.sum()) for window in windows))
    SHARES.append((f"smollm2 token statistics, {name}, of that type's matrix rate", work / seconds / product_rate(dtype=dtype)))


OURS = """
from test_smollm2 import OBJECTIVES, prepared
from test_training_steps import objective_steps
from unlearn import TrainingOptions
model, windows = prepared({lora}), bench_windows(BATCH * 4)
options = TrainingOptions(max_steps=4, batch_size=BATCH, learning_rate=1e-5, bf16=True)
with tempfile.TemporaryDirectory() as folder:
    peak(lambda: objective_steps(model, OBJECTIVES["{name}"], windows, Path(folder), options, None))
"""
STOCK = """
from test_smollm2 import prepared
from test_training_steps import stock_step_times
model, windows = prepared({lora}), bench_windows(BATCH * 4)
with tempfile.TemporaryDirectory() as folder:
    peak(lambda: stock_step_times(model, windows, Path(folder), 4, bf16=True))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_memory(lora: bool) -> None:
    """Fine-tuning and npo need no more memory above the loaded model than a stock trainer under autocast with half the records."""
    stock = peak_bytes(STOCK.format(lora=lora))
    kind = "LoRA" if lora else "full"
    for name in ("fine-tuning", "npo"):
        ours = peak_bytes(OURS.format(lora=lora, name=name))
        MEMORY.append((f"smollm2 {name} ({kind}) / stock trainer, autocast", ours / MEBIBYTE, stock / MEBIBYTE))
