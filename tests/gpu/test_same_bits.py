"""A training on a GPU gives the same bits whenever it is repeated there, so that replays and re-executions hold."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from on_a_gpu import OBJECTIVES, ON_A_GPU, ONE_STEP, ROWS, computing_on

from unlearn import TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods import method_classes
from unlearn.methods.retrain import Retrain
from unlearn.methods.rollback import Rollback
from unlearn.methods.shard_vectors import ShardVectors
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.training_log import GPU, LOG_NAME, TrainingLog
from verify.reexecution.reexecute import reexecute

pytestmark = ON_A_GPU


@pytest.mark.parametrize(
    "options",
    [
        TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, save_steps=2),
        TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, lora=True, lora_dropout=0.1),
        TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, bf16=True),
        TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=1, bf16=True),
        TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, gradient_checkpointing=True, lora=True),
        TrainingOptions(learning_rate=1e-4, epochs=2, batch_size=2, gradient_accumulation=2, optimizer="sophia"),
    ],
    ids=["all weights", "adapter with dropout", "bfloat16", "bfloat16 without padding", "gradient checkpointing", "Sophia"],
)
def test_a_training_gives_the_same_bits_twice(model_dir: Path, tmp_path: Path, options: TrainingOptions) -> None:
    """On the same GPU."""
    runs = [finetune(model_dir, ROWS, output_dir=tmp_path / str(number), options=options) for number in range(2)]
    assert runs[0].digest == runs[1].digest
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_unlearning_gives_the_same_bits_twice(model_dir: Path, tmp_path: Path, name: str) -> None:
    """On the same GPU, with the retain set's and the alternatives' rows in the same pass."""
    digests = {
        forget(
            model_dir,
            method_classes()[name](),
            forget_set=ROWS[:8],
            retain_set=ROWS[8:],
            output_dir=tmp_path / str(number),
            options=replace(ONE_STEP, max_steps=3, bf16=True),
        ).digest_after
        for number in range(2)
    }
    assert len(digests) == 1


def test_a_model_without_deterministic_kernels_is_trained_with_a_warning(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning has torch's reason, and the training goes on."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def refusing(self: Any, *given: Any, **named: Any) -> Any:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("some_kernel does not have a deterministic implementation. You can ...")
        return forward(self, *given, **named)

    monkeypatch.setattr(LlamaForCausalLM, "forward", refusing)
    with pytest.warns(UserWarning, match="some_kernel does not have a deterministic implementation"):
        done = finetune(model_dir, ROWS[:4], output_dir=tmp_path / "out", options=replace(ONE_STEP, batch_size=2))
    assert done.result.steps == 1


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_a_rollback_on_the_gpu_is_rebuilt_there(model_dir: Path, tmp_path: Path, lora: bool, bf16: bool) -> None:
    """Bit for bit, with the check that the whole schedule reproduces the model; the log names the GPU, which the proof repeats."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=2, lora=lora, bf16=bf16, seed=3)
    before = finetune(model_dir, tmp_path / "data.jsonl", output_dir=tmp_path / "before", options=options).model_dir
    TrainingCommitment.of(before).save(tmp_path / "commitment.json")
    given = {"data": tmp_path / "data.jsonl", "forget_set": ROWS[4:5], "base": model_dir}
    forget(before, Rollback(check=True), **given, output_dir=tmp_path / "after")
    name = torch.cuda.get_device_name()
    assert TrainingLog.read(tmp_path / "after" / LOG_NAME).execution[GPU] == name
    committed = {"log": before, "commitment": tmp_path / "commitment.json", "requested": datetime.now(UTC).isoformat()}
    proof = reexecute(tmp_path / "after", **given, **committed)
    assert proof.word == "REBUILT_WITHOUT", proof.findings
    assert proof.environment[GPU] == name
    with computing_on("cpu"):
        elsewhere = reexecute(tmp_path / "after", **given, **committed)
    assert f"gpu {name} (here none)" in elsewhere.findings[0].what


def test_a_training_on_the_processor_is_executed_there(model_dir: Path, tmp_path: Path) -> None:
    """A log that names no GPU is executed on the processor, also where there is a GPU, and reaches its bits."""
    options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4, save_steps=2)
    with computing_on("cpu"):
        before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=options).model_dir
        forget(before, Retrain(), forget_set=ROWS[:1], data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    proof = reexecute(tmp_path / "after", model_dir, data=ROWS, forget_set=ROWS[:1])
    assert proof.word == "REBUILT_WITHOUT", proof.findings


@pytest.mark.parametrize("method", [SISA(), ShardVectors()], ids=lambda method: type(method).__name__)
def test_shards_are_rebuilt_on_the_gpu(model_dir: Path, tmp_path: Path, method: Any) -> None:
    """Trained, deleted from, and executed again."""
    options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, lora=True)
    plan = ShardPlan(2, 2, "sum" if isinstance(method, ShardVectors) else "average", options)
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "before", plan=plan)
    TrainingCommitment.of(tmp_path / "before").save(tmp_path / "commitment.json")
    given = {"data": ROWS, "forget_set": ROWS[:1], "base": model_dir}
    forget(tmp_path / "before", method, **given, output_dir=tmp_path / "after")
    proof = reexecute(
        tmp_path / "after",
        **given,
        log=tmp_path / "before",
        commitment=tmp_path / "commitment.json",
        requested=datetime.now(UTC).isoformat(),
    )
    assert proof.word == "REBUILT_WITHOUT", proof.findings
