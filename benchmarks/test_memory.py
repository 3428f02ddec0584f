"""Peak memory above the loaded model, measured per side in a separate process by the kernel's high-water mark."""

import subprocess
import sys
from pathlib import Path

import pytest
from timing import MEMORY

MEBIBYTE = 2**20
MODEL_BYTES = 22.7e6 * 4
HEADER = """
import gc, sys, tempfile
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
from preset import BATCH, bench_model, bench_windows, stock_batches
torch.set_num_threads(2)

def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024

def peak(run):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # reset the high-water mark to the current memory
    before = status("VmRSS")
    run()
    print(status("VmHWM") - before)

model = bench_model()
"""
ONE_PASS = """
from verify.models.token_stats import compute_token_statistics
windows = bench_windows(64)
compute_token_statistics(model, windows[:1], 0)
peak(lambda: compute_token_statistics(model, windows, 0))
"""
STOCK_PASS = """
batches = stock_batches(bench_windows(64))
@torch.inference_mode()
def run(count):
    for batch in batches[:count]:
        model(**batch).loss.item()
with torch.inference_mode():
    model(**stock_batches(bench_windows(1), 1)[0])
peak(lambda: run(None))
"""
TRAINING = """
from test_training_steps import objective_step_times, stock_step_times
from unlearn.methods.{module} import {name} as Objective
windows = bench_windows(BATCH * 12)
with tempfile.TemporaryDirectory() as folder:
    peak(lambda: objective_step_times(model, Objective(), windows, Path(folder)))
"""
STOCK_TRAINING = """
from test_training_steps import stock_step_times
windows = bench_windows(BATCH * 12)
with tempfile.TemporaryDirectory() as folder:
    peak(lambda: stock_step_times(model, windows, Path(folder)))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")


def peak_bytes(program: str) -> int:
    """Run a program after the header and read the number it prints last."""
    source = HEADER.format(folder=str(Path(__file__).parent)) + program
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def test_token_statistics_need_no_more_than_a_loss_pass() -> None:
    """All statistics fit in the peak memory of a stock loss pass over the same padded batches."""
    ours, stock = peak_bytes(ONE_PASS), peak_bytes(STOCK_PASS)
    MEMORY.append(("token statistics / stock loss pass (target 1)", ours / MEBIBYTE, stock / MEBIBYTE))
    assert ours <= stock


def test_npo_holds_no_second_model() -> None:
    """NPO needs what grad_diff needs, which has no reference model, to within half a model."""
    npo, plain, stock = (
        peak_bytes(program)
        for program in (
            TRAINING.format(module="npo", name="NPO"),
            TRAINING.format(module="grad_diff", name="GradDiff"),
            STOCK_TRAINING,
        )
    )
    MEMORY.append(("npo / grad_diff (target: no second model)", npo / MEBIBYTE, plain / MEBIBYTE))
    MEMORY.append(("npo / stock trainer on the forget batch", npo / MEBIBYTE, stock / MEBIBYTE))
    assert npo - plain < MODEL_BYTES / 2
