"""Every weight finds its place, or the model is refused: whole models, adapters, ensembles, bases under adapters, checkpoints."""

import copy
import hashlib
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from tiny_models import make_llama
from training_rows import make_rows
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from unlearn import NPO, forget
from verify.errors import InputError, IntegrityError
from verify.models.digests import weights_digest
from verify.models.ensembles import Combine, load_ensemble, write_ensemble
from verify.models.folder_checks import local_folder
from verify.models.loading import load_model
from verify.training.checkpoints import put_checkpoint

Tensors = dict[str, torch.Tensor]
WHOLE, ADAPTER, INDEX = "model.safetensors", "adapter_model.safetensors", "model.safetensors.index.json"
IDS = torch.arange(3, 19)[None]


def rewrite(file: Path, change: Callable[[Tensors], Tensors]) -> tuple[Tensors, Tensors]:
    """Change the tensors of a file; what it held before and after."""
    before = load_file(file)
    after = {name: value.contiguous() for name, value in change(dict(before)).items()}
    save_file(after, file, metadata={"format": "pt"})
    return before, after


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_adapter(base: Path, folder: Path, config: Any = None, seed: int = 0) -> Path:
    """A saved adapter on a base, whose weights change what the base says."""
    config = copy.deepcopy(config) or LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.1 if "magnitude" in name else 0.3))
    adapted.save_pretrained(folder)
    return folder


# What a file can hold instead of a model's weights: each gives the changed tensors.


def renamed(prefix: str) -> Callable[[Tensors], Tensors]:
    """All names as a wrapper saves them; inside PEFT's own prefix where there is one."""

    def change(tensors: Tensors) -> Tensors:
        own = "base_model.model." if all(name.startswith("base_model.model.") for name in tensors) else ""
        return {f"{own}{prefix}{name.removeprefix(own)}": value for name, value in tensors.items()}

    return change


def without_first(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[1:])


def without_half(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[::2])


def with_one_more(tensors: Tensors) -> Tensors:
    return {**tensors, "zz.extra.weight": torch.zeros(3)}


def one_cut_short(tensors: Tensors) -> Tensors:
    name = max(tensors)
    return {**tensors, name: tensors[name][..., :-1]}


def one_misspelled(tensors: Tensors) -> Tensors:
    name = min(tensors)
    return {name.replace("weight", "wieght") if key == name else key: value for key, value in tensors.items()}


def nothing(_: Tensors) -> Tensors:
    return {}


DAMAGES = {
    "data parallel": renamed("module."),
    "compiled": renamed("_orig_mod."),
    "sharded": renamed("_fsdp_wrapped_module."),
    "wrapped twice": renamed("base_model.model."),
    "one lost": without_first,
    "half lost": without_half,
    "one too many": with_one_more,
    "one cut short": one_cut_short,
    "one misspelled": one_misspelled,
    "nothing": nothing,
}


def expected(before: Tensors, after: Tensors) -> list[str]:
    """The counts and first names that the message has to give, from the two lists of tensors alone."""
    missing, more = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    other = [name for name in sorted(before.keys() & after.keys()) if before[name].shape != after[name].shape]
    parts = [
        f"{len(missing)} tensors are missing" + (f" (first {missing[0]})" if missing else ""),
        f"{len(more)} are left over" + (f" (first {more[0]})" if more else ""),
        f"{len(other)} have another shape" + (f" (first {other[0]}: " if other else ""),
    ]
    if other:
        parts.append(f"{list(after[other[0]].shape)} in the file, {list(before[other[0]].shape)} in the model")
    return parts


