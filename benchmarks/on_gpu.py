"""SmolLM2 on a GPU: steps of every objective against a stock trainer's, one pass over ten thousand records, peak memory.

    python benchmarks/on_gpu.py --output DIR

Steps are taken in bfloat16 under autocast, with deterministic kernels as in a run; the stock trainer fine-tunes on the forget
records alone, without them. A step of an objective with a retain set reads twice the records. Operations are counted as in
`test_smollm2`; shares are of the rate of a product of two square matrices of 8,192 rows in bfloat16, measured in the same run.

Everything is written after each measurement; what the time limit leaves out is missing.
"""

import argparse
import copy
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers
from preset import smollm2_model, smollm2_windows, stock_batches
from test_smollm2 import COMPARED, KINDS, OBJECTIVES, RATES
from test_training_steps import objective_steps, product_rate, roles_read, stock_step_times
from timing import clock

from unlearn import TrainingOptions
from unlearn.methods.scrub import SCRUB
from unlearn.training.arguments import token_counts
from unlearn.training.method import InsideLayers
from verify.models.token_stats import compute_token_statistics
from verify.training.adapters import attach_adapter
from verify.training.deterministic import deterministic

STEPS = 10
"""Of each side, of which the first two are not timed."""
BATCHES = (16, 32)
MEBIBYTE = 2**20
Roles = dict[str, Any]


class Report:
    """The measurements, written to a file after each."""

    def __init__(self, path: Path, limit: float) -> None:
        self.path, self.ends = path, time.monotonic() + limit
        self.found: dict[str, Any] = {"steps": [], "stock steps": []}

    def add(self, name: str, value: Any) -> None:
        """Note a measurement, and write all."""
        if isinstance(self.found.get(name), list):
            self.found[name].append(value)
        else:
            self.found[name] = value
        self.path.write_text(json.dumps(self.found, indent=1))

    def late(self) -> bool:
        """Return whether the time limit is over."""
        return time.monotonic() > self.ends


def peak(device: torch.device, run: Callable[[], Any]) -> tuple[Any, float | None]:
    """Return what a run gives, and its peak memory on a GPU above that at its start, in MiB."""
    if device.type != "cuda":
        return run(), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = run()
    return found, (torch.cuda.max_memory_allocated() - before) / MEBIBYTE


def prepared(model: Any, kind: str) -> Any:
    """Copy a model, with an adapter if one is to be trained."""
    return attach_adapter(copy.deepcopy(model), TrainingOptions(lora=kind == "lora", lora_rank=16))


def step(report: Report, model: Any, name: str, kind: str, batch: int, roles: Roles, *, exact: bool = True) -> None:
    """Time the steps of an objective."""
    objective, device = OBJECTIVES[name], model.device
    options = TrainingOptions(
        max_steps=STEPS, batch_size=batch, logging_steps=STEPS, learning_rate=RATES[kind], scheduler="constant", bf16=True
    )
    given = {"forget_level": [-3.0] * sum(int(window.scored.sum()) for window in roles["forget"])} if name == "level" else None
    own = prepared(model, kind)
    with tempfile.TemporaryDirectory() as folder, deterministic(own) if exact else nullcontext():
        (seconds, losses), memory = peak(device, lambda: objective_steps(own, objective, roles, Path(folder), options, given))
    read = roles_read(objective, roles)
    work = (
        None
        if isinstance(objective, InsideLayers)
        else counted(model, read, kind) / (len(read) if isinstance(objective, SCRUB) else 1)
    )
    median = statistics.median(seconds)
    entry = {"objective": name, "kind": kind, "batch": batch, "deterministic": exact, "ms": 1e3 * median, "peak_mib": memory}
    share = {} if work is None else {"share_of_rate": work / median / report.found["rate"]}
    report.add("steps", {**entry, **share, "loss": losses[-1] if losses else None})


def stock_step(report: Report, model: Any, kind: str, batch: int, windows: Any) -> None:
    """Time the steps of a stock trainer that fine-tunes."""
    own = prepared(model, kind)
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory = peak(model.device, lambda: stock_step_times(own, windows, Path(folder), STEPS, bf16=True, batch=batch))
    report.add("stock steps", {"kind": kind, "batch": batch, "ms": 1e3 * statistics.median(seconds), "peak_mib": memory})


def counted(model: Any, roles: Roles, kind: str) -> float:
    """Count the operations of a step's products, as in `test_smollm2`."""
    layers, head = (sum(part.numel() for part in module.parameters()) for module in (model.model.layers, model.lm_head))
    windows = list(itertools.chain(*roles.values()))
    each = layers * sum(token_counts(windows)) + head * sum(int(window.scored.sum()) for window in windows)
    return (6 if kind == "full" else 4) * each / STEPS


def one_pass(report: Report, model: Any, records: int) -> None:
    """Time all token statistics of many records, and stock loss passes over them sorted by length, in bfloat16."""
    half, windows = copy.deepcopy(model).to(torch.bfloat16), smollm2_windows(records)
    batches = stock_batches(sorted(windows, key=lambda window: len(window.input_ids)), 128)

    def stock() -> None:
        with torch.inference_mode():
            for batch in batches:
                half(**{name: values.to(half.device) for name, values in batch.items()}).loss.item()

    for name, run in (("ours", lambda: compute_token_statistics(half, windows, 0)), ("stock", stock)):
        run()
        seconds, memory = peak(model.device, lambda run=run: seconds_of(run))  # type: ignore[misc]
        work = 2 * counted(model, {"all": windows}, "lora") * STEPS / 4
        about = {"records": records, "tokens": sum(token_counts(windows)), "seconds": seconds, "peak_mib": memory}
        report.add(f"one pass, {name}", {**about, "share_of_rate": work / seconds / report.found["rate"]})


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = clock()
    run()
    return clock() - started


def cells() -> Iterator[tuple[str, str, int, bool]]:
    """Yield objective, kind, batch size, and whether its kernels are deterministic, the most wanted first."""
    for batch, kind, name in itertools.product(BATCHES, KINDS, COMPARED):
        yield name, kind, batch, True
    for kind, name in itertools.product(KINDS, ("fine-tuning", "npo")):
        yield name, kind, BATCHES[0], False
    for kind, name in itertools.product(KINDS, OBJECTIVES):
        if name not in COMPARED:
            yield name, kind, BATCHES[0], True


def main() -> None:
    """Measure, and write on_gpu.json into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=130.0, help="nothing is begun after these")
    parser.add_argument("--records", type=int, default=10_000)
    given = parser.parse_args()
    report, device = Report(given.output / "on_gpu.json", given.seconds), torch.device(given.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    report.add("machine", {"name": machine, "torch": torch.__version__, "transformers": transformers.__version__})
    size = 8192 if device.type == "cuda" else 1024
    report.add("rate", product_rate(size, torch.bfloat16, device))
    model = smollm2_model().to(device)
    one_pass(report, model, given.records)
    sets = {
        batch: {role: smollm2_windows(batch * STEPS, seed) for seed, role in enumerate(("forget", "retain", "alternative"))}
        for batch in BATCHES
    }
    for kind, batch in itertools.product(KINDS, BATCHES):
        stock_step(report, model, kind, batch, sets[batch]["forget"])
    for name, kind, batch, exact in cells():
        if report.late():
            break
        step(report, model, name, kind, batch, sets[batch], exact=exact)


if __name__ == "__main__":
    main()
