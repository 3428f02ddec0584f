"""A committed training and its deletion by rollback, as files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.rollback import Rollback
from verify.provenance.commitment import TrainingCommitment

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=1, lora=True, lora_dropout=0.1, seed=3)


@pytest.fixture(scope="session")
def rolled_back(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an auditor is given: arguments of `reexecute`. One record of 12 is gone, of six steps with a state after each."""
    top = tmp_path_factory.mktemp("rolled-back")
    (top / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (top / "forget.jsonl").write_text(json.dumps(ROWS[4]) + "\n")
    before = finetune(model_dir, top / "data.jsonl", output_dir=top / "before", options=OPTIONS).model_dir
    TrainingCommitment.of(before).save(top / "commitment.json")
    files = {"data": top / "data.jsonl", "forget_set": top / "forget.jsonl"}
    forget(before, Rollback(), **files, base=model_dir, output_dir=top / "after")
    committed = {"log": before, "commitment": top / "commitment.json", "requested": datetime.now(UTC).isoformat()}
    return {"model": top / "after", "base": model_dir, **files, **committed}