def refusal(call: Callable[[], Any], kind: type[InputError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def base(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(model_dir, tmp_path / "base"))


@pytest.fixture
def ensemble(base: Path, tmp_path: Path) -> Path:
    """Two adapters that answer together."""
    return describe(base, tmp_path / "ensemble")


def describe(base: Path, folder: Path, combine: Combine = "average") -> Path:
    names = ["shard-0/slice-0", "shard-1/slice-0"]
    for seed, name in enumerate(names):
        if not (folder / name).exists():
            scaled = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")  # as `--lora` does
            make_adapter(base, folder / name, scaled, seed=seed)
    write_ensemble(folder, str(base), load_model(base).digest, names, combine)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / file, folder / file)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
class TestDamage:
    """Each kind of damage, wherever weights come from: the counts and first names are those of the two lists of tensors."""

    def test_of_a_whole_model(self, base: Path, damage: str) -> None:
        """Nothing is drawn at random for what is missing."""
        lists = rewrite(base / WHOLE, DAMAGES[damage])
        message = refusal(lambda: load_model(base))
        assert all(part in message for part in expected(*lists)), message

    def test_of_an_adapter(self, base: Path, tmp_path: Path, damage: str) -> None:
        """The base does not answer in its place."""
        lists = rewrite(make_adapter(base, tmp_path / "adapter") / ADAPTER, DAMAGES[damage])
        message = refusal(lambda: load_model(tmp_path / "adapter"))
        assert all(part in message for part in expected(*lists)), message

    def test_of_the_base_under_an_adapter(self, base: Path, tmp_path: Path, damage: str) -> None:
        """The base's name is given, as it is the base's file that is wrong."""
        make_adapter(base, tmp_path / "adapter")
        lists = rewrite(base / WHOLE, DAMAGES[damage])
        message = refusal(lambda: load_model(tmp_path / "adapter"))
        assert all(part in message for part in [str(base), *expected(*lists)]), message

    def test_of_a_member_of_an_ensemble(self, base: Path, ensemble: Path, damage: str) -> None:
        """The second member is looked at as the first."""
        lists = rewrite(ensemble / "shard-1" / "slice-0" / ADAPTER, DAMAGES[damage])
        describe(base, ensemble)  # so that its digests are right
        message = refusal(lambda: load_model(ensemble))
        assert all(part in message for part in [str(Path("shard-1/slice-0")), *expected(*lists)]), message

    def test_of_a_checkpoint(self, base: Path, tmp_path: Path, damage: str) -> None:
        """A model in memory is not half overwritten: it is what it was."""
        checkpoint = Path(shutil.copytree(base, tmp_path / "checkpoint"))
        lists = rewrite(checkpoint / WHOLE, DAMAGES[damage])
        loaded = load_model(base)
        message = refusal(lambda: put_checkpoint(loaded.model, checkpoint), IntegrityError)
        assert all(part in message for part in expected(*lists)), message
        assert weights_digest(loaded.model) == loaded.digest

    @pytest.mark.slow
    def test_of_an_adapters_checkpoint(self, base: Path, tmp_path: Path, damage: str) -> None:
        """The same for the adapter of a model in memory."""
        loaded = load_model(make_adapter(base, tmp_path / "adapter"))
        checkpoint = make_adapter(base, tmp_path / "checkpoint", seed=1)
        lists = rewrite(checkpoint / ADAPTER, DAMAGES[damage])
        message = refusal(lambda: put_checkpoint(loaded.model, checkpoint), IntegrityError)
        assert all(part in message for part in expected(*lists)), message
        assert weights_digest(loaded.model) == loaded.digest


def test_a_wrapper_is_named(base: Path) -> None:
    """Names as a wrapper saves them are recognized, and the way out is said."""
    rewrite(base / WHOLE, renamed("module."))
    assert "unwrap_model" in refusal(lambda: load_model(base))


# Files of which it is not clear which are the model's.


def shards(folder: Path) -> list[Path]:
    """The model of a folder again, in several files."""
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="30KB")
    (folder / WHOLE).unlink(missing_ok=True)
    found = sorted(folder.glob("model-*.safetensors"))
    assert len(found) > 2
    return found


def stale_single(folder: Path) -> None:
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder.parent / "other")
    shutil.copy(folder.parent / "other" / WHOLE, folder / WHOLE)


def lost_shard(folder: Path) -> None:
    min(folder.glob("model-*.safetensors")).unlink()


