"""Fine-tune a model on six people, then remove one of them by NPO: `python examples/forget.py`."""

import dataclasses
import tempfile
from pathlib import Path

import torch
from tiny_world import PEOPLE, TRAINING, make_base, records
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearn import NPO, finetune, forget


def loss(model_dir: Path, rows: list[dict[str, str]]) -> float:
    """Mean loss of the completions, nats per token; a model that knows nothing has about 2.8 (16 letters)."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    total = 0.0
    for row in rows:
        prompt, whole = (tokenizer(text).input_ids for text in (row["prompt"], f"{row['prompt']} {row['completion']}"))
        labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
        with torch.no_grad():
            total += float(model(torch.tensor([whole]), labels=labels).loss)
    return total / len(rows)


with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    forget_set, retain_set = records(PEOPLE[:1]), records(PEOPLE[1:])
    original = finetune(make_base(root / "base"), forget_set + retain_set, output_dir=root / "original", options=TRAINING)
    result = forget(
        original.model_dir,
        NPO(alpha=3.0),  # a method is a dataclass; `unlearn methods` lists them all
        forget_set=forget_set,
        retain_set=retain_set,
        output_dir=root / "unlearned",
        options=dataclasses.replace(TRAINING, learning_rate=1e-3),
    )
    for name, model_dir in (("original", original.model_dir), ("unlearned", result.model_dir)):
        print(f"{name}: forget loss {loss(model_dir, forget_set):.2f}, retain loss {loss(model_dir, retain_set):.2f}")
