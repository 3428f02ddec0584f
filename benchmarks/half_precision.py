"""Unlearning of weights stored in half precision, compared with float32.

    python benchmarks/half_precision.py --world DIR --output DIR [--earlier FIGURES.json] [--only-as-stored]

The demo's fictitious people and model. The base is stored in bfloat16 and in float16; then every method runs three times on equal
weights: as stored, with `--dtype float32`, and, to check the last step, in float32 with the result rounded to nearest. Each result
is audited against the same retrained references and evaluated in float32. Peak memory is measured on a larger model (`preset.py`)
in a separate process. Writes `figures.json` into the output and `results/half_precision.md`; `--earlier` adds the figures of
another version of this project on the same data, measured with `--only-as-stored`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "half_precision.md"
KINDS = {
    "bfloat16": ("npo", "npo, learning rate 1e-4", "npo, learning rate 1e-5", "level", "retrain", "rollback"),
    "float16": ("npo", "level"),
}
"""Methods that are run per storage type."""
REFERENCES = 4
MEANT = ("base", "stages")
"""Accepted differences: references are trained from the float32 base, so that there is no rounding in them; the originals from its
stored copies, which have no training log."""
STEPS_OF_MEMORY = 3


def methods() -> dict[str, tuple[Any, Any]]:
    """Return the methods and options: those of the demo, NPO with two smaller learning rates, and the exact rebuilds."""
    from unlearn import NPO, TrainingOptions
    from unlearn.experiments.demo import METHODS
    from unlearn.methods.level import Level
    from unlearn.methods.retrain import Retrain
    from unlearn.methods.rollback import Rollback

    options = dataclasses.replace(METHODS["npo"][1], seed=100)
    return {
        "npo": (NPO(**METHODS["npo"][0]), options),
        "npo, learning rate 1e-4": (NPO(**METHODS["npo"][0]), dataclasses.replace(options, learning_rate=1e-4)),
        "npo, learning rate 1e-5": (NPO(**METHODS["npo"][0]), dataclasses.replace(options, learning_rate=1e-5)),
        "level": (Level(), TrainingOptions(seed=100)),
        "retrain": (Retrain(), TrainingOptions(seed=100)),
        "rollback": (Rollback(), TrainingOptions()),
    }


def finished(folder: Path) -> bool:
    """Return whether a model is complete."""
    return (folder / "manifest.json").exists()


def cast(source: Path, kind: str, target: Path) -> Path:
    """Store a copy of a model rounded to nearest in a type."""
    import torch

    from verify.io.files import write_manifest
    from verify.models.loading import load_model

    if not finished(target):
        loaded = load_model(str(source))
        loaded.model.to(getattr(torch, kind)).save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)
        write_manifest(target, "model", {})
    return target


def build_world(world: Path) -> None:
    """Make data, the base in float32 and its stored copies, references, and an original trained from each stored base."""
    from unlearn.experiments.demo import BASE_OPTIONS, FINETUNE_OPTIONS, write_data
    from unlearn.finetuning import finetune
    from verify.provenance.holdout import split_holdout_file

    def train(source: str, data: str, name: str, options: Any, **named: Any) -> Path:
        folder = world / "models" / name
        if not finished(folder):
            finetune(source, str(world / "data" / f"{data}.jsonl"), output_dir=folder, options=options, **named)
            print(f"trained {name}", flush=True)
        return folder

    if not (world / "config.json").exists():
        write_data(world, 0)
    split_holdout_file(world / "data" / "holdout.jsonl", world / "data")
    base = train(str(world / "config.json"), "base", "base", BASE_OPTIONS, tokenizer=str(world / "tokenizer"))
    for number in range(REFERENCES):
        train(str(base), "retain", f"reference{number}", dataclasses.replace(FINETUNE_OPTIONS, seed=10 + number))
    for kind in KINDS:
        stored = cast(base, kind, world / "models" / f"base-{kind}")
        options = dataclasses.replace(FINETUNE_OPTIONS, seed=1)
        train(str(stored), "train", f"original-{kind}", options)
        if "rollback" in KINDS[kind]:  # the float32 run rolls back a float32 training from the same weights
            train(str(stored), "train", f"original-{kind}-in-float32", options, dtype="float32")


def run(world: Path, output: Path, kind: str, name: str, dtype: str) -> dict[str, float]:
    """Run one method on one stored model; return seconds and measurements."""
    from unlearn import forget

    folder = output / "models" / f"{name} {kind} {dtype}".replace(" ", "-").replace(",", "")
    method, options = methods()[name]
    original = world / "models" / f"original-{kind}"
    if name == "rollback" and dtype == "float32":
        original = world / "models" / f"original-{kind}-in-float32"
    if not finished(folder):
        base = str(world / "models" / f"base-{kind}")
        forget(str(original), method, **record_sets(world, "method"), base=base, output_dir=folder, options=options, dtype=dtype)
    about = json.loads((folder / "manifest.json").read_text())["about"]
    return {"seconds": about["training"]["seconds"], **judged(world, output, kind, folder)}


def record_sets(world: Path, half: str) -> dict[str, str]:
    """Return the record files as arguments, with the "method" or the "audit" half of the holdout set."""
    names = {"forget": "forget", "retain": "retain", "holdout": f"holdout-{half}"}
    return {f"{role}_set": str(world / "data" / f"{name}.jsonl") for role, name in names.items()}


def judged(world: Path, output: Path, kind: str, folder: Path) -> dict[str, float]:
    """Measure the audit's residual, forget and retain loss in float32, and the share of weights that changed."""
    from unlearn.training.weights import mean_loss, sample
    from verify import Evidence, Settings, audit
    from verify.data.sources import load_records
    from verify.models.loading import load_model

    models, data, audits = world / "models", world / "data", output / "audits" / folder.name
    if not finished(audits):
        evidence = audit(
            str(folder),
            str(models / f"original-{kind}"),
            base=str(models / "base"),
            references=[str(models / f"reference{number}") for number in range(REFERENCES)],
            **record_sets(world, "audit"),
            output_dir=audits,
            settings=Settings(attacks=("quick",)),
            cache_dir=output / "cache",
            accept=MEANT,
        )
    evidence = Evidence.load(audits / "evidence.json")
    assert evidence.residual is not None
    loaded = load_model(str(folder), dtype="float32")
    old = load_model(str(models / f"original-{kind}"), dtype="float32").model.state_dict()
    moved = [(old[key] != value) for key, value in loaded.model.state_dict().items()]
    return {
        "residual": evidence.residual.value,
        "forget_loss": mean_loss(loaded, load_records(str(data / "forget.jsonl"))),
        "retain_loss": mean_loss(loaded, sample(load_records(str(data / "retain.jsonl")), 200, 0)),
        "moved": sum(int(one.sum()) for one in moved) / sum(one.numel() for one in moved),
        "stored": json.loads((folder / "config.json").read_text())["dtype"],
    }


