"""Delete one person exactly and cheaply, by shards: `python examples/delete_one_person.py`.

Each adapter learned from its own share of the people, so a deletion retrains one adapter and leaves the others as they are.
"""

import dataclasses
import hashlib
import tempfile
from pathlib import Path

from tiny_world import PEOPLE, TRAINING, make_base, records

from unlearn import SISA, ShardPlan, finetune_shards, forget


def digests(model_dir: Path) -> dict[str, str]:
    """Folder of every adapter -> SHA-256 of its weights."""
    found = sorted(model_dir.rglob("adapter_model.safetensors"))
    return {str(path.parent.relative_to(model_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    rows = records(PEOPLE)
    base = make_base(root / "base")
    plan = ShardPlan(shards=3, slices=1, combine="average", options=dataclasses.replace(TRAINING, lora=True))
    sharded = finetune_shards(base, rows, output_dir=root / "sharded", plan=plan).model_dir

    person = rows[0]["subject_id"]
    result = forget(sharded, SISA(), forget_set=[person], data=rows, base=base, output_dir=root / "deleted")
    before, after = digests(sharded), digests(result.model_dir)
    kept = [name for name in before if after.get(name) == before[name]]
    print(f"adapters: {len(before)}, unchanged: {len(kept)}, trained again: {len(before) - len(kept)}")
    print(f"exactness: {result.facts['exactness']}")
