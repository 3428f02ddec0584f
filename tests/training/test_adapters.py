"""Adapters: those named are attached, those loaded are trained, and what was trained is what is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tiny_models import make_llama
from training_rows import make_rows
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Mamba2Config, MambaConfig, MambaForCausalLM

from unlearn import NPO, TrainingOptions, finetune, forget
from unlearn.methods.level import Level
from unlearn.methods.rmu import RMU
from unlearn.methods.ssd import SSD
from unlearn.methods.undial import UNDIAL
from unlearn.training.lora import merged
from verify import InputError
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.training.adapters import attach_adapter

SETS = {"forget_set": make_rows("gone", 4), "retain_set": make_rows("kept", 8)}
OPTIONS = TrainingOptions(learning_rate=1e-2, epochs=3, batch_size=2)


@pytest.fixture(scope="module")
def adapted(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is an adapter, on its head too."""
    options = TrainingOptions(learning_rate=1e-2, epochs=3, lora=True, lora_targets="q_proj,down_proj,lm_head")
    rows = [*SETS["forget_set"], *SETS["retain_set"]]
    return finetune(model_dir, rows, output_dir=tmp_path_factory.mktemp("adapted") / "model", options=options).model_dir


def frozen(model_dir: Path, adapted: Path) -> Any:
    """The adapter as PEFT loads it."""
    return PeftModel.from_pretrained(load_model(model_dir).model, str(adapted))


def asking(model: Any) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("method", [RMU(), NPO()], ids=lambda method: type(method).__name__)
def test_what_was_trained_is_saved(adapted: Path, tmp_path: Path, method: Any) -> None:
    """The base below an adapter stays as it is, also where a method chooses what it trains: a reload gives the same digest."""
    result = forget(adapted, method, **SETS, output_dir=tmp_path / "out", options=OPTIONS)
    assert load_model(result.model_dir).digest == result.digest_after != result.digest_before


@pytest.mark.slow
@pytest.mark.parametrize("method", [NPO(), RMU(), SSD(tolerance=0.9), Level(("base",))], ids=lambda method: type(method).__name__)
def test_a_frozen_adapter_is_trained(model_dir: Path, adapted: Path, tmp_path: Path, tokenizer: Any, method: Any) -> None:
    """An adapter in memory, frozen as PEFT loads it, becomes what its folder becomes, and is frozen again afterwards."""
    given: dict[str, Any] = {**SETS, "options": OPTIONS, "base": model_dir if isinstance(method, Level) else None}
    model = frozen(model_dir, adapted)
    assert not asking(model)
    in_memory = forget(model, method, tokenizer=tokenizer, output_dir=tmp_path / "memory", **given)
    folder = forget(adapted, method, output_dir=tmp_path / "folder", **given)
    assert in_memory.digest_after == folder.digest_after == weights_digest(model)
    assert not asking(model)


