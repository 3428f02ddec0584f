"""TOFU end to end: train on 60 authors, unlearn 10 by five methods, audit each result against four retrainings.

    python benchmarks/tofu.py --start stories260k|scratch --output DIR [--shared-data DIR]

`stories260k` starts from the trained 260k-parameter model, `scratch` from random weights of a larger one. Writes
`benchmarks/results/tofu_START.md` with the machine, the versions and the table.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import torch
import transformers

from unlearn.experiments.comparison import Experiment, Methods
from unlearn.experiments.people import train_tokenizer
from unlearn.finetuning import finetune
from unlearn.training.options import TrainingOptions
from verify.cli.console import progress_bar
from verify.data.records import Fields
from verify.io.files import write_json, write_text
from verify.io.libraries import quiet_libraries
from verify.report.html import render_comparison
from verify.report.text import comparison

ROOT = Path(__file__).parents[1]
AUTHORS, FORGOTTEN, PER_AUTHOR = 60, 10, 20
METHODS: Methods = {
    "gradient_ascent": ({}, TrainingOptions(learning_rate=3e-4, epochs=10, batch_size=32)),
    "grad_diff": ({"gamma": 0.2}, TrainingOptions(learning_rate=1e-3, epochs=10, batch_size=16)),
    "npo": ({"alpha": 3.0}, TrainingOptions(learning_rate=1e-3, epochs=10, batch_size=16)),
    "task_vector": ({}, TrainingOptions(learning_rate=1e-3, epochs=5, batch_size=16)),
    "retrain": ({}, TrainingOptions()),
}
SCRATCH = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


def write_data(shared: Path, folder: Path) -> None:
    """Write the last 60 authors of the full set; the last 10 of them are TOFU's forget05."""
    rows = [json.loads(line) for line in (shared / "tofu" / "full.json").read_text().splitlines()][-AUTHORS * PER_AUTHOR :]
    cut = len(rows) - FORGOTTEN * PER_AUTHOR
    holdout = json.loads((shared / "tofu" / "holdout10.json").read_text())
    for name, part in {"train": rows, "retain": rows[:cut], "forget": rows[cut:], "holdout": holdout}.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in part))


def pretrained_base(shared: Path, output: Path) -> Path:
    """Convert stories260K to a `transformers` folder."""
    sys.path.insert(0, str(ROOT / "tests"))
    from stories260k import convert

    return convert(shared / "stories260k", output / "base")


def random_base(shared: Path, output: Path) -> Path:
    """Train a small base from random weights; its tokenizer sees Wikipedia text only, so that it has no trace of the authors."""
    text = (shared / "wikitext2_valid_test" / "valid.txt").read_text()
    tokenizer = train_tokenizer([line for line in text.splitlines() if line.strip()], 2048)
    tokenizer.save_pretrained(str(output / "tokenizer"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(output / "config.json", {**SCRATCH, "vocab_size": len(tokenizer), **ids})
    # One epoch over Wikipedia text, so that every run starts from the same weights.
    lines = [{"text": line.strip()} for line in text.splitlines() if 80 < len(line) < 600][:4000]
    options = TrainingOptions(learning_rate=3e-3, epochs=1, batch_size=16, warmup_ratio=0.05, overflow="split")
    base = finetune(
        str(output / "config.json"), lines, output_dir=output / "base", tokenizer=str(output / "tokenizer"), options=options
    )
    return base.model_dir


def main() -> None:
    """Run one start and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", choices=("stories260k", "scratch"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument(
        "--shared-data", type=Path, default=Path(os.environ.get("UNLEARN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    )
    given = parser.parse_args()
    quiet_libraries()
    write_data(given.shared_data, given.output / "data")
    base = (pretrained_base if given.start == "stories260k" else random_base)(given.shared_data, given.output)
    rate = 4e-3 if given.start == "stories260k" else 2e-3
    options = TrainingOptions(
        learning_rate=rate,
        epochs=given.epochs,
        batch_size=16,
        warmup_ratio=0.1,
        weight_decay=0.1,
        overflow="split",
        logging_steps=100,
    )
    fields = Fields(prompt="question", completion="answer")
    experiment = Experiment(given.output, base, given.output / "data", options, METHODS, fields=fields)
    with progress_bar("fine-tuning") as progress:
        entries = experiment.run(progress)
    table = comparison(entries)
    write_text(given.output / "report.html", render_comparison(entries))
    about = (
        f"# TOFU, {AUTHORS} authors, {FORGOTTEN} to forget, from {given.start}\n\n"
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{given.epochs:g} epochs. Controls: TOFU's holdout10 (400 records).\n\n"
    )
    gates = "\n".join(f"- {gate.name}: {gate.reason}" for gate in entries[0][1].gates)
    write_text(
        ROOT / "benchmarks" / "results" / f"tofu_{given.start}.md",
        f"{about}```\n{table}\n```\n\nGates of the untouched model's audit:\n\n{gates}\n",
    )
    print(table)


if __name__ == "__main__":
    main()
