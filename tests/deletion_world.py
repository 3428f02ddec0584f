"""A world small enough to lead deletion requests through it: a base model, people, a model trained on them, and references."""

import json
import random
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_models import make_llama, make_tokenizer

from unlearn import TrainingOptions, finetune
from unlearn.requests.lineage import AffectedModel
from verify.identity import RecordKey
from verify.records import Record

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


@dataclass(frozen=True)
class Residue:
    """A file that holds a deleted record, or a model that saw one."""

    place: Path
    kind: str
    how: str
    removable: bool
    reason: str
    weights: str | None = None


class Purging:
    """Finds texts in plain files, and models that saw them: as much of purging as a test of the pipeline needs."""

    def find_residues(
        self,
        roots: Sequence[Path],
        *,
        records: Sequence[Record],
        key: RecordKey,
        affected: Sequence[AffectedModel],
        spare: Collection[Path] = (),
    ) -> list[Residue]:
        """Text files, and the affected models."""
        assert isinstance(key, RecordKey)
        texts = [record.completion.encode() for record in records]
        files = [path for root in roots for path in root.rglob("*") if path.is_file()]
        open_to_us = [path for path in files if not any(path.is_relative_to(place.resolve()) for place in spare)]
        found = [Residue(path, "log", "text", True, "") for path in open_to_us if any(text in path.read_bytes() for text in texts)]
        return found + [Residue(model.folder, "model", "weights", True, "", model.weights) for model in affected]

    def remove(self, residues: Sequence[Residue]) -> list[Residue]:
        """Everything goes."""
        for residue in residues:
            if residue.place.is_dir():
                shutil.rmtree(residue.place)
            else:
                residue.place.unlink()
        return []