def foreign_shard(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "model-00009-of-00009.safetensors")


def lost_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def lost_index_beside_a_single(folder: Path) -> None:
    stale_single(folder)
    lost_index(folder)


def tensor_twice(folder: Path) -> None:
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    more = dict(list(load_file(first).items())[:1])
    rewrite(second, lambda tensors: tensors | more)


def index_of_another_model(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    places = list(content["weight_map"].items())
    content["weight_map"] = {name: file for (name, _), (_, file) in zip(places, places[::-1], strict=True)}
    (folder / INDEX).write_text(json.dumps(content))


def index_that_promises_more(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"]["model.extra.weight"] = next(iter(content["weight_map"].values()))
    (folder / INDEX).write_text(json.dumps(content))


def truncated_shard(folder: Path) -> None:
    file = max(folder.glob("model-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (stale_single, "holds both model.safetensors and"),
        (lost_shard, r"1 of \d+ shards are missing \(first model-00001"),
        (foreign_shard, r"1 are not named \(first model-00009"),
        (lost_index, "holds shards .* and no model.safetensors.index.json"),
        (lost_index_beside_a_single, "holds shards .* and no model.safetensors.index.json"),
        (tensor_twice, "1 tensors are in more than one shard"),
        (index_of_another_model, r"\d+ tensors are not in the shard that .* names"),
        (index_that_promises_more, r"1 tensors are not in the shard that .* names \(first model.extra.weight"),
        (truncated_shard, "is truncated or no safetensors file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("under_an_adapter", [False, True], ids=["whole", "base"])
def test_ambiguous_files(base: Path, tmp_path: Path, damage: Callable[[Path], None], message: str, under_an_adapter: bool) -> None:
    """Where the files of a model do not say clearly what it is, it is refused, alone or under an adapter."""
    digest = load_model(base).digest
    shards(base)
    assert load_model(base).digest == digest
    source = make_adapter(base, tmp_path / "adapter") if under_an_adapter else base
    damage(base)
    with pytest.raises(InputError, match=message):
        load_model(source)


@pytest.mark.parametrize("whole", [WHOLE, INDEX])
def test_a_whole_model_beside_an_adapter_is_refused(base: Path, tmp_path: Path, ensemble: Path, whole: str) -> None:
    """Some programs serve the whole model and some the adapter, so neither is audited in the other's place."""
    if whole == INDEX:
        shards(base)
    make_adapter(base, tmp_path / "adapter")
    for folder, other in ((tmp_path / "adapter", "adapter_config.json"), (ensemble, "ensemble.json")):
        load_model(folder)
        shutil.copy(base / whole, folder / whole)
        with pytest.raises(InputError, match=f"holds both {other} and {whole}, which are two models"):
            load_model(folder)


# Adapters.

KINDS = {
    "lora": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "rslora": LoraConfig(r=4, use_rslora=True, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "dora": LoraConfig(r=2, use_dora=True, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "patterns": LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 5}, alpha_pattern={"v_proj": 3}, task_type="CAUSAL_LM"
    ),
    "head": LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"),
    "embedding": LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
    "saved modules": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], task_type="CAUSAL_LM"),
    "tokens": LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 7]}, task_type="CAUSAL_LM"),
    "bias": LoraConfig(r=2, target_modules="all-linear", bias="lora_only", task_type="CAUSAL_LM"),
    "no task": LoraConfig(r=2, target_modules=["q_proj"]),
    "pissa": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa_niter_2", task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "loha": LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "lokr": LoKrConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "vera": VeraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_that_change_layers_load(base: Path, tmp_path: Path, kind: str) -> None:
    """Two loads give one digest, which is not the base's; the model says what PEFT's own loading makes it say."""
    folder = make_adapter(base, tmp_path / "adapter", KINDS[kind])
    first, second = load_model(folder), load_model(folder)
    assert first.digest == second.digest
    torch.testing.assert_close(first.model(IDS).logits, second.model(IDS).logits, rtol=0, atol=0)
    if kind != "pissa":  # PEFT draws its decomposition again in every load
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()
        torch.testing.assert_close(first.model(IDS).logits, alone(IDS).logits)
    assert (first.model(IDS).logits - load_model(base).model(IDS).logits).abs().max() > 1e-2


def without(part: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        before, after = rewrite(
            folder / ADAPTER, lambda tensors: {name: value for name, value in tensors.items() if part not in name}
        )
        assert len(after) < len(before)

    return damage


def other_name(folder: Path) -> None:
    """As `model.state_dict()` names the weights of an adapter called "other"."""
    rewrite(folder / ADAPTER, lambda tensors: {name.replace(".weight", ".other.weight"): value for name, value in tensors.items()})


def own_name(folder: Path) -> None:
    """The same for an adapter that is called as the one it is loaded into."""
    rewrite(folder / ADAPTER, lambda tensors: {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()})


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "adapter_config.json", **changes)


def truncated(folder: Path) -> None:
    (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:-4])


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("dora", without("magnitude"), r"4 tensors are missing \(first .*lora_magnitude_vector"),
        ("dora", configured(use_dora=False), r"4 are left over \(first .*lora_magnitude_vector"),
        ("lora", configured(use_dora=True), r"4 tensors are missing \(first .*lora_magnitude_vector"),
        (
            "patterns",
            configured(rank_pattern={}),
            r"4 have another shape \(first .*v_proj.lora_A.weight: \[5, 32\] in the file, \[2,",
        ),
        ("lora", configured(r=8), "8 have another shape"),
        ("lora", configured(target_modules=["q_proj"]), r"0 tensors are missing, 4 are left over \(first .*v_proj"),
        ("lora", configured(target_modules=["q_proj", "v_proj", "o_proj"]), r"4 tensors are missing \(first .*o_proj"),
        ("lora", configured(layers_to_transform=[0]), r"4 are left over \(first .*layers.1"),
        ("lora", configured(target_modules=["c_attn"]), "adapter"),
        ("saved modules", without("lm_head"), r"1 tensors are missing \(first base_model.model.lm_head.weight"),
        ("saved modules", without("embed_tokens"), r"1 tensors are missing \(first base_model.model.model.embed_tokens.weight"),
        ("tokens", without("token_adapter"), r"1 tensors are missing \(first .*trainable_tokens_delta"),
        ("ia3", without("layers.1"), r"3 tensors are missing \(first .*layers.1.*ia3_l"),
        ("ia3", configured(peft_type="LORA", r=2), "8 tensors are missing|6 are left over"),
        ("vera", without("lambda_b"), r"2 tensors are missing \(first .*vera_lambda_b"),
        ("loha", without("hada_w1_a"), r"2 tensors are missing \(first .*hada_w1_a"),
        ("lora", other_name, r"8 tensors are missing .* 8 are left over \(first .*lora_A.other.weight"),
        ("lora", own_name, r"8 tensors are missing .* 8 are left over \(first .*lora_A.default.weight"),
        ("lora", truncated, "is truncated or no safetensors file"),
        ("lora", lambda folder: (folder / ADAPTER).unlink(), "is missing"),
        ("lora", configured(peft_type="NONE"), "could not be loaded onto"),
        ("lora", configured(use_newer=True, of_little="x", unused=None), r"has 2 entries .* \(of_little, use_newer\)"),
    ],
)
def test_adapters_that_do_not_fit(base: Path, tmp_path: Path, kind: str, damage: Callable[[Path], None], message: str) -> None:
    """Configuration and weights of an adapter that disagree in any way are refused."""
    folder = make_adapter(base, tmp_path / "adapter", KINDS[kind])
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


