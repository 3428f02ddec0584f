"""A model folder is untrusted: what may be loaded, what is refused, and what a digest stands for."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, make_llama, make_tokenizer

from verify.errors import InputError
from verify.io.digests import tokenizer_digest
from verify.io.files import write_manifest
from verify.models.digests import weights_digest
from verify.models.generation import greedy_continuations
from verify.models.loading import LoadedModel, load_model, load_tokenizer, require_same_tokenizer


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture(scope="module")
def loaded(model_dir: Path) -> LoadedModel:
    """The tiny model as the rest of the project sees it."""
    return load_model(model_dir)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lora(model: Any, seed: int = 0) -> Any:
    """A LoRA adapter with weights that change the model."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return adapted


# What is loaded.


def test_folder_and_memory_are_the_same_model(model_dir: Path, loaded: LoadedModel, tokenizer: Any) -> None:
    """A saved model has the digests of the one in memory, is in evaluation mode, and carries no path in its name."""
    in_memory = load_model(make_llama(tokenizer), tokenizer=tokenizer)
    assert (loaded.digest, loaded.tokenizer_digest) == (in_memory.digest, in_memory.tokenizer_digest)
    assert not loaded.model.training
    assert loaded.name == model_dir.name
    assert loaded.context_length == CONTEXT
    assert load_model(loaded) is loaded


def test_model_in_memory_needs_its_tokenizer(tokenizer: Any) -> None:
    """Which tokenizer belongs to a model in memory cannot be guessed."""
    with pytest.raises(InputError, match="tokenizer="):
        load_model(make_llama(tokenizer))


def test_tokenizer_can_come_from_elsewhere(folder: Path, tokenizer: Any) -> None:
    """A model folder without a tokenizer loads with one that is given, and says what to do without."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="--tokenizer"):
        load_model(folder)
    assert load_model(folder, tokenizer=tokenizer).tokenizer is tokenizer


def test_dtype_is_as_asked(folder: Path) -> None:
    """A model is read in the precision asked for; an unknown one is named with its alternatives."""
    assert next(load_model(folder, dtype="bfloat16").model.parameters()).dtype == torch.bfloat16
    with pytest.raises(InputError, match="auto, float32, bfloat16, float16"):
        load_model(folder, dtype="int3")


def test_adapter_on_its_base(model_dir: Path, tmp_path: Path) -> None:
    """An adapter folder is loaded on the base that it names or that is given, and is neither's model alone."""
    adapted = lora(transformers.AutoModelForCausalLM.from_pretrained(model_dir))
    adapted.save_pretrained(tmp_path / "adapter")
    by_name = load_model(tmp_path / "adapter")
    change_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(InputError, match="--base DIR"):
        load_model(tmp_path / "adapter")
    by_hand = load_model(tmp_path / "adapter", base=model_dir)
    ids = torch.tensor([[1, 5, 9, 7]])
    torch.testing.assert_close(by_name.model(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits)
    assert by_name.digest == by_hand.digest == weights_digest(adapted)
    assert by_name.digest != load_model(model_dir).digest
    assert by_name.tokenizer_digest == load_model(model_dir).tokenizer_digest


# What is refused.


def pickled_only(folder: Path) -> None:
    """Weights that run code when opened."""
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.write_text, (folder / "exploded", "boom"))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


