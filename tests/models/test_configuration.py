"""The configuration that decides what weights compute: which entries count, and digests from files and from memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from verify.errors import InputError
from verify.models.configuration import (
    BaseNotHereError,
    differing,
    digest_of,
    entries_of,
    folder_configuration,
    memory_configuration,
    relevant,
)
from verify.models.loading import load_model
from verify.scores.configurations import stored_entries


def edited(source: Path, to: Path, file: str = "config.json", **changes: Any) -> Path:
    """A copy of a model's folder with entries of a configuration changed."""
    shutil.copytree(source, to)
    content = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps({**content, **changes}))
    (to / "manifest.json").unlink(missing_ok=True)
    return to


def adapter_folder(base: Path, to: Path, **options: Any) -> Path:
    """An untrained adapter on a base, as PEFT saves it."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["v_proj", "q_proj"], **options)
    )
    model.save_pretrained(to)
    return to


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 0.5},
        {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"an_entry_of_tomorrow": 1},
        {"quantization_config": {"load_in_4bit": True}},
    ],
)
def test_what_decides_the_output_is_another_model(model_dir: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Each of these gives the same weights another digest, unknown entries included."""
    assert folder_configuration(edited(model_dir, tmp_path / "other", **changes)) != folder_configuration(model_dir)


@pytest.mark.parametrize(
    "changes",
    [
        {"_name_or_path": "/a/path", "transformers_version": "4.0.0", "torch_dtype": "bfloat16", "use_cache": False},
        {"attention_dropout": 0.1, "initializer_range": 0.9, "eos_token_id": 7, "max_length": 20, "top_k": 3},
        {"id2label": {"0": "x"}, "architectures": ["Another"]},
    ],
)
def test_what_does_not_decide_the_output_does_not_count(model_dir: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Paths, versions, dropout, labels and defaults of generation leave the digest as it is."""
    assert folder_configuration(edited(model_dir, tmp_path / "other", **changes)) == folder_configuration(model_dir)


def test_nested_entries_are_named_by_their_path() -> None:
    """A difference inside nested settings is named by the whole path, with both values."""
    one = relevant({"text_config": {"rope": {"theta": 10000.0}, "hidden_dropout": 0.1}, "top_k": 4})
    other = relevant({"text_config": {"rope": {"theta": 500.0}, "hidden_dropout": 0.2}})
    assert differing(one, other) == [("text_config.rope.theta", "10000", "500")]
    assert differing({"a": float("nan")}, {"a": float("nan")}) == []
    assert differing({"a": None}, {}) == []


def test_the_digest_does_not_depend_on_how_it_is_written() -> None:
    """Order of keys, 1 or 1.0, and lists or sets of modules are the same; order in other lists, text and truth are not."""
    assert digest_of({"a": 1, "b": 1e-5}) == digest_of({"b": 0.00001, "a": 1.0})
    adapters = [relevant({"target_modules": modules}) for modules in (["q", "v"], ["v", "q"], {"v", "q"})]
    assert len({digest_of(one) for one in adapters}) == 1
    assert digest_of({"a": ["x", "y"]}) != digest_of({"a": ["y", "x"]})
    assert digest_of({"a": "1"}) != digest_of({"a": 1}) != digest_of({"a": True})


def test_memory_and_folder_agree(model_dir: Path, tmp_path: Path) -> None:
    """A model in memory has the digest of the folder that it is saved to; entries compare alike in both."""
    loaded = load_model(model_dir)
    loaded.model.save_pretrained(tmp_path / "saved")
    assert memory_configuration(loaded.model) == folder_configuration(tmp_path / "saved")
    assert loaded.configuration == folder_configuration(model_dir)
    assert stored_entries(model_dir) == entries_of(loaded.model)


def test_adapters_count_with_their_base(model_dir: Path, tmp_path: Path) -> None:
    """An adapter's own settings and its base's decide; a base that is not here, or a damaged file, is an error."""
    one = adapter_folder(model_dir, tmp_path / "one")
    digest = folder_configuration(one)
    assert load_model(one).configuration == digest
    assert digest == folder_configuration(adapter_folder(model_dir, tmp_path / "again"))
    assert digest != folder_configuration(adapter_folder(model_dir, tmp_path / "scaled", lora_alpha=64))
    assert digest != folder_configuration(model_dir)
    other_base = edited(model_dir, tmp_path / "base", rms_norm_eps=0.5)
    assert folder_configuration(one, other_base) != digest
    away = edited(one, tmp_path / "away", "adapter_config.json", base_model_name_or_path="owner/name")
    with pytest.raises(BaseNotHereError, match="owner/name"):
        folder_configuration(away)
    (away / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match="not a configuration"):
        folder_configuration(away)
    assert stored_entries(away) is None
    (away / "adapter_config.json").write_text('{"r": 2')
    with pytest.raises(InputError, match="cut off"):
        folder_configuration(away)
