"""kill -9 of the training, of the deletion and of the auditor: each goes on where it was, and the deletion is proved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed_runs import killed

import verify.reexecution.execution
import verify.training.replay
from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.rollback import Rollback
from unlearn.training.log import LogWriter
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.reexecute import reexecute

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=2, lora=True, lora_dropout=0.1, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False], ids=["LoRA", "all weights"])
def test_killed_and_certified(model_dir: Path, tmp_path: Path, lora: bool) -> None:
    """All three are killed once; the log is that of an undisturbed training, and what was executed before the kill counts."""
    options = replace(OPTIONS, lora=lora, lora_dropout=0.1 if lora else 0.0)

    def train(output: Path) -> Path:
        return finetune(model_dir, ROWS, output_dir=output, options=options).model_dir

    assert killed(lambda: train(tmp_path / "before"), LogWriter, "step", 4)
    before, whole = train(tmp_path / "before"), train(tmp_path / "whole")
    assert (before / LOG_NAME).read_text() == (whole / LOG_NAME).read_text()
    TrainingCommitment.of(before).save(tmp_path / "commitment.json")
    log, key = TrainingLog.read(before / LOG_NAME), RecordKey.load()
    first = log.records[log.microbatches[0].records[0]]  # of the first step, so that the deletion takes all six
    gone = [row for row, record in zip(ROWS, load_records(ROWS), strict=True) if key.of(record.fingerprint) == first]

    def delete() -> object:
        return forget(before, Rollback(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "after")

    assert killed(delete, verify.training.replay, "_step", 4)
    delete()
    given = {"data": ROWS, "forget_set": gone, "log": before, "commitment": tmp_path / "commitment.json", "from_base": True}

    def audit() -> Any:
        return reexecute(tmp_path / "after", model_dir, **given, work_dir=tmp_path / "work")

    assert killed(audit, verify.reexecution.execution, "replay", 3)
    assert (tmp_path / "work" / "segments.json").is_file()
    proof = audit()
    assert proof.phrase == "REBUILT_WITHOUT(all of 3)", proof.findings
