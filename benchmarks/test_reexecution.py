"""Time of a commitment as a share of training, and of a re-execution against the deletion that it checks.

The preset's model on questions and answers of about 25 tokens each, all weights and LoRA, with 20 states in the run.
"""

import json
import shutil
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preset import BATCH, bench_model
from test_audit_share import WORDS, invented
from timing import SHARES, note, timed

import unlearn.training.saving
import unlearn.training.trainer
from unlearn import TrainingOptions, finetune, forget
from unlearn.experiments.people import train_tokenizer
from unlearn.methods.rollback import Rollback
from unlearn.training.log import LogWriter
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import MANIFEST, read_json
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.reexecute import reexecute

STEPS, ROUNDS = 40, 3
OPTIONS = TrainingOptions(epochs=1, batch_size=BATCH, save_steps=STEPS // 20, lora=True, lora_rank=16, seed=1)
KINDS = {"LoRA of rank 16": OPTIONS, "all weights": replace(OPTIONS, lora=False)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """Save the preset's model with a tokenizer of the records' words, and the records."""
    folder = tmp_path_factory.mktemp("base")
    rows = invented("r", STEPS * BATCH, np.random.default_rng(0))
    train_tokenizer([row["prompt"] + row["completion"] for row in rows], WORDS).save_pretrained(folder)
    bench_model().save_pretrained(folder)
    return folder, rows


@pytest.mark.parametrize("kind", KINDS)
def test_commitment(benchmark: Any, base: Any, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time log, digests of states and root as a share of the training they belong to."""
    folder, rows = base
    spent: dict[str, float] = defaultdict(float)
    for name in ("begin", "microbatch", "step", "end"):
        monkeypatch.setattr(LogWriter, name, timed(spent, "log", getattr(LogWriter, name)))
    monkeypatch.setattr(LogWriter, "checkpoint", timed(spent, "log", LogWriter.checkpoint))
    monkeypatch.setattr(unlearn.training.trainer, "state_digest", timed(spent, "states", unlearn.training.trainer.state_digest))
    monkeypatch.setattr(unlearn.training.saving, "commitment_root", timed(spent, "root", unlearn.training.saving.commitment_root))
    finetune(folder, rows, output_dir=tmp_path / "model", options=KINDS[kind])
    whole = float(read_json(tmp_path / "model" / MANIFEST)["about"]["training"]["seconds"])
    share = sum(spent.values()) / whole
    SHARES.append((f"log, 20 states and root of {STEPS} steps, {kind} (target 2 %)", share))
    seconds = {"steps": whole - sum(spent.values()), **spent}
    benchmark.extra_info.update(share=share, seconds=json.dumps(seconds))
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tail(benchmark: Any, base: Any, kind: str, tmp_path: Path) -> None:
    """Time the deletion of a record that was first seen in the middle of the run, and its re-execution, in turn."""
    folder, rows = base
    before = finetune(folder, rows, output_dir=tmp_path / "before", options=KINDS[kind]).model_dir
    TrainingCommitment.of(before).save(tmp_path / "commitment.json")
    requested = datetime.now(UTC).isoformat()
    log, key = TrainingLog.read(before / LOG_NAME), RecordKey.load()
    names = {key.of(record.fingerprint): row for row, record in zip(rows, load_records(rows), strict=True)}
    gone = [names[log.records[next(one for one in log.microbatches if one.step == STEPS // 2).records[0]]]]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        after, started = tmp_path / f"after-{number}", time.perf_counter()
        forget(before, Rollback(), forget_set=gone, data=rows, base=folder, output_dir=after)
        deleted = time.perf_counter()
        given = {"commitment": tmp_path / "commitment.json", "requested": requested}
        proof = reexecute(after, folder, data=rows, forget_set=gone, log=before, **given)
        times[0].append(time.perf_counter() - deleted)
        times[1].append(deleted - started)
        assert proof.word == "REBUILT_WITHOUT"
        shutil.rmtree(after)  # twenty states take five gigabytes
    benchmark.extra_info["ratio"] = note(f"re-execution of a tail / its deletion, {kind} (target 1.05)", *times)
    benchmark.pedantic(lambda: None, rounds=1)
