"""Preset `smollm2`: steps and the one pass on a pretrained model, in bfloat16, in float32, and as stock code does them.

Sides take turns in one run; medians. Shares are of the rate of a bfloat16 product of two square matrices of 1,024 rows, measured in
the same run. A step counts 6 operations per weight of a layer and token (4 below an adapter, where weights have no gradient), and
as many per weight of the head and scored token; padding, attention and the adapter's own products are not counted.

`-k` selects (`full-npo`, `lora-level`, `memory`, `losses`); with OMP_NUM_THREADS=1 times are processor seconds of one thread.
"""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from preset import BATCH, smollm2_folder, smollm2_model, smollm2_windows, stock_batches
from test_memory import MEBIBYTE, peak_bytes
from test_training_steps import OBJECTIVES as METHODS
from test_training_steps import objective_steps, product_rate, roles_read, stock_step_times
from timing import MEMORY, RESULTS, SHARES, compare, note
from torch import nn

from unlearn import GradDiff, TrainingOptions
from unlearn.level.objective import ToLevel
from unlearn.methods.scrub import SCRUB
from unlearn.training.arguments import token_counts
from unlearn.training.method import Batch, InsideLayers, Objective
from unlearn.training.scored_batch import score_forget
from verify.models.adapter_types import is_adapter
from verify.models.token_stats import compute_token_statistics
from verify.training.adapters import attach_adapter

STEPS = 5
"""Of each side, of which the first two are not timed."""
RECORDS = 64
RATES = {"full": 1e-5, "lora": 1e-4}
SMALL = 2
"""Records of a step in the comparison of losses, which does not need full batches."""

pytestmark = pytest.mark.skipif(
    not (smollm2_folder() / "config.json").is_file(), reason="SmolLM2 is not here; fetch it with `make model`"
)


class FineTuning(GradDiff):
    """Plain fine-tuning in the shape of an objective, for the same runner: the mean loss of the records."""

    needs_retain = False
    stop_rule = None

    def loss(self, model: nn.Module, batch: Batch, _: Any) -> torch.Tensor:
        """Return the mean loss."""
        return score_forget(model, batch).loss.mean()


OBJECTIVES: dict[str, Objective] = {"fine-tuning": FineTuning(), "level": ToLevel(1.0, 5.0, 40.0, 0.3, 500.0), **METHODS}
COMPARED = ("fine-tuning", "grad_diff", "npo", "level")
"""Timed in float32, too."""
KINDS = ("full", "lora")


def prepared(kind: str) -> Any:
    """Load the model, with an adapter if one is to be trained."""
    return attach_adapter(smollm2_model(), TrainingOptions(lora=kind == "lora", lora_rank=16))


def smollm2_roles(count: int) -> dict[str, Any]:
    """Return as many windows for every role, each about other people."""
    return {role: smollm2_windows(count, seed) for seed, role in enumerate(("forget", "retain", "alternative"))}


def steps_of(
    model: Any, name: str, roles: dict[str, Any], folder: Path, steps: int = STEPS, *, half: bool = True
) -> tuple[list[float], list[float]]:
    """Take the steps of an objective, in bfloat16 or float32; return their seconds and losses."""
    options = TrainingOptions(
        max_steps=steps,
        batch_size=len(roles["forget"]) // steps,
        logging_steps=1,
        learning_rate=RATES["lora" if is_adapter(model) else "full"],
        scheduler="constant",
        bf16=half,
    )
    # As of records that the model never saw.
    given = {"forget_level": [-3.0] * sum(int(window.scored.sum()) for window in roles["forget"])} if name == "level" else None
    return objective_steps(model, OBJECTIVES[name], roles, folder, options, given)


def counted(roles: dict[str, Any], kind: str) -> float:
    """Count the operations of a step's products; see the module's docstring."""
    model = smollm2_model()
    layers, head = (sum(part.numel() for part in module.parameters()) for module in (model.model.layers, model.lm_head))
    windows = [window for found in roles.values() for window in found]
    each = layers * sum(token_counts(windows)) + head * sum(int(window.scored.sum()) for window in windows)
    return (6 if kind == "full" else 4) * each / STEPS


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_step(name: str, kind: str, tmp_path: Path) -> None:
    """A step in bfloat16 against a stock fine-tuning step under autocast; some against the same step in float32."""
    objective, roles = OBJECTIVES[name], smollm2_roles(BATCH * STEPS)
    ours = steps_of(prepared(kind), name, roles, tmp_path / "bfloat16")[0]
    stock = stock_step_times(prepared(kind), roles["forget"], tmp_path / "stock", STEPS, bf16=True)
    note(f"smollm2 {name} ({kind}) / stock step, autocast", ours, stock)
    if name in COMPARED:
        full = steps_of(prepared(kind), name, roles, tmp_path / "float32", half=False)[0]
        note(f"smollm2 {name} ({kind}) bfloat16 / float32", ours, full)
    if not isinstance(objective, InsideLayers):  # its work depends on the layer at which it stops
        read = roles_read(objective, roles)
        work = counted(read, kind) / (len(read) if isinstance(objective, SCRUB) else 1)
        share = work / statistics.median(ours) / product_rate(dtype=torch.bfloat16)
        SHARES.append((f"smollm2 {name} ({kind}), of the bfloat16 matrix rate (target 50 %)", share))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_losses(name: str, kind: str, tmp_path: Path) -> None:
    """How far the losses of steps in bfloat16 are from those of the same steps in float32."""
    roles = smollm2_roles(SMALL * STEPS)
    half, full = (steps_of(prepared(kind), name, roles, tmp_path / str(half), half=half)[1] for half in (True, False))
    apart = max(abs(one - other) / abs(other) for one, other in zip(half, full, strict=True))
    SHARES.append((f"smollm2 {name} ({kind}), largest distance of a step's loss from float32 (target 1 %)", apart))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_one_pass(dtype: torch.dtype) -> None:
    """All token statistics against a stock loss pass in the same type."""
    model, windows = smollm2_model(dtype), smollm2_windows(RECORDS)
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
from test_smollm2 import prepared, smollm2_roles, steps_of
model, roles = prepared("{kind}"), smollm2_roles(BATCH * 2)
with tempfile.TemporaryDirectory() as folder:
    peak(lambda: steps_of(model, "{name}", roles, Path(folder), 2))
"""
STOCK = """
from test_smollm2 import prepared, smollm2_roles
from test_training_steps import stock_step_times
model, windows = prepared("{kind}"), smollm2_roles(BATCH * 2)["forget"]
with tempfile.TemporaryDirectory() as folder:
    peak(lambda: stock_step_times(model, windows, Path(folder), 2, bf16=True))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_memory(kind: str) -> None:
    """Peak memory above the loaded model, of our steps and of a stock trainer's under autocast with half the records."""
    stock = peak_bytes(STOCK.format(kind=kind))
    for name in (*COMPARED, "rmu"):
        ours = peak_bytes(OURS.format(kind=kind, name=name))
        MEMORY.append((f"smollm2 {name} ({kind}) / stock trainer, autocast", ours / MEBIBYTE, stock / MEBIBYTE))
