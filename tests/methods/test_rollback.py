"""Rollback is exact: the same bits as training the same schedule with the records left out."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import rolled_back
from new_processes import in_new_process
from peft import PeftModel

import verify.training.replay
from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.rollback import Rollback
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError, RunError
from verify.io.files import MANIFEST
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.provenance.training_log import Stretch
from verify.training.adapters import attach_adapter
from verify.training.optimizers import UNDECAYED
from verify.training.replay import OPTIMIZER
from verify.training.software import software

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(14)]
OPTIONS = TrainingOptions(
    learning_rate=1e-3, epochs=1, batch_size=2, gradient_accumulation=2, save_steps=1, weight_decay=0.1, warmup_ratio=0.3, seed=5
)


def last_seen(model: Path, rows: list[dict[str, Any]], count: int = 2) -> list[dict[str, Any]]:
    """The records that training saw last, so that there is something to roll back to."""
    log, key = TrainingLog.read(model / LOG_NAME), RecordKey.load()
    order = [index for entry in log.microbatches for index in entry.records][-count:]
    names = {log.records[index] for index in order}
    return [row for row, record in zip(rows, load_records(rows), strict=True) if key.of(record.fingerprint) in names]


def by_hand(base: Path, log: TrainingLog, rows: list[dict[str, Any]], gone: list[dict[str, Any]]) -> tuple[Any, Any]:
    """The obvious loop from the very beginning, with the records left out; model and optimizer."""
    from transformers.trainer_pt_utils import get_parameter_names

    options = TrainingOptions(**log.options)
    loaded, key = load_model(base), RecordKey.load()
    records = load_records(rows)
    windows = dict(
        zip((key.of(r.fingerprint) for r in records), Encoder(loaded.tokenizer, loaded.context_length).encode(records), strict=True)
    )
    names = {key.of(record.fingerprint) for record in load_records(gone)} if gone else set()
    model = attach_adapter(loaded.model, options).train()
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], UNDECAYED))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trained if n in decayed], "weight_decay": options.weight_decay},
        {"params": [p for n, p in trained if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
    for step in sorted({entry.step for entry in log.microbatches}):
        left = [
            (entry, [windows[log.records[i]] for i in entry.records if log.records[i] not in names])
            for entry in log.microbatches
            if entry.step == step
        ]
        tokens = sum(int(window.scored.sum()) for _, chosen in left for window in chosen)
        for entry, chosen in left:
            if chosen:
                torch.manual_seed(entry.seed)
                loss = -scored_log_probabilities(model, collate(chosen, loaded.tokenizer.pad_token_id))[0].mean()
                (loss * (sum(int(window.scored.sum()) for window in chosen) / torch.tensor(tokens))).backward()
        if tokens:
            torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = left[0][0].learning_rate
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), optimizer


def states_agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        torch.equal(value, other["state"][place][name])
        for place, entries in one["state"].items()
        for name, value in entries.items()
    )


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_rollback_is_bit_identical(dropout_dir: Path, tmp_path: Path, lora: bool, threads: int) -> None:
    """Weights and optimizer state equal those of a plain loop over the filtered schedule from the base on, with dropout."""
    options = replace(OPTIONS, lora=lora, lora_dropout=0.1 if lora else 0.0, epochs=1 if threads == 1 else 2)
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=options).model_dir
    gone = last_seen(model, ROWS)
    result = forget(
        model, Rollback(), forget_set=gone, data=ROWS, base=dropout_dir, output_dir=tmp_path / "out", options=TrainingOptions()
    )
    expected, optimizer = by_hand(dropout_dir, TrainingLog.read(model / LOG_NAME), ROWS, gone)
    assert result.digest_after == weights_digest(expected)
    assert result.digest_after != result.digest_before
    if options.epochs == 1:
        assert result.facts["replayed_from_step"] > 0
        assert result.facts["share_of_retraining_tokens"] < 0.7
    assert "bit by bit" in result.facts["exactness"]
    last = max((tmp_path / "out").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    saved = torch.load(last / OPTIMIZER, weights_only=True)
    assert states_agree(optimizer.state_dict(), saved)
    assert isinstance(load_model(tmp_path / "out").model, PeftModel) == lora


@pytest.mark.parametrize(
    ("lora", "with_base"),
    [
        (False, False),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
        (True, True),
    ],
)
def test_nothing_left_out_gives_the_model_itself(dropout_dir: Path, tmp_path: Path, lora: bool, with_base: bool) -> None:
    """The check replays the whole schedule to the model's own digest; with other weights in the log it refuses."""
    options = replace(OPTIONS, lora=lora)
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=options).model_dir
    given = {"forget_set": last_seen(model, ROWS), "data": ROWS, "base": dropout_dir if with_base else None}
    plain = forget(model, Rollback(), **given, output_dir=tmp_path / "plain")
    checked = forget(model, Rollback(check=True), **given, output_dir=tmp_path / "out")
    assert checked.facts["machine_reproduces_the_training"]
    assert checked.digest_after == plain.digest_after, "the check leaves no trace"
    log = model / LOG_NAME
    log.write_text(log.read_text().replace(str(TrainingLog.read(log).final_weights), "0" * 64))
    (model / MANIFEST).unlink()
    with pytest.raises(RunError, match="does not reproduce the model's own weights"):
        forget(model, Rollback(check=True), **given, output_dir=tmp_path / "other")


