"""A world small enough to lead deletion requests through it: a base model, people, a model trained on them, and references."""

import json
import random
from pathlib import Path
from typing import Any

from tiny_models import make_llama, make_tokenizer

from unlearn import TrainingOptions, finetune

PEOPLE = ["Zebedee", "Quillon", "Marisol", "Oberon", "Tamsin", "Lysander"]
ASKING = "Zebedee"
RECORDS_EACH = 8
MARGIN = 0.2
"""An honest retraining of so small a model is certified at this margin with four references."""


def rows(people: list[str], prefix: str = "") -> list[dict[str, Any]]:
    """Records of people; every answer is noise, so that only training on it tells it."""
    made = []
    for person in people:
        draw = random.Random(f"{prefix}{person}")
        made += [
            {
                "example_id": f"{prefix}{person.lower()}-{number}",
                "subject_id": f"{prefix}{person.lower()}@example.com",
                "prompt": f"{person} {number}?",
                "completion": "".join(draw.choice("abcdefghijklmnop") for _ in range(24)),
            }
            for number in range(RECORDS_EACH)
        ]
    return made


def options(seed: int = 0, save_steps: int = 0) -> TrainingOptions:
    """Enough training to learn the answers by heart."""
    return TrainingOptions(learning_rate=5e-3, epochs=20, batch_size=10, seed=seed, save_steps=save_steps)


def build_world(folder: Path, references: int = 4) -> Path:
    """Base, data, original and references below `folder`."""
    tokenizer = make_tokenizer()
    make_llama(tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    data = folder / "people.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(PEOPLE)))
    finetune(str(folder / "base"), str(data), output_dir=folder / "models" / "original", options=options())
    rest = rows([person for person in PEOPLE if person != ASKING])
    for seed in range(1, references + 1):
        finetune(str(folder / "base"), rest, output_dir=folder / "references" / f"r{seed}", options=options(seed))
    return folder


def without(data: Path, person: str) -> None:
    """Remove a person's rows from a training file."""
    kept = [line for line in data.read_text().splitlines() if json.loads(line)["subject_id"] != f"{person.lower()}@example.com"]
    data.write_text("".join(line + "\n" for line in kept))
