"""The commitment to a training: one root over the log, states that the steps reproduce, and every change found."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn import TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods.rollback import Rollback
from unlearn.training.shards import ShardPlan
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.models.loading import load_model
from verify.provenance.commitment import TrainingCommitment, chain_root, commitment_root, log_root
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.training.adapters import attach_adapter
from verify.training.replay import replay, windows_of_log
from verify.training.state import StateDigest, state_digest

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(10)]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=2, lora=True, lora_dropout=0.1, seed=3)


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("committed") / "model"
    return finetune(model_dir, ROWS, output_dir=output, options=OPTIONS).model_dir


def test_the_root_by_hand() -> None:
    """The chain over two lines, written out with hashlib alone; order, split and content all count."""
    import hashlib

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    start = sha(b"unlearn-verify/training-commitment/1")
    assert chain_root([b"one", b"two"]) == sha(sha(start + sha(b"one")) + sha(b"two")).hex()
    roots = {chain_root(lines) for lines in ([b"one", b"two"], [b"two", b"one"], [b"onetwo"], [b"one"], [b"one", b"two", b""])}
    assert len(roots) == 5


def test_the_states_are_those_of_the_steps(trained: Path, model_dir: Path, tmp_path: Path) -> None:
    """A replay of the log from the base passes through every committed state, weights and moments, bit for bit."""
    log, base = TrainingLog.read(trained / LOG_NAME), load_model(model_dir)
    windows = windows_of_log(log, load_records(ROWS), base, RecordKey.load(), frozenset())
    seen: dict[int, StateDigest] = {}
    model = attach_adapter(base.model, TrainingOptions(**log.options))
    replay(model, base.tokenizer, log, windows, tmp_path, start=None, observe=seen.__setitem__, keep=False)
    committed = {one.step: StateDigest(str(one.weights), str(one.optimizer)) for one in log.boundaries if one.optimizer}
    assert len(committed) == 3
    assert all(seen[step] == state for step, state in committed.items())
    assert len({state.optimizer for state in seen.values()}) == len(seen) == 4, "the start, and three states"
    assert {one.threads for one in log.boundaries} == {torch.get_num_threads()}
    assert not list(tmp_path.iterdir()), "nothing is kept"


def test_a_state_digest_sees_every_bit(model_dir: Path) -> None:
    """One bit of a weight or of a moment gives another digest; a frozen weight does not count."""
    model: Any = attach_adapter(load_model(model_dir).model, OPTIONS)
    name, weight = next((name, value) for name, value in model.named_parameters() if value.requires_grad)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
    sum(value.sum() for value in model.parameters() if value.requires_grad).backward()
    optimizer.step()
    before = state_digest(model, optimizer)
    moment = optimizer.state[weight]["exp_avg"]
    moment.view(-1).view(torch.int32)[0] ^= 1
    other = state_digest(model, optimizer)
    assert (other.weights, other.optimizer == before.optimizer) == (before.weights, False), name
    weight.data.view(-1).view(torch.int32)[0] ^= 1
    assert state_digest(model, optimizer).weights != before.weights
    now = state_digest(model, optimizer)
    next(value for value in model.parameters() if not value.requires_grad).data.add_(1)
    assert state_digest(model, optimizer) == now


def test_the_manifest_holds_the_root(trained: Path) -> None:
    """The manifest's root is the log's, and that of a commitment made afterwards."""
    root = read_json(trained / MANIFEST)["about"]["commitment"]
    assert root == log_root(trained / LOG_NAME) == TrainingCommitment.of(trained).root == commitment_root(trained)


Change = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [*lines[:2], lines[2], *lines[2:]],
        lambda lines: [*lines[:1], lines[2], lines[1], *lines[3:]],
        lambda lines: [line.replace('"rate": ', '"rate": 1') if '"microbatch": 1,' in line else line for line in lines],
        lambda lines: [line.replace('"threads": 1', '"threads": 2') for line in lines],
    ],
    ids=["dropped", "added", "reordered", "another rate", "threads"],
)
def test_a_changed_log_is_not_the_committed_one(trained: Path, tmp_path: Path, change: Change) -> None:
    """A line dropped, added, reordered or edited is found, with the log named; the untouched folder passes."""
    commitment, copy = TrainingCommitment.of(trained), tmp_path / "copy"
    commitment.require(trained)
    shutil.copytree(trained, copy)
    lines = (copy / LOG_NAME).read_text().splitlines()
    changed = change(lines)
    assert changed != lines
    # Numbers of microbatches that no longer count up are refused by the reader already.
    (copy / LOG_NAME).write_text("\n".join(changed) + "\n")
    with pytest.raises(InputError, match=r"not the committed one|not a training log"):
        commitment.require(copy)


def test_a_commitment_file_round_trips_and_refuses_damage(trained: Path, tmp_path: Path) -> None:
    """Written and read it is the same; truncated, hostile and empty files are refused with what to give."""
    path = tmp_path / "commitment.json"
    TrainingCommitment.of(trained).save(path)
    text = path.read_text()
    assert TrainingCommitment.load(path).logs == TrainingCommitment.of(trained).logs
    hostile = {**json.loads(text), "logs": [{**json.loads(text)["logs"][0], "root": "../x"}]}
    for damaged in (text[:-20], "", "[]", json.dumps(hostile), text.replace('"logs"', '"logs": [], "logs"')):
        path.write_text(damaged)
        with pytest.raises(InputError, match="verify-unlearning commit"):
            TrainingCommitment.load(path)


def test_there_must_be_a_finished_log(trained: Path, model_dir: Path, tmp_path: Path) -> None:
    """Without a log, or with one of a run that did not finish, nothing can be committed to."""
    with pytest.raises(InputError, match="holds no training log"):
        TrainingCommitment.of(model_dir)
    lines = (trained / LOG_NAME).read_text().splitlines()
    (tmp_path / LOG_NAME).write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="did not finish"):
        TrainingCommitment.of(tmp_path)
    assert commitment_root(tmp_path) is None


@pytest.mark.slow
def test_a_rollback_keeps_the_clean_states_and_commits_anew(trained: Path, model_dir: Path, tmp_path: Path) -> None:
    """States before the first forget record are the old log's; those after it are of the new steps; the manifest has its root."""
    log, key = TrainingLog.read(trained / LOG_NAME), RecordKey.load()
    last = log.records[log.microbatches[-1].records[-1]]
    gone = [row for row, record in zip(ROWS, load_records(ROWS), strict=True) if key.of(record.fingerprint) == last]
    forget(trained, Rollback(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "out")
    again = TrainingLog.read(tmp_path / "out" / LOG_NAME)
    old, new = ({one.step: one for one in each.boundaries if one.optimizer} for each in (log, again))
    assert set(old) == set(new)
    assert [step for step in old if old[step] == new[step]] == [2, 4]
    assert read_json(tmp_path / "out" / MANIFEST)["about"]["commitment"] == log_root(tmp_path / "out" / LOG_NAME)


def test_stages_of_shards_are_logged(model_dir: Path, tmp_path: Path) -> None:
    """Every stage has a log that starts where the stage before it ended, and one root stands for all."""
    plan = ShardPlan(2, 2, "average", replace(OPTIONS, save_steps=0, epochs=2))
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "shards", plan=plan)
    commitment = TrainingCommitment.of(tmp_path / "shards")
    logs = {entry.place: entry for entry in commitment.logs}
    assert set(logs) <= {f"shard-{shard}/slice-{stage}" for shard in (0, 1) for stage in (0, 1)}
    assert len(logs) > 2
    both = [shard for shard in (0, 1) if {f"shard-{shard}/slice-0", f"shard-{shard}/slice-1"} <= set(logs)]
    assert both
    assert all(logs[f"shard-{shard}/slice-1"].start_weights == logs[f"shard-{shard}/slice-0"].final_weights for shard in both)
    assert read_json(tmp_path / "shards" / MANIFEST)["about"]["commitment"] == commitment.root