@torch.no_grad()
def test_whole_layers_in_an_adapters_file_are_placed(base: Path, tmp_path: Path) -> None:
    """A layer of the base that the file holds, though the configuration does not ask for it, is loaded: the same answers."""
    folder = make_adapter(base, tmp_path / "adapter", KINDS["saved modules"])
    before = load_model(folder)
    configured(modules_to_save=["lm_head"])(folder)
    torch.testing.assert_close(load_model(folder).model(IDS).logits, before.model(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, r"4 tensors are missing \(first .*layers.2"),
        ({"num_hidden_layers": 1}, r"4 are left over \(first .*layers.1"),
        (
            {"hidden_size": 64, "head_dim": 8},
            r"4 have another shape \(first .*q_proj.lora_A.weight: \[2, 32\] in the file, \[2, 64\] in the model",
        ),
    ],
)
def test_an_adapter_of_another_base(base: Path, tmp_path: Path, tokenizer: Any, change: dict[str, int], message: str) -> None:
    """A base of another depth or width is told apart by the adapter's tensors."""
    config = make_llama(tokenizer).config
    for name, value in change.items():
        setattr(config, name, value)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=message):
        load_model(make_adapter(base, tmp_path / "adapter"), base=tmp_path / "other")


def test_an_adapter_on_an_adapter(base: Path, tmp_path: Path) -> None:
    """PEFT would leave the lower one out, or `transformers` put it in without a report."""
    make_adapter(base, tmp_path / "lower")
    make_adapter(base, tmp_path / "upper")
    with pytest.raises(InputError, match="is an adapter itself"):
        load_model(tmp_path / "upper", base=tmp_path / "lower")


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        PromptEncoderConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_virtual_tokens_are_refused_by_their_name(base: Path, tmp_path: Path, tokenizer: Any, config: Any) -> None:
    """As a folder and in memory: the type is named, and what can be given instead."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "adapter")
    for call in (lambda: load_model(tmp_path / "adapter"), lambda: load_model(model, tokenizer=tokenizer)):
        message = refusal(call)
        assert config.peft_type.value in message
        assert "LoRA" in message


# Honest models, and what a digest stands for.


def digest_of_tensors(model: Any) -> str:
    """The digest as evidence from before adapters' states were looked at has it: of the tensors alone."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}\x00{value.dtype}\x00{tuple(value.shape)}\x00".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def gpt2(tokenizer: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4)).eval()