def test_a_trained_prompt_is_refused_by_its_name(tokenizer: Any) -> None:
    """PEFT cannot load a trained prompt for training, so the user is told which adapters can be trained."""
    model = get_peft_model(make_llama(tokenizer), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(InputError, match=r"PROMPT_TUNING.*LoRA"):
        attach_adapter(model, OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("method", [RMU(), NPO(), SSD()], ids=lambda method: type(method).__name__)
def test_what_the_caller_froze_stays_frozen(model_dir: Path, tmp_path: Path, method: Any) -> None:
    """A model in memory asks for gradients where it did before, whatever a method trains."""
    loaded = load_model(model_dir)
    loaded.model.get_input_embeddings().requires_grad_(False)
    before = asking(loaded.model)
    forget(loaded.model, method, **SETS, tokenizer=loaded.tokenizer, output_dir=tmp_path / "out", options=OPTIONS)
    assert asking(loaded.model) == before


def test_the_reference_of_a_trained_head_stands(adapted: Path, tmp_path: Path) -> None:
    """A model that is an adapter is trained as such, with --lora or without: the distributions before unlearning stay the same."""
    digests = [
        forget(
            adapted,
            UNDIAL(),
            **SETS,
            output_dir=tmp_path / str(lora),
            options=TrainingOptions(learning_rate=1e-2, epochs=3, batch_size=2, lora=lora),
        ).digest_after
        for lora in (False, True)
    ]
    assert digests[0] == digests[1]


def lora(targets: str) -> TrainingOptions:
    return TrainingOptions(lora=True, lora_targets=targets)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("q_proj, v_proj", {"q_proj", "v_proj"}),
        (" lm_head ,", {"lm_head"}),
        (" all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_every_named_layer_is_adapted(model_dir: Path, targets: str, expected: set[str]) -> None:
    """Blanks around a name are no part of it."""
    model = attach_adapter(load_model(model_dir).model, lora(targets))
    assert {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, LoraLayer)} == expected


@pytest.mark.parametrize("targets", ["q_proj,v_prj", "q_proj,mlp", "all-linear,lm_hd", ","])
def test_a_name_that_fits_no_layer(model_dir: Path, targets: str) -> None:
    """It is refused rather than passed over, and the layers that there are are named."""
    wrong = "nothing" if targets == "," else targets.split(",")[1]
    with pytest.raises(InputError, match=rf"called .*{wrong}\. Name some of .*v_proj"):
        attach_adapter(load_model(model_dir).model, lora(targets))


def test_a_typo_begins_no_run(model_dir: Path, tmp_path: Path) -> None:
    """The same output folder takes the command with the name put right."""
    with pytest.raises(InputError, match="v_prj"):
        forget(model_dir, NPO(), **SETS, output_dir=tmp_path / "out", options=lora("v_prj"))
    assert forget(model_dir, NPO(), **SETS, output_dir=tmp_path / "out", options=lora("v_proj")).training


@pytest.fixture
def tied(tokenizer: Any) -> Any:
    """A model whose head is its embedding."""
    config = make_llama(tokenizer).config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_weights_that_serve_twice_get_no_adapter(tied: Any, target: str) -> None:
    """Folded into the one, it would change the other, and the result would not be what was trained."""
    with pytest.raises(InputError, match=f"Leave {target} out"):
        attach_adapter(tied, lora(f"q_proj,{target}"))


@torch.no_grad()
def test_a_folded_adapter_computes_the_same(tied: Any) -> None:
    """Folding in changes nothing that the model says, with tied embeddings too."""
    model, ids = attach_adapter(tied, lora("all-linear")).eval(), torch.arange(3, 19)[None]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
    before = model(ids).logits
    torch.testing.assert_close(merged(model)(ids).logits, before, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=[MambaConfig, Mamba2Config], ids=lambda kind: kind.model_type)
def state_space(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    """A tiny Mamba."""
    more = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8} if request.param is Mamba2Config else {}
    config = request.param(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4, **more)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_all_linear_on_a_mamba_is_every_layer_that_is_called(state_space: Any) -> None:
    """Each adapter learns something, and folded in it computes what it did."""
    model, ids = attach_adapter(state_space, lora("all-linear")).eval(), torch.arange(3, 19)[None]
    factors = {name: parameter for name, parameter in model.named_parameters() if "lora_B" in name}
    assert {name.split(".")[-4] for name in factors} <= {"in_proj", "x_proj"}
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in factors.values())
    with torch.no_grad():
        for parameter in factors.values():
            parameter.normal_(std=0.1)
        before = model(input_ids=ids).logits
        torch.testing.assert_close(merged(model)(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["out_proj", "conv1d", "in_proj,dt_proj"])
def test_layers_of_a_mamba_that_are_never_called(state_space: Any, target: str) -> None:
    """An adapter on them would do nothing: refused, and those that work are named."""
    with pytest.raises(InputError, match=r"would have no effect\. Name some of in_proj"):
        attach_adapter(state_space, lora(target))


@pytest.mark.slow
def test_a_mamba_is_fine_tuned_in_an_adapter(tokenizer: Any, tmp_path: Path) -> None:
    """From training to the saved model and back: the digest is the one that training ended with."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = TrainingOptions(learning_rate=1e-2, epochs=1, batch_size=4, lora=True)
    result = finetune(tmp_path / "base", SETS["forget_set"], output_dir=tmp_path / "out", options=options)
    assert load_model(result.model_dir).digest == result.digest
