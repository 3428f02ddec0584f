"""A quantized base under an adapter: what trains, what is saved, what is loaded again, and what is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_llama

import unlearn.cli.main
from unlearn import NPO, TrainingOptions, finetune, forget
from unlearn.experiments.reproduction import reproduce
from unlearn.methods.retrain import Retrain
from unlearn.methods.task_vector import TaskVector
from unlearn.training.lora import merged
from verify import InputError
from verify.io.files import MANIFEST
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.models.quantized import QUANTIZATION_NAME, is_quantized, quantization_of
from verify.training.adapters import attach_adapter

OPTIONS = TrainingOptions(learning_rate=1e-2, epochs=1, batch_size=4, lora=True)
needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")

Rows = Callable[[str, int], list[dict[str, str]]]


@pytest.fixture(scope="module")
def wide_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with layers of whole blocks of 64 weights, as bitsandbytes takes them."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    config = make_llama(tokenizer).config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_bitsandbytes
@pytest.mark.parametrize(("kind", "tolerance"), [("4bit", 1e-5), ("8bit", 0.03)])
def test_folding_into_dequantized_weights_keeps_what_the_model_computes(wide_dir: Path, kind: str, tolerance: float) -> None:
    """Base in few bits plus adapter, and whole weights with it folded in, give the same logits but for the products' rounding."""
    loaded = load_model(wide_dir, quantize=kind, device="cpu")
    model = attach_adapter(loaded.model, OPTIONS).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        expected = model(ids).logits
        with model.disable_adapter():
            assert (model(ids).logits - expected).abs().max() > 0.3 * expected.abs().mean(), "the adapter has to matter"
        whole = merged(model)
        found = whole(ids).logits
    assert not is_quantized(whole)
    assert all(parameter.is_floating_point() for parameter in whole.parameters())
    assert (found - expected).abs().mean() < tolerance * expected.abs().mean()


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_an_evaluation_changes_neither_gradients_nor_digest(wide_dir: Path, kind: str) -> None:
    """The adapter's gradients and the weights' digest are the same before and after the model was evaluated."""
    loaded = load_model(wide_dir, quantize=kind, device="cpu")
    model, ids = attach_adapter(loaded.model, OPTIONS), torch.arange(3, 35).reshape(2, 16)

    def gradients() -> dict[str, torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    before, digest = gradients(), weights_digest(model)
    with torch.no_grad():
        model.eval()(ids)
    after = gradients()
    assert weights_digest(model) == digest
    assert sum("lora_B" in name for name in before) == 14
    assert all(torch.equal(before[name], after[name]) for name in before)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_fine_tuned_adapter_is_loaded_on_the_same_base_again(wide_dir: Path, rows: Rows, tmp_path: Path, kind: str) -> None:
    """Only the adapter is saved; its folder loads with the digest that training ended with, and refuses other bits."""
    result = finetune(wide_dir, rows("seen", 8), output_dir=tmp_path / "out", options=OPTIONS, quantize=kind)
    assert json.loads((tmp_path / "out" / QUANTIZATION_NAME).read_text()) == {"base_loaded_in": kind}
    assert QUANTIZATION_NAME in json.loads((tmp_path / "out" / MANIFEST).read_text())["files"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    loaded = load_model(tmp_path / "out")
    assert (quantization_of(loaded.model), loaded.digest) == (kind, result.digest)
    with pytest.raises(InputError, match=f"base in {kind}"):
        load_model(tmp_path / "out", quantize="4bit" if kind == "8bit" else "8bit")


@pytest.mark.slow
@needs_bitsandbytes
def test_unlearning_leaves_whole_weights(wide_dir: Path, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh adapter is folded in: no adapter to switch off, no bits; the manifest and the user are told; it is reproducible."""
    files = {name: tmp_path / f"{name}.jsonl" for name in ("gone", "kept")}
    for name, path in files.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(name, 4)))
    arguments = ["--model", wide_dir, "--forget", files["gone"], "--retain", files["kept"], "--output", tmp_path / "out"]
    settings = ["--quantize", "4bit", "--lora", "--epochs", "2", "--batch-size", "4", "--learning-rate", "0.01"]
    assert unlearn.cli.main.main(["forget", "npo", *map(str, arguments), *settings]) == 0
    assert "NOTE: trained on a base in 4bit" in capsys.readouterr().err
    about = json.loads((tmp_path / "out" / MANIFEST).read_text())["about"]
    loaded = load_model(tmp_path / "out")
    assert not is_quantized(loaded.model)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert loaded.digest == about["weights"]
    assert about["weights_before"] == load_model(wide_dir, quantize="4bit").digest != load_model(wide_dir).digest
    assert "dequantized" in about["facts"]["quantized"]
    assert reproduce(tmp_path / "out", tmp_path / "again").identical


@pytest.mark.slow
@needs_bitsandbytes
def test_an_adapter_on_a_quantized_base_is_trained_on(wide_dir: Path, rows: Rows, tmp_path: Path) -> None:
    """Unlearning a fine-tuned adapter changes that adapter and leaves the base in its bits; whole-weight methods refuse it."""
    trained = finetune(wide_dir, rows("gone", 4) + rows("kept", 4), output_dir=tmp_path / "model", options=OPTIONS, quantize="4bit")
    sets: dict[str, Any] = {"forget_set": rows("gone", 4), "retain_set": rows("kept", 4)}
    result = forget(tmp_path / "model", NPO(), **sets, output_dir=tmp_path / "out", options=OPTIONS)
    loaded = load_model(tmp_path / "out")
    assert quantization_of(loaded.model) == "4bit"
    assert loaded.digest == result.digest_after != trained.digest == result.digest_before
    with pytest.raises(InputError, match="needs whole weights"):
        forget(tmp_path / "model", TaskVector(), **sets, output_dir=tmp_path / "edit")


@pytest.mark.parametrize("method", [TaskVector(), Retrain()])
def test_methods_that_need_whole_weights_refuse(wide_dir: Path, rows: Rows, tmp_path: Path, method: Any) -> None:
    """Weight edits and rebuilds say so before anything is loaded or written."""
    with pytest.raises(InputError, match=r"needs whole weights.*--lora"):
        forget(wide_dir, method, forget_set=rows("gone", 4), output_dir=tmp_path / "out", options=OPTIONS, quantize="4bit")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_quantized_is_refused(
    wide_dir: Path, tokenizer: Any, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No adapter, no weights yet, shards, or no bitsandbytes: each is answered with what to type instead."""
    whole = TrainingOptions(epochs=1)
    with pytest.raises(InputError, match="Add --lora"):
        finetune(wide_dir, rows("seen", 4), output_dir=tmp_path / "out", options=whole, quantize="4bit")
    with pytest.raises(InputError, match="Add --lora"):
        forget(wide_dir, NPO(), forget_set=rows("seen", 4), output_dir=tmp_path / "out", options=whole, quantize="8bit")
    with pytest.raises(InputError, match="from scratch"):
        finetune(wide_dir / "config.json", rows("seen", 4), output_dir=tmp_path / "out", options=OPTIONS, quantize="4bit")
    with pytest.raises(InputError, match="in memory cannot be quantized"):
        load_model(make_llama(tokenizer), tokenizer=tokenizer, quantize="4bit")
    with pytest.raises(InputError, match="Use 4bit or 8bit"):
        load_model(wide_dir, quantize="2bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'unlearn-verify\[quantized\]'"):
        load_model(wide_dir, quantize="4bit")