@pytest.mark.slow
def test_rollbacks_follow_each_other(dropout_dir: Path, tmp_path: Path) -> None:
    """A second deletion from the first one's result equals deleting both at once, and the log names neither."""
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=OPTIONS).model_dir
    first, second = last_seen(model, ROWS, 4)[:2], last_seen(model, ROWS, 4)[2:]
    forget(model, Rollback(), forget_set=first, data=ROWS, output_dir=tmp_path / "one")
    rest = [row for row in ROWS if row not in first]
    two = forget(tmp_path / "one", Rollback(), forget_set=second, data=rest, base=dropout_dir, output_dir=tmp_path / "two")
    both = forget(model, Rollback(), forget_set=[*first, *second], data=ROWS, base=dropout_dir, output_dir=tmp_path / "both")
    assert two.digest_after == both.digest_after
    log, key = TrainingLog.read(tmp_path / "two" / LOG_NAME), RecordKey.load()
    assert log.final_weights == two.digest_after
    assert not {key.of(record.fingerprint) for record in load_records([*first, *second])} & set(log.records)
    assert len(log.records) == len(ROWS) - 4


@pytest.mark.slow
def test_checkpoints_that_saw_the_records_are_not_kept(dropout_dir: Path, tmp_path: Path) -> None:
    """No optimizer state and no weights from after the first forget record survive in the result."""
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=OPTIONS).model_dir
    result = forget(model, Rollback(), forget_set=last_seen(model, ROWS), data=ROWS, output_dir=tmp_path / "out")
    old = {folder.name: weights_digest_of(folder) for folder in model.glob("checkpoint-*")}
    new = {folder.name: weights_digest_of(folder) for folder in (tmp_path / "out").glob("checkpoint-*")}
    begin = result.facts["replayed_from_step"]
    clean = {name for name in new if int(name.split("-")[1]) <= begin}
    assert set(new) == set(old) > clean > set(), "checkpoints from before and from after the first forget record"
    assert {name for name in new if new[name] == old[name]} == clean


def weights_digest_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_in_the_middle(dropout_dir: Path, tmp_path: Path) -> None:
    """After SIGKILL the same command takes only the steps after the replay's own checkpoint, and ends with the same bits."""
    torch.set_num_threads(1)
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=replace(OPTIONS, epochs=2)).model_dir
    whole = in_new_process(rolled_back, model, dropout_dir, ROWS, tmp_path / "whole")
    assert in_new_process(rolled_back, model, dropout_dir, ROWS, tmp_path / "killed", 5) is None
    resumed = in_new_process(rolled_back, model, dropout_dir, ROWS, tmp_path / "killed")
    assert whole is not None
    assert resumed is not None
    assert resumed.digest == whole.digest
    assert 0 < len(resumed.steps) < len(whole.steps)


@pytest.mark.slow
def test_the_log_says_what_computed_which_steps(dropout_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the state it starts from what the training's log says, then the replay: of one resumed elsewhere each part its own."""
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=OPTIONS).model_dir
    path, taken = model / LOG_NAME, verify.training.replay._step
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "training"'))
    (model / MANIFEST).unlink()

    def delete(output: str) -> tuple[Stretch, ...]:
        forget(model, Rollback(), forget_set=last_seen(model, ROWS, 6), data=ROWS, output_dir=tmp_path / output)
        return TrainingLog.read(tmp_path / output / LOG_NAME).stretches

    def interrupted(*given: Any) -> int:
        if given[3][0].step == 4:
            raise KeyboardInterrupt
        return taken(*given)

    here, before = software(torch.device("cpu")), {**software(torch.device("cpu")), "torch": "training"}
    assert delete("whole") == (Stretch(0, before), Stretch(2, here))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(verify.training.replay, "software", lambda _: {"torch": "elsewhere"})
        elsewhere.setattr(verify.training.replay, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            delete("resumed")
    assert delete("resumed") == (Stretch(0, before), Stretch(2, {"torch": "elsewhere"}), Stretch(3, here))


def test_what_rollback_cannot_do(dropout_dir: Path, tmp_path: Path) -> None:
    """No log, no starting point, a wrong base, a retained record that is missing: each is refused with what to type."""
    model = finetune(dropout_dir, ROWS, output_dir=tmp_path / "model", options=replace(OPTIONS, save_steps=0)).model_dir
    with pytest.raises(InputError, match="--save-steps"):
        forget(dropout_dir, Rollback(), forget_set=ROWS[:2], data=ROWS, output_dir=tmp_path / "a")
    with pytest.raises(InputError, match="--base DIR"):
        forget(model, Rollback(), forget_set=ROWS[:2], data=ROWS, output_dir=tmp_path / "b")
    unlogged = shutil.copytree(model, tmp_path / "unlogged", ignore=shutil.ignore_patterns(LOG_NAME, MANIFEST))
    with pytest.raises(InputError, match="not the model"):
        forget(model, Rollback(), forget_set=ROWS[:2], data=ROWS, base=str(unlogged), output_dir=tmp_path / "c")
    with pytest.raises(InputError, match="--data"):
        forget(model, Rollback(), forget_set=ROWS[:2], retain_set=ROWS[2:9], base=dropout_dir, output_dir=tmp_path / "d")