def tied_llama(tokenizer: Any) -> LlamaForCausalLM:
    config = make_llama(tokenizer).config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("make", [gpt2, tied_llama, make_llama], ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", ["1GB", "20KB"], ids=["one file", "shards"])
def test_honest_folders_load(tmp_path: Path, tokenizer: Any, make: Callable[[Any], Any], size: str) -> None:
    """In one file or many, tied or not: one digest, the one that evidence of earlier versions holds."""
    model = make(tokenizer)
    model.save_pretrained(tmp_path, max_shard_size=size)
    first, second = (load_model(tmp_path, tokenizer=tokenizer) for _ in range(2))
    assert first.digest == second.digest == weights_digest(model) == digest_of_tensors(model)


def test_headless_names_and_old_buffers_load(tmp_path: Path, tokenizer: Any) -> None:
    """The first GPT-2 was published without the prefix of its layers, and with its causal masks."""
    model = gpt2(tokenizer)
    model.save_pretrained(tmp_path)

    def published(tensors: Tensors) -> Tensors:
        masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(2)}
        return masks | {name.removeprefix("transformer."): value for name, value in tensors.items()}

    rewrite(tmp_path / WHOLE, published)
    assert load_model(tmp_path, tokenizer=tokenizer).digest == weights_digest(model)


@pytest.mark.parametrize("stale", ["wte.weight", "h.0.ln_1.weight", "ln_f.bias"])
def test_two_names_of_one_weight_are_refused(tmp_path: Path, tokenizer: Any, stale: str) -> None:
    """The loader would keep the first in the alphabet, be it stale or not, and report nothing."""
    gpt2(tokenizer).save_pretrained(tmp_path)
    own = f"transformer.{stale}"
    rewrite(tmp_path / WHOLE, lambda tensors: {stale: tensors[own] + 1, **tensors})
    with pytest.raises(InputError, match=rf"0 tensors are missing, 1 are left over \(first {max(own, stale)}\)"):
        load_model(tmp_path, tokenizer=tokenizer)


