"""GGUF files: the model, tokenizer and digests of the folder they were made from; damaged and unsupported files are refused."""

import contextlib
import importlib.util
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from gguf_writing import make_model, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from unlearn import TrainingOptions, finetune
from verify import audit
from verify.errors import InputError
from verify.io.files import file_digest, read_json
from verify.models.gguf_files import is_gguf, read_gguf
from verify.models.gguf_tokenizers import gguf_tokenizer
from verify.models.loading import load_model, load_tokenizer, require_same_tokenizer


@pytest.fixture(scope="module")
def twin(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of width 64."""
    folder = tmp_path_factory.mktemp("twin")
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exact(twin: Path, tokenizer: Any) -> Path:
    """The same model as a GGUF file in float32."""
    return write_gguf(twin.parent / "exact.gguf", load_model(twin).model, tokenizer)


def test_a_float32_file_is_the_model_of_the_folder(twin: Path, exact: Path) -> None:
    """Weights and tokenizer have the folder's digests, so their order, names and rules are the folder's, bit by bit."""
    folder, file = load_model(twin), load_model(exact)
    assert file.digest == folder.digest
    assert file.tokenizer_digest == folder.tokenizer_digest
    assert file.architecture == folder.architecture
    assert file.context_length == folder.context_length == 64
    assert (file.name, file.file_digest, folder.file_digest) == ("exact.gguf", file_digest(exact), None)
    assert load_tokenizer(exact).chat_template == folder.tokenizer.chat_template


@pytest.mark.parametrize(
    ("kind", "config", "architecture"),
    [(Qwen2ForCausalLM, Qwen2Config, "qwen2"), (Qwen3ForCausalLM, Qwen3Config, "qwen3")],
)
def test_other_architectures_compute_what_the_folder_computes(
    kind: Any, config: Any, architecture: str, tokenizer: Any, tmp_path: Path
) -> None:
    """Biases (Qwen2), normalized queries and keys (Qwen3) and a head of its own weights all find their places."""
    model = make_model(tokenizer, kind=kind, config=config, tie_word_embeddings=False)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are all ones or zeros would hide a mix-up
            parameter.add_(torch.randn_like(parameter) * 0.1)
    file = load_model(write_gguf(tmp_path / "other.gguf", model, tokenizer, architecture=architecture))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(file.model(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "BF16", "F16"])
def test_quantized_weights_are_those_that_the_format_defines(kind: str, twin: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Every matrix is what dequantizing the quantized original gives, with rows in the order of `transformers`."""
    original = load_model(twin)
    file = load_model(write_gguf(tmp_path / f"{kind}.gguf", original.model, tokenizer, kind), dtype="float32")
    stored = gguf.GGMLQuantizationType[kind]
    for name, weight in original.model.state_dict().items():
        expected = weight.numpy()
        if expected.ndim > 1:  # quantization is by rows, so it does not matter that rows change places
            expected = dequantize(quantize(expected, stored), stored)
        np.testing.assert_array_equal(file.model.state_dict()[name].numpy(), expected, err_msg=name)
    assert file.digest != original.digest


def test_precision_is_that_of_the_file_or_as_asked(twin: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Half precision is kept, quantized weights become float32, and any precision can be asked for."""
    model = load_model(twin).model
    half = write_gguf(tmp_path / "half.gguf", model, tokenizer, "BF16")
    small = write_gguf(tmp_path / "small.gguf", model, tokenizer, "Q4_1")
    assert load_model(half).model.dtype == torch.bfloat16
    assert load_model(small).model.dtype == torch.float32
    assert load_model(small, dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(InputError, match="--dtype float64 is unknown"):
        load_model(small, dtype="float64")
    with pytest.raises(InputError, match="Leave out --quantize"):
        load_model(small, quantize="4bit")


def test_texts_are_split_by_the_rule_that_the_file_names(twin: Path, tokenizer: Any, tmp_path: Path) -> None:
    """The name of the rule decides how a text is split; an unknown rule is refused, and a folder's tokenizer helps."""
    model = load_model(twin).model
    digits = load_tokenizer(write_gguf(tmp_path / "d.gguf", model, tokenizer, tokenizer__ggml__pre="smollm"))
    assert [text for text, _ in digits.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 1985")] == ["in", "Ġ", *"1985"]
    grouped = load_tokenizer(write_gguf(tmp_path / "g.gguf", model, tokenizer, tokenizer__ggml__pre="llama-bpe"))
    assert [text for text, _ in grouped.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 1985")] == ["in", "Ġ", "198", "5"]
    strange = write_gguf(tmp_path / "s.gguf", model, tokenizer, tokenizer__ggml__pre="own-rule")
    with pytest.raises(InputError, match=r"'own-rule', which is not known here. Name the folder"):
        load_model(strange)
    assert load_model(strange, tokenizer=twin).tokenizer_digest == load_model(twin).tokenizer_digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__model": "llama"}, "of the kind 'llama'; only byte-level BPE"),
        ({"tokenizer__ggml__tokens": None}, "holds no vocabulary"),
        ({"tokenizer__ggml__merges": ["t"]}, "damaged: repeated tokens, or merges that are not pairs"),
        ({"tokenizer__ggml__merges": ["zz zz"]}, "a merge makes a token that it lacks"),
        ({"tokenizer__ggml__bos_token_id": 99_999}, "its bos token has the id 99999"),
        ({"llama__expert_count": 4}, "llama.expert_count = 4; entries of this name are not supported"),
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type = yarn; only none and linear"),
        ({"llama__rope__dimension_count": 8}, "llama.rope.dimension_count = 8; only 16, the width of a head"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "a positive number is needed"),
        ({"llama__block_count": None}, "a whole number above 0 is needed"),
        ({"llama__block_count": 3}, r"9 tensors are missing \(first model.layers.2"),
        ({"llama__block_count": 1}, r"9 are left over \(first model.layers.1"),
        ({"llama__feed_forward_length": 96}, r"6 have another shape"),
        ({"llama__attention__head_count_kv": 4}, "have another shape"),
        ({"split__count": 3}, "one of 3 parts of a model"),
    ],
)
def test_what_is_not_understood_is_refused(
    changes: dict[str, Any], message: str, twin: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """No file is read as another model than it holds: each deviation is an error that names it."""
    path = write_gguf(tmp_path / "bad.gguf", load_model(twin).model, tokenizer, **changes)
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_an_unsupported_architecture_is_named(twin: Path, tokenizer: Any, tmp_path: Path) -> None:
    """The message lists what is supported."""
    writer = gguf.GGUFWriter(tmp_path / "phi.gguf", "phi2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="architecture 'phi2'; GGUF files of llama, qwen2, qwen3 are read"):
        load_model(tmp_path / "phi.gguf")


def test_an_unknown_quantization_is_named(exact: Path, tmp_path: Path) -> None:
    """A type number that no one knows, and one that is known and cannot be dequantized."""
    content = exact.read_bytes()
    place = content.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    for number, name in ((77, "type 77"), (int(gguf.GGMLQuantizationType.Q8_K), "Q8_K")):
        path = tmp_path / "type.gguf"
        path.write_bytes(content[:place] + struct.pack("<I", number) + content[place + 4 :])
        with pytest.raises(InputError, match=f"stored as {name}, which cannot be dequantized here. Supported are F32"):
            load_model(path)


def test_files_that_are_none(exact: Path, twin: Path, tmp_path: Path) -> None:
    """Empty, another format, absent, a folder of files: each message says what to give."""
    empty, other = tmp_path / "empty.gguf", tmp_path / "other.gguf"
    empty.write_bytes(b"")
    other.write_bytes((twin / "model.safetensors").read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.gguf").write_bytes(exact.read_bytes())
    for path, message in (
        (empty, "is empty"),
        (other, "is not a GGUF file"),
        (tmp_path / "absent.gguf", "does not exist"),
        (tmp_path / "folder", "Give one of the files"),
        (twin / "model.safetensors", "is a file, and no GGUF file"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(path)
    renamed = tmp_path / "model.bin"  # known by its first bytes
    renamed.write_bytes(exact.read_bytes())
    assert is_gguf(renamed)
    assert load_model(renamed).digest == load_model(exact).digest


def test_without_the_package_the_message_says_what_to_type(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is an extra."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "gguf" else found(name, *more))
    with pytest.raises(InputError, match=r"pip install 'unlearn-verify\[gguf\]'"):
        load_model(exact)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_off_is_refused(share: float, exact: Path, tmp_path: Path) -> None:
    """Wherever it is cut: in the header, in the table of tensors or in the last tensor."""
    content = exact.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cut off or damaged|is empty|is not a GGUF file"):
        read_gguf(path)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_header_is_refused_or_read_but_never_followed(data: Any, exact: Path, tmp_path: Path) -> None:
    """Eight bytes of the header replaced by any number: no allocation of a claimed size, no endless loop, no other error."""
    content = bytearray(exact.read_bytes())
    end = content.index(b"blk.1.")
    place = data.draw(st.integers(0, end))
    content[place : place + 8] = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), struct.pack("<Q", 1 << 40), b"\x7f" * 8]))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(bytes(content))
    with contextlib.suppress(InputError):
        gguf_tokenizer(read_gguf(path))
        load_model(path)


def test_an_adapter_can_be_trained_on_a_file(exact: Path, tmp_path: Path, rows: Any) -> None:
    """The adapter names the file as its base and loads on it; the manifest names the file by its digest."""
    options = TrainingOptions(lora=True, epochs=1, learning_rate=1e-3, batch_size=4)
    done = finetune(exact, rows("forget", 8), output_dir=tmp_path / "adapter", options=options)
    assert read_json(done.model_dir / "adapter_config.json")["base_model_name_or_path"] == str(exact.resolve())
    assert load_model(done.model_dir).digest == done.digest
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the fox", "completion": "jumps over the dog"}\n' * 4)
    written = finetune(exact, tmp_path / "rows.jsonl", output_dir=tmp_path / "again", options=options)
    inputs = read_json(written.model_dir / "manifest.json")["about"]["inputs"]
    assert inputs["model_files"] == {"model": file_digest(exact)}


def test_a_deployed_file_is_audited_against_its_twin(twin: Path, tokenizer: Any, tmp_path: Path, rows: Any) -> None:
    """The evidence names the file by its own digest too; a file of another architecture is refused."""
    original = load_model(twin)
    deployed = write_gguf(tmp_path / "deployed.gguf", original.model, tokenizer, "Q8_0")
    evidence = audit(deployed, twin, forget_set=rows("forget", 8), retain_set=rows("retain", 8), output_dir=tmp_path / "audit")
    found = {model.label: model for model in evidence.models}
    assert found["target"].file == file_digest(deployed)
    assert found["target"].weights == load_model(deployed).digest
    assert found["original"].file is None
    assert "file" not in read_json(tmp_path / "audit" / "evidence.json")["models"][0]
    assert file_digest(deployed) in (tmp_path / "audit" / "report.html").read_text()
    other = write_gguf(tmp_path / "other.gguf", make_model(tokenizer, intermediate_size=160), tokenizer)
    with pytest.raises(InputError, match="not the same architecture: intermediate_size is 128 in one and 160"):
        require_same_tokenizer([original, load_model(other)])