def pickled_adapter(folder: Path) -> None:
    """The same for an adapter on a sound base, behind safetensors that are no adapter's."""
    base = Path(shutil.copytree(folder, folder.parent / "base"))
    pickled_only(folder)
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    save_file({"x": torch.zeros(1)}, folder / "decoy.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}))


def code_in_config(folder: Path) -> None:
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (folder / "modeling.py").write_text(f"open({str(folder / 'exploded')!r}, 'w')")


def code_in_tokenizer(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Tokenizer", None]})


def tampered(folder: Path) -> None:
    write_manifest(folder, "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def smuggled(folder: Path) -> None:
    write_manifest(folder, "model")
    (folder / "generation_config.json").unlink()
    write_manifest(folder, "model")
    (folder / "generation_config.json").write_text('{"repetition_penalty": 9.0}')


def index_that_leads_out(folder: Path) -> None:
    """An index whose weights lie outside the folder, where no manifest answers for them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "../outside.safetensors")})
    )


def absolute_index(folder: Path) -> None:
    index_that_leads_out(folder)
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("../outside", str(folder.parent / "outside")))


def manifest_that_leads_out(folder: Path) -> None:
    write_manifest(folder, "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../outside"] = next(iter(manifest["files"].values()))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def zip_as_weights(folder: Path) -> None:
    """What torch.save writes is a zip with a pickle in it, whatever it is called."""
    torch.save({"x": torch.zeros(1)}, folder / "model.safetensors")


def half_written(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def nested_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()


def unknown_architecture(folder: Path) -> None:
    change_json(folder / "config.json", model_type="no-such-thing")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def longer_tokenizer(folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"new{number}" for number in range(40)])
    tokenizer.save_pretrained(folder)


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')


def tokenizer_of_another_structure(folder: Path) -> None:
    """For which `tokenizers` raises a bare Exception."""
    change_json(folder / "tokenizer.json", model=[])


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (pickled_only, "can run code when opened"),
    (pickled_adapter, "can run code when opened"),
    (code_in_config, "auto_map"),
    (code_in_tokenizer, "auto_map"),
    (tampered, "not the file that the manifest describes"),
    (smuggled, "added after the directory was finished"),
    (index_that_leads_out, "outside its folder"),
    (absolute_index, "outside its folder"),
    (manifest_that_leads_out, "names a file outside its directory"),
    (zip_as_weights, "no causal language model could be loaded"),
    (half_written, "no causal language model could be loaded"),
    (not_finite, r"not finite \(model.norm.weight\)"),
    (nested_config, "not a whole JSON"),
    (no_config, "holds no model"),
    (unknown_architecture, "no causal language model could be loaded"),
    (no_weights, "no causal language model could be loaded"),
    (longer_tokenizer, "do not belong together"),
    (damaged_tokenizer, "no tokenizer could be loaded"),
    (tokenizer_of_another_structure, "no tokenizer could be loaded"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_refused(damage: Callable[[Path], None], message: str, folder: Path) -> None:
    """Each way a folder can be damaged or hostile ends in one sentence, and nothing in the folder is run."""
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize(
    "adapter", ["[]", '{"base_model_name_or_path": "BASE"}', '{"peft_type": "NONE", "base_model_name_or_path": "BASE"}']
)
def test_damaged_adapters_are_refused(adapter: str, model_dir: Path, tmp_path: Path) -> None:
    """An adapter folder whose configuration is none, or that has no weights, is an input error."""
    (tmp_path / "adapter_config.json").write_text(adapter.replace("BASE", str(model_dir)))
    with pytest.raises(InputError, match="adapter"):
        load_model(tmp_path)


def renamed(folder: Path, name: str) -> None:
    """Move the adapter's weights to another name or folder."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").rename(folder / name)


LAID_OUT_OTHERWISE: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: renamed(folder, "lora.safetensors"), r"adapter_model.safetensors is missing, .* There is lora.safetensors"),
    (lambda folder: renamed(folder, "model.safetensors"), r"There is model.safetensors: if that is the adapter, give it that name"),
    (lambda folder: renamed(folder, "default/adapter_model.safetensors"), r"There is default/adapter_model.safetensors"),
    (lambda folder: renamed(folder, "adapter_model.bin"), "as pickle .*adapter_model.bin.* can run code when opened"),
    (lambda folder: renamed(folder, "lora.npz"), "adapter_model.safetensors is missing. Copy the weights beside it"),
    (lambda folder: (folder / "adapter_config.json").unlink(), "without its adapter_config.json"),
    (lambda folder: (folder / "adapter_config.json").rename(folder / "lora_config.json"), "Copy that file beside the weights"),
]


@pytest.mark.parametrize(("layout", "message"), LAID_OUT_OTHERWISE)
def test_an_adapter_in_another_layout_is_named_as_such(
    layout: Callable[[Path], object], message: str, model_dir: Path, tmp_path: Path
) -> None:
    """What is missing, which file may be meant, and what to do with it; a folder above it, and the file itself, likewise."""
    folder = tmp_path / "above" / "adapter"
    lora(load_model(model_dir).model).save_pretrained(folder)
    with pytest.raises(InputError, match=f"holds no model itself, only in a subfolder. .* {folder}"):
        load_model(folder.parent)
    with pytest.raises(InputError, match=f"is a file, and no GGUF file. Give the model's folder, such as {folder}"):
        load_model(folder / "adapter_model.safetensors")
    layout(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


@pytest.mark.parametrize("source", ["./missing", "/nowhere/model", "a/b/c", "~/model"])
def test_missing_folder(source: str) -> None:
    """What cannot be a Hub name is a missing folder."""
    with pytest.raises(InputError, match="does not exist"):
        load_model(source)


def test_file_and_unreachable_name(model_dir: Path) -> None:
    """A file is no folder; a name that nobody answers to is an input error."""
    with pytest.raises(InputError, match="is a file"):
        load_model(model_dir / "config.json")
    with pytest.raises(InputError, match="no causal language model"):
        load_model("nobody-at-all/no-such-model")


def test_slow_tokenizer_is_refused(tokenizer: Any) -> None:
    """A tokenizer without character offsets is refused before anything is computed with it."""

    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="fast tokenizer"):
        load_model(make_llama(tokenizer), tokenizer=Slow())


def test_a_complete_folder_with_a_manifest_loads(folder: Path) -> None:
    """The manifest of an untouched folder stands in nobody's way, nor does a note that no loader reads."""
    write_manifest(folder, "model")
    (folder / "NOTES.md").write_text("x")
    assert load_model(folder).name == "model"


# What a digest stands for.


def test_digest_does_not_know_how_weights_are_sharded(loaded: LoadedModel, tmp_path: Path) -> None:
    """The same weights in one file or in many have the same digest."""
    loaded.model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_model(tmp_path, tokenizer=loaded.tokenizer).digest == loaded.digest


@pytest.mark.parametrize("bit", [0, 15, 31])
def test_digest_changes_with_any_bit(bit: int, loaded: LoadedModel, tokenizer: Any) -> None:
    """One flipped bit of one weight, even its sign at zero, is another model."""
    model = make_llama(tokenizer)
    assert weights_digest(model) == loaded.digest
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.view(torch.int32)[3, 4] ^= 1 << bit if bit < 31 else -(1 << 31)
    assert weights_digest(model) != loaded.digest


def test_digest_knows_names_and_precision(tokenizer: Any) -> None:
    """Weights under other names, in another shape or precision are another model."""
    one, other = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(2, 8, bias=False)
    other.weight.data = one.weight.data.reshape(8, 2)
    digests = {weights_digest(one), weights_digest(other), weights_digest(torch.nn.Sequential(one)), weights_digest(one.half())}
    assert len(digests) == 4


def test_tokenizer_digest_is_about_what_it_does(tokenizer: Any) -> None:
    """Use, padding and truncation change no digest; another template, special token or word does."""
    fresh = make_tokenizer()
    digest = tokenizer_digest(fresh)
    assert digest == tokenizer_digest(tokenizer)
    fresh(["a", "b c d"], padding=True, truncation=True, max_length=2, split_special_tokens=True)
    assert tokenizer_digest(fresh) == digest
    fresh.chat_template = "x"
    without_begin, more = make_tokenizer(begin=False), make_tokenizer()
    more.add_tokens(["word"])
    no_end = make_tokenizer()
    no_end.eos_token = None
    assert len({digest, *map(tokenizer_digest, (fresh, without_begin, more, no_end))}) == 5


def test_losses_are_compared_under_one_tokenizer_only(loaded: LoadedModel, tokenizer: Any) -> None:
    """Models of different tokenizers are refused together, by name."""
    require_same_tokenizer([loaded, loaded])
    other = load_model(make_llama(tokenizer), tokenizer=make_tokenizer(begin=False))
    with pytest.raises(InputError, match="different tokenizers"):
        require_same_tokenizer([loaded, other])


def test_tokenizer_folder(tokenizer_dir: Path, tokenizer: Any, tmp_path: Path) -> None:
    """A folder with a tokenizer alone loads; an empty one is refused."""
    assert tokenizer_digest(load_tokenizer(tokenizer_dir)) == tokenizer_digest(tokenizer)
    with pytest.raises(InputError):
        load_tokenizer(tmp_path)


# Greedy continuations.


def argmax_chain(model: Any, prompt: np.ndarray, length: int, eos: int | None) -> list[int]:
    """The slow, obvious way: one full pass per token, no padding, no cache."""
    ids = prompt.tolist()
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_greedy_continuations_are_the_argmax_chain(architecture: str, batch_size: int, tokenizer: Any) -> None:
    """Batching, padding and the key-value cache change no token, also where prompts fill the context."""
    model: Any = make_llama(tokenizer)
    if architecture == "gpt2":
        size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer), initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0, **size
        )
        model = transformers.GPT2LMHeadModel(config).eval()
    loaded = load_model(model, tokenizer=tokenizer)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, len(tokenizer), length) for length in (1, 2, 7, 30, CONTEXT - 4, 5, 12)]
    lengths = [6, 20, 1, 12, 4, CONTEXT - 5, 6]
    made = greedy_continuations(loaded, prompts, lengths, batch_size)
    expected = [argmax_chain(model, prompt, length, 2) for prompt, length in zip(prompts, lengths, strict=True)]
    assert made == expected


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_folder_cannot_hide_memory_behind_its_generation_settings(adapted: bool, tokenizer: Any) -> None:
    """Penalties, forbidden words and early ends that a folder brings along change nothing, and are there again afterwards."""
    model: Any = lora(make_llama(tokenizer)) if adapted else make_llama(tokenizer)
    loaded = load_model(model, tokenizer=tokenizer)
    prompts = [np.array([1, 40, 50, 60])]
    honest = greedy_continuations(loaded, prompts, [10])
    settings = transformers.GenerationConfig(
        repetition_penalty=9.0, bad_words_ids=[[honest[0][0]]], eos_token_id=honest[0][1], suppress_tokens=[honest[0][2]]
    )
    model.generation_config = settings
    if adapted:
        model.get_base_model().generation_config = settings
    assert greedy_continuations(loaded, prompts, [10]) == honest == [argmax_chain(model, prompts[0], 10, 2)]
    assert model.generation_config is settings


def test_no_prompt_no_continuation(loaded: LoadedModel) -> None:
    """Nothing in, nothing out."""
    assert greedy_continuations(loaded, [], []) == []