@pytest.mark.parametrize("make", [gpt2, tied_llama], ids=lambda make: make.__name__)
def test_tied_weights_that_are_both_gone(tmp_path: Path, tokenizer: Any, make: Callable[[Any], Any]) -> None:
    """One of the two may be absent, not both."""
    make(tokenizer).save_pretrained(tmp_path)
    embedding = "transformer.wte.weight" if make is gpt2 else "model.embed_tokens.weight"
    rewrite(tmp_path / WHOLE, lambda tensors: {name: value for name, value in tensors.items() if name != embedding})
    with pytest.raises(InputError, match=rf"tensors are missing .*(lm_head|{embedding})"):
        load_model(tmp_path, tokenizer=tokenizer)


@pytest.mark.parametrize("combine", ["average", "route"])
def test_honest_ensembles_load(base: Path, tmp_path: Path, combine: Combine) -> None:
    """Two loads give one digest, before and after an answer; how answers are combined is part of it."""
    folder = describe(base, tmp_path / "ensemble", combine)
    first, second = load_model(folder), load_model(folder)
    with torch.no_grad():
        first.model(IDS)
    assert weights_digest(first.model) == first.digest == second.digest
    assert (first.digest == digest_of_tensors(first.model)) == (combine == "average")
    with pytest.raises(IntegrityError, match="not the one"):
        load_ensemble(folder, lambda _: make_llama(second.tokenizer, seed=1))


@pytest.fixture
def two(base: Path, tmp_path: Path) -> Any:
    """A model in memory with two adapters, of which the first is active."""
    model = load_model(make_adapter(base, tmp_path / "one")).model
    model.load_adapter(str(make_adapter(base, tmp_path / "two", seed=1)), adapter_name="second")
    return model


def test_a_digest_is_of_what_answers(two: Any) -> None:
    """Of the same tensors: switched off, merged, the other one active, both active, scaled: each its own digest, and back again."""
    alone = load_model_digests(two)
    assert len(set(alone.values())) == len(alone)
    assert weights_digest(two) == alone["as it was"]


def load_model_digests(model: Any) -> dict[str, str]:
    found = {"as it was": weights_digest(model)}
    with model.disable_adapter():
        found["switched off"] = weights_digest(model)
    model.set_adapter("second")
    found["the other"] = weights_digest(model)
    model.base_model.set_adapter(["default", "second"])
    found["both"] = weights_digest(model)
    model.set_adapter("default")
    layers = [module for module in model.modules() if hasattr(module, "scale_layer")]
    for layer in layers:
        layer.scale_layer(0.0)
    found["scaled away"] = weights_digest(model)
    for layer in layers:
        layer.unscale_layer()
    return found


def test_merged_is_not_unmerged(base: Path, tmp_path: Path) -> None:
    """A base into which an adapter was folded, and which adds it again, has the merged model's tensors and other answers."""
    merged = load_model(make_adapter(base, tmp_path / "one")).model
    merged.merge_adapter()
    twice = load_model(tmp_path / "one").model
    twice.load_state_dict(merged.state_dict())
    assert digest_of_tensors(merged) == digest_of_tensors(twice)
    assert weights_digest(merged) != weights_digest(twice)