def memory(output: Path, kind: str, dtype: str, bf16: bool) -> dict[str, float]:
    """Measure peak memory and seconds of a few steps on the larger model, in a separate process."""
    folder = cast_preset(output, kind)
    arguments = [sys.executable, __file__, "--memory", str(folder), dtype, str(int(bf16))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def cast_preset(output: Path, kind: str) -> Path:
    """Store the larger model in a type."""
    import torch
    from preset import bench_model

    folder = output / f"preset-{kind}"
    if not folder.exists():
        bench_model().to(getattr(torch, kind)).save_pretrained(folder)
    return folder


def measure_memory(folder: Path, dtype: str, bf16: bool) -> None:
    """Train for a few steps, in the child process; print peak bytes above those before loading, and seconds per step."""
    import tempfile

    import torch
    from preset import BATCH, bench_windows
    from transformers import AutoModelForCausalLM

    from unlearn import TrainingOptions
    from unlearn.training import run as module
    from unlearn.training.losses import LikelihoodLoss
    from verify.training.schedule import Lengths, PairSampler

    torch.set_num_threads(1)
    windows = bench_windows(BATCH * STEPS_OF_MEMORY)
    before = _status("VmRSS")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    options = TrainingOptions(max_steps=STEPS_OF_MEMORY, batch_size=BATCH, bf16=bf16, learning_rate=1e-3)
    sampler = PairSampler(len(windows), 0, 0, Lengths([len(window.input_ids) for window in windows], (), BATCH))
    copies = getattr(module, "float32_copies", None)
    with tempfile.TemporaryDirectory() as work:
        began = time.monotonic()
        loss = LikelihoodLoss(windows, 0)
        if copies is None:
            module._train(model, options, Path(work), loss, sampler)  # a version before the float32 copies
        else:
            with copies(model, list(model.parameters()), 0):
                module.train_pairs(model, loss, sampler, module.Run((), options, Path(work)))
        seconds = time.monotonic() - began
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"bytes_per_weight": (_status("VmHWM") - before) / weights, "seconds_per_step": seconds / STEPS_OF_MEMORY}))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def collect(world: Path, output: Path, only_as_stored: bool) -> dict[str, Any]:
    """Collect all figures."""
    figures: dict[str, Any] = {"methods": {}, "memory": {}}
    for kind, names in KINDS.items():
        figures["methods"][kind] = {"original": judged(world, output, kind, world / "models" / f"original-{kind}")}
        for name in names:
            if only_as_stored:
                figures["methods"][kind][name] = {"auto": run(world, output, kind, name, "auto")}
                print(kind, name, figures["methods"][kind][name], flush=True)
                continue
            found = {way: run(world, output, kind, name, way) for way in ("float32", "auto")}
            folder = output / "models" / f"{name} {kind} float32".replace(" ", "-").replace(",", "")
            nearest = cast(folder, kind, folder.with_name(f"{folder.name}-nearest"))
            found["nearest"] = {"seconds": found["float32"]["seconds"], **judged(world, output, kind, nearest)}
            figures["methods"][kind][name] = found
            print(kind, name, {way: round(one["residual"], 4) for way, one in found.items()}, flush=True)
    for kind, dtype, bf16 in (
        ("float32", "float32", False),
        ("bfloat16", "float32", False),
        ("bfloat16", "bfloat16", False),
        ("float16", "float16", False),
    ):
        figures["memory"][f"{kind}, --dtype {dtype}"] = memory(output, kind, dtype, bf16)
    return figures


def main() -> None:
    """Measure everything and write the page."""
    if "--memory" in sys.argv:
        folder, dtype, bf16 = sys.argv[2:]
        measure_memory(Path(folder), dtype, bool(int(bf16)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--earlier", type=Path, help="figures.json of another version")
    parser.add_argument("--only-as-stored", action="store_true", help="no runs in float32, and figures.json alone")
    given = parser.parse_args()
    from half_precision_table import table

    from verify.data.identity import KEY_VARIABLE
    from verify.io.libraries import quiet_libraries

    quiet_libraries()
    given.output.mkdir(parents=True, exist_ok=True)
    given.world.mkdir(parents=True, exist_ok=True)
    os.environ[KEY_VARIABLE] = str(given.world / "record.key")
    build_world(given.world)
    figures = collect(given.world, given.output, given.only_as_stored)
    (given.output / "figures.json").write_text(json.dumps(figures, indent=1))
    earlier = None if given.earlier is None else json.loads(given.earlier.read_text())
    if not given.only_as_stored:
        RESULTS.write_text(table(figures, earlier), encoding="utf-8")


if __name__ == "__main__":
    main()