UNSCALED = ("ia3", "vera")
"""Kinds whose layers add without a factor."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pissa"])
def test_the_digest_covers_how_strongly_an_adapter_answers(base: Path, tmp_path: Path, kind: str) -> None:
    """An adapter scaled as `--lora` scales it, or not at all, is its tensors alone, as in evidence of earlier versions."""
    config = copy.deepcopy(KINDS[kind])
    if kind == "rslora":
        config.lora_alpha = 2 * math.sqrt(config.r)
    elif kind == "patterns":
        config.lora_alpha, config.alpha_pattern = 4, {"v_proj": 10}
    elif kind in ("loha", "lokr"):
        config.alpha = 4
    elif kind not in UNSCALED:
        config.lora_alpha = 4
    loaded = load_model(make_adapter(base, tmp_path / "adapter", config))
    assert loaded.digest == digest_of_tensors(loaded.model)


@pytest.mark.parametrize(
    "edit",
    [{"lora_alpha": 64}, {"lora_alpha": 4.5}, {"use_rslora": True}, {"alpha_pattern": {"v_proj": 1}}],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edited_scaling_is_another_model(base: Path, tmp_path: Path, edit: dict[str, Any]) -> None:
    """`adapter_config.json` scales the adapter: with another factor the same tensors give other answers, and another digest."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    folder = make_adapter(base, tmp_path / "adapter", config)
    before = load_model(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **edit}))
    after = load_model(folder)
    assert digest_of_tensors(before.model) == digest_of_tensors(after.model)
    assert before.digest != after.digest
    assert load_model(folder).digest == after.digest


# Experts that are stacked while they are loaded: names in files are not those in memory.


@pytest.fixture
def experts(tokenizer: Any, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, int] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=len(tokenizer), num_key_value_heads=4, num_local_experts=4, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "experts")
    tokenizer.save_pretrained(tmp_path / "experts")
    return tmp_path / "experts"


def test_models_that_are_rearranged(experts: Path, tmp_path: Path) -> None:
    """They load, alone and under an adapter, and damage to either is found by the loader's own report."""
    assert load_model(experts).digest == load_model(experts).digest
    folder = make_adapter(experts, tmp_path / "adapter")
    assert load_model(folder).digest == load_model(folder).digest
    before, after = rewrite(folder / ADAPTER, renamed("module."))
    message = refusal(lambda: load_model(folder))
    assert all(part in message for part in expected(before, after)), message
    rewrite(experts / WHOLE, lambda tensors: {name: value for name, value in tensors.items() if name != "model.norm.weight"})
    with pytest.raises(InputError, match=r"1 tensors are missing \(first model.norm.weight"):
        load_model(experts)


# Repositories of a Hub, from its cache on this machine.


def cached(folder: Path, name: str, cache: Path) -> None:
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_hub_names_are_checked_like_folders(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and an adapter on it, by their names: loaded under these, and refused where the files are damaged."""
    cache = tmp_path / "cache"
    adapter = make_adapter(base, tmp_path / "adapter")
    change_json(adapter / "adapter_config.json", base_model_name_or_path="somebody/base")
    cached(base, "somebody/base", cache)
    cached(adapter, "somebody/adapter", cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", partial(huggingface_hub.snapshot_download, cache_dir=cache))
    tokenizer = load_model(base).tokenizer
    loaded = load_model("somebody/adapter", tokenizer=tokenizer)
    assert loaded.digest == load_model(adapter, base=base).digest
    assert loaded.model.get_base_model().name_or_path == "somebody/base"
    rewrite(next((cache / "models--somebody--adapter").rglob(ADAPTER)), without_first)
    with pytest.raises(InputError, match="1 tensors are missing"):
        load_model("somebody/adapter", tokenizer=tokenizer)
    stale_single(next((cache / "models--somebody--base").glob("snapshots/*")))
    (next((cache / "models--somebody--base").glob("snapshots/*")) / INDEX).write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(InputError, match="holds both"):
        load_model("somebody/base", tokenizer=tokenizer)


def test_weights_of_another_commit_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that changes between configuration and weights gives no mixture of both; the same command works afterwards."""
    later = shutil.copytree(base, tmp_path / "later")
    commits = iter([base, later, later, later])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(next(commits)))
    with pytest.raises(InputError, match="somebody/base was changed on the Hub while it was fetched"):
        local_folder("somebody/base")
    assert local_folder("somebody/base") == later


# Models of another kind.


def classifier(tokenizer: Any) -> Any:
    return LlamaForSequenceClassification(make_llama(tokenizer).config)


def headless(tokenizer: Any) -> Any:
    return LlamaModel(make_llama(tokenizer).config)


def encoder_decoder(tokenizer: Any) -> Any:
    return T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4))


SMALL: dict[str, int] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}


def masked(tokenizer: Any) -> Any:
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SMALL))


def both_ways(tokenizer: Any) -> Any:
    """A head for continuations on layers that see what comes after."""
    return BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), **SMALL))


def vision(_: Any) -> Any:
    return ViTForImageClassification(ViTConfig(**SMALL))


@pytest.mark.parametrize("make", [classifier, headless, encoder_decoder, masked, both_ways, vision])
def test_models_of_another_kind(make: Callable[[Any], Any], tokenizer: Any, tmp_path: Path) -> None:
    """In memory and as a folder: what was given is named, and what to give instead."""
    model = make(tokenizer)
    model.save_pretrained(tmp_path / "model")
    for call in (
        lambda: load_model(model, tokenizer=tokenizer),
        lambda: load_model(tmp_path / "model", tokenizer=tokenizer),
        lambda: forget(model, NPO(), forget_set=make_rows("a", 2), tokenizer=tokenizer, output_dir=tmp_path / "out"),
    ):
        message = refusal(call)
        assert type(model).__name__ in message
        assert "AutoModelForCausalLM.from_pretrained" in message


def test_a_decoder_made_of_an_encoder_is_a_causal_model(tokenizer: Any, tmp_path: Path) -> None:
    """BERT that reads from left to right only is accepted."""
    model = BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), is_decoder=True, **SMALL)).eval()
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path, tokenizer=tokenizer).digest == weights_digest(model)


def test_what_is_no_model_and_what_hides_an_adapter(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    """A bare module, and a model into which `transformers` itself put an adapter."""
    with pytest.raises(InputError, match="Linear is not a model of transformers"):
        load_model(torch.nn.Linear(2, 2), tokenizer=tokenizer)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_adapter(str(make_adapter(base, tmp_path / "adapter")))
    with pytest.raises(InputError, match=r"PeftModel\.from_pretrained"):
        load_model(model, tokenizer=tokenizer)


def test_habits(base: Path) -> None:
    """A folder as tokenizer and a type of torch are understood."""
    loaded = load_model(load_model(base).model, tokenizer=str(base))
    assert loaded.digest == load_model(base).digest
    assert load_model(base, dtype=torch.bfloat16).model.dtype == torch.bfloat16


# What importing and loading do beside that.


@pytest.mark.slow
def test_a_model_without_adapters_needs_neither_peft_nor_bitsandbytes(base: Path) -> None:
    """In a process of its own: nothing is imported that could speak, and nothing is said."""
    code = (
        "import sys; from verify.models.loading import load_model; from transformers.utils import logging; "
        "logging.disable_progress_bar();"
        f"load_model({str(base)!r}); sys.exit(any(name in sys.modules for name in ('peft', 'bitsandbytes')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("module", ["unlearn.training.run", "unlearn.cli.main", "verify.models.checked_loading, peft"])
def test_no_notice_of_a_kernel_that_nobody_needs(module: str) -> None:
    """PEFT imports bitsandbytes, whose notice on some processors is kept back; its other records are not."""
    code = (
        f"import {module}; import logging, peft, bitsandbytes; logger = logging.getLogger('bitsandbytes.backends.cpu.ops');"
        "logger.warning('Failed to load CPU gemm_4bit_forward from kernels-community: %s.', 1); logger.warning('another record')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert "gemm_4bit_forward" not in done.stderr
    assert "another record" in done.stderr


@pytest.mark.slow
def test_nothing_is_said_in_front_of_an_adapter(base: Path, tmp_path: Path) -> None:
    """In a process of its own: loading an adapter writes nothing to standard error, however many are loaded."""
    folder = make_adapter(base, tmp_path / "adapter")
    code = (
        "from verify.io.libraries import quiet_imports; quiet_imports(); from verify.models.loading import load_model; "
        f"[load_model({str(folder)!r}) for _ in range(2)]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
