"""Steps on bfloat16 copies of float32 weights: what is computed, what is left behind, and that runs are reproduced bit for bit."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama
from training_rows import make_rows
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from unlearn import NPO, RMU, GradDiff, TrainingOptions, finetune, forget
from unlearn.methods.level import Level
from unlearn.methods.rollback import Rollback
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.run import Run, arithmetic_of, run_objective, train_records
from verify.data.sources import load_records
from verify.errors import InputError
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.provenance.training_log import BFLOAT16_COPIES, FLOAT32_SUMS
from verify.training import arithmetic
from verify.training.arithmetic import WIDE, Arithmetic, can_compute_in_copies, float32_weight, has_bfloat16_instructions
from verify.training.short_attention import LONGEST, short_attention

FORGET, RETAIN = make_rows("gone", 6), make_rows("kept", 8)
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=3, batch_size=2, seed=3, bf16=True)


def batch_of(words: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, words, (4, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "scored": torch.arange(12) >= torch.tensor([[5]] * 4)}


@pytest.mark.parametrize("wide", [False, True])
def test_a_pass_on_copies(tokenizer: Any, wide: bool) -> None:
    """Products are in bfloat16, sums over layers in float32 if asked, gradients near the exact ones, and the model as it was."""
    model, batch = make_llama(tokenizer), batch_of(len(tokenizer))
    before = dict(model.named_parameters())
    scored_log_probabilities(model, batch)[0].mean().backward()
    exact = {name: parameter.grad.clone() for name, parameter in before.items()}
    model.zero_grad()
    seen: list[torch.dtype] = []
    products: list[torch.dtype] = []
    watches = [
        model.model.layers[1].register_forward_hook(lambda _, __, output: seen.append(output.dtype)),
        model.model.layers[1].mlp.register_forward_hook(lambda _, given, output: products.extend((given[0].dtype, output.dtype))),
    ]
    with Arithmetic(in_copies=True, wide=wide).of(model):
        inside = dict(model.named_parameters())
        scored_log_probabilities(model, batch)[0].mean().backward()
    for watch in watches:
        watch.remove()
    assert set(seen) == {torch.float32 if wide else torch.bfloat16}
    assert set(products) == {torch.bfloat16}
    kept = ("embed", "norm") if wide else ("embed",)
    assert {value.dtype for name, value in inside.items() if not any(one in name for one in kept)} == {torch.bfloat16}
    assert all(float32_weight(inside[name]) is parameter for name, parameter in before.items())
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.grad.dtype == torch.float32
        assert float((parameter.grad - exact[name]).norm() / exact[name].norm()) < 0.05, name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", WIDE)
def test_every_architecture_with_sums_in_float32(kind: str, dtype: torch.dtype) -> None:
    """Trained, or frozen in bfloat16: states between layers are in float32, products in bfloat16, results near those of float32."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, num_key_value_heads=2, head_dim=8, pad_token_id=0)
    model, batch = AutoModelForCausalLM.from_config(config).to(dtype), batch_of(64)
    exact = scored_log_probabilities(model.float(), batch)[0].detach()
    model.to(dtype).requires_grad_(dtype == torch.float32)
    chosen = Arithmetic.in_copies_of(model)
    assert chosen.wide
    layers, products = list[torch.dtype](), list[torch.dtype]()
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, __, output: layers.append((output[0] if isinstance(output, tuple) else output).dtype))
        layer.mlp.down_proj.register_forward_hook(lambda _, given, output: products.extend((given[0].dtype, output.dtype)))
    with chosen.of(model):
        found = scored_log_probabilities(model, batch)[0]
    assert set(layers) == {torch.float32}
    assert set(products) == {torch.bfloat16}
    assert float((found.detach() - exact).abs().max()) < 0.05
    if dtype == torch.float32:
        found.mean().backward()
        assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "olmo2"])
def test_adapters_are_rounded_once_in_every_architecture(kind: str) -> None:
    """A layer with an adapter is one function with one rounding, whether a norm or the hidden states themselves come before it."""
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model, batch = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)), batch_of(64)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-3)  # below half a unit of what the frozen layer gives
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def compare(module: Any, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        base, down, up = (part.weight.double() for part in (module.base_layer, module.lora_A.default, module.lora_B.default))
        values = given[0].to(torch.bfloat16).double()
        seen.append((output.double(), values @ base.T, module.scaling["default"] * (values @ down.T) @ up.T))

    with Arithmetic.in_copies_of(model).of(model):
        watch = layer.register_forward_hook(compare)
        scored_log_probabilities(model, batch)
        watch.remove()
    output, frozen, part = (torch.cat([one[which].flatten() for one in seen]) for which in range(3))
    error = output - frozen - part
    assert float(error.norm()) < 1.05 * float((frozen + part - (frozen + part).bfloat16().double()).norm())


def test_sums_in_float32_keep_the_digits_of_deep_models() -> None:
    """Over 24 layers the log-probabilities come nearer to those of float32 than with sums in bfloat16."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 24, "num_attention_heads": 4}
    model, batch = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)), batch_of(64)
    with torch.no_grad():
        exact, errors = scored_log_probabilities(model, batch)[0], []
        for wide in (False, True):
            with Arithmetic(in_copies=True, wide=wide).of(model):
                errors.append(float((scored_log_probabilities(model, batch)[0] - exact).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_tied_weights_are_one_copy(tokenizer: Any) -> None:
    """Embedding and head of a tied model add up their gradients; an error in the block restores the weights, too."""
    model = make_llama(tokenizer)
    model.lm_head.weight = model.model.embed_tokens.weight
    tied, batch = model.lm_head.weight, batch_of(len(tokenizer))
    scored_log_probabilities(model, batch)[0].mean().backward()
    exact, tied.grad = tied.grad, None
    with Arithmetic(in_copies=True).of(model):
        scored_log_probabilities(model, batch)[0].mean().backward()
    assert float((tied.grad - exact).norm() / exact.norm()) < 0.05
    with pytest.raises(KeyError), Arithmetic(in_copies=True).of(model):
        raise KeyError
    assert model.lm_head.weight is model.model.embed_tokens.weight is tied


def test_frozen_weights_are_converted_once(tokenizer: Any) -> None:
    """Their copy is kept from pass to pass, and made again where the weight was changed."""
    model, arithmetic = make_llama(tokenizer).requires_grad_(False), Arithmetic(in_copies=True)
    copies = []
    for change in (0.0, 0.0, 1.0):
        if change:
            model.lm_head.weight.add_(change)
        with arithmetic.of(model):
            copies.append(model.lm_head.weight)
    assert copies[0] is copies[1] is not copies[2]
    torch.testing.assert_close(copies[2].float(), model.lm_head.weight.detach(), rtol=2**-7, atol=0)


def test_where_copies_are_not_taken(tokenizer: Any) -> None:
    """A model with float16 weights keeps to autocast."""
    assert can_compute_in_copies(make_llama(tokenizer))
    assert can_compute_in_copies(make_llama(tokenizer).bfloat16())
    assert not can_compute_in_copies(make_llama(tokenizer).half())


@pytest.mark.parametrize(
    ("machine", "instructions", "fast"),
    [
        ("x86_64", {"_is_avx512_bf16_supported": True, "_is_amx_tile_supported": False}, True),
        ("AMD64", {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": True}, True),
        ("x86_64", {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": False}, False),
        ("x86_64", {"_is_avx512_bf16_supported": False}, False),
        ("x86_64", {}, True),  # a torch that cannot be asked
        ("aarch64", {"_is_avx512_bf16_supported": False}, True),
    ],
)
def test_a_processor_that_emulates_bfloat16_is_named(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, machine: str, instructions: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    for name in arithmetic.X86_BFLOAT16:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    for name, value in instructions.items():
        monkeypatch.setattr(torch.cpu, name, lambda value=value: value, raising=False)
    arithmetic.warn_of_emulation.cache_clear()
    assert has_bfloat16_instructions() == fast
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            arithmetic_of(make_llama(tokenizer), TrainingOptions(bf16=True))
        arithmetic_of(make_llama(tokenizer), TrainingOptions())
    said = [str(warning.message) for warning in caught if "--bf16" in str(warning.message)]
    assert len(said) == (not fast)
    arithmetic.warn_of_emulation.cache_clear()


def test_float32_is_not_warned_of(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_bfloat16_instructions", lambda: False)
    arithmetic.warn_of_emulation.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arithmetic_of(make_llama(tokenizer), TrainingOptions())


@pytest.mark.parametrize("form", ["bool mask", "added mask", "causal", "groups"])
def test_short_attention(form: str) -> None:
    """Output and gradients are as near to float64 as those of the stock kernel, with every form of its arguments."""
    torch.manual_seed(0)
    heads = 2 if form == "groups" else 4
    shapes = [(2, 4, 9, 16), (2, heads, 9, 16), (2, heads, 9, 16)]
    parts = [2 * torch.randn(shape).bfloat16() for shape in shapes]
    seen = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    seen[1, :, :, 7:] = False
    given: dict[str, Any] = {
        "bool mask": {"attn_mask": seen},
        "added mask": {"attn_mask": torch.zeros(2, 1, 9, 9, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))},
        "causal": {"is_causal": True, "scale": 0.3},
        "groups": {"is_causal": True, "enable_gqa": True},
    }[form]
    toward = torch.randn(2, 4, 9, 16).bfloat16()

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [part.to(dtype).requires_grad_() for part in parts]
        own = {name: value.to(dtype) if name == "attn_mask" and form == "added mask" else value for name, value in given.items()}
        output = F.scaled_dot_product_attention(*leaves, **own)
        return [output.detach(), *torch.autograd.grad(output, leaves, toward.to(dtype))]

    exact, stock = run(torch.float64), run(torch.bfloat16)
    with short_attention():
        ours = run(torch.bfloat16)
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(ours, stock, strict=True)), "the stock kernel ran"
    for mine, theirs, true in zip(ours, stock, exact, strict=True):
        assert float((mine - true).norm()) < max(1.3 * float((theirs - true).norm()), 0.004 * float(true.norm()))


def test_attention_that_is_left_to_the_stock_kernel() -> None:
    """Float32 and long sequences give the stock kernel's bits."""
    torch.manual_seed(0)
    for length, dtype in ((9, torch.float32), (LONGEST + 1, torch.bfloat16)):
        parts = [torch.randn(1, 1, length, 8).to(dtype).requires_grad_() for _ in range(3)]
        with short_attention():
            ours = F.scaled_dot_product_attention(*parts, is_causal=True)
        assert torch.equal(ours, F.scaled_dot_product_attention(*parts, is_causal=True))


@pytest.mark.parametrize("objective", [NPO(), GradDiff(), RMU()])
@pytest.mark.parametrize(
    "more", [{}, *(pytest.param({name: True}, marks=pytest.mark.slow) for name in ("lora", "gradient_checkpointing"))]
)
def test_objectives_end_near_float32(model_dir: Path, tmp_path: Path, objective: Any, more: dict[str, Any]) -> None:
    """The weights move as in float32 to a few percent of the way, whatever is trained, and come out in float32."""
    moved = []
    for bf16 in (False, True):
        loaded = load_model(model_dir)
        start = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
        options = replace(OPTIONS, bf16=bf16, learning_rate=1e-4, **more)
        described = Run(load_records(FORGET), options, tmp_path / str(bf16), retain=load_records(RETAIN))
        model = run_objective(loaded, objective, described).model
        state = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad or name in start}
        assert {value.dtype for value in state.values()} == {torch.float32}
        moved.append(torch.cat([(value - start.get(name, 0.0)).flatten() for name, value in state.items()]))
    # AdamW's first steps have the size of the learning rate whatever the gradient's: where it is tiny its sign is rounding, most
    # so under RMU, whose retain term, 1200 times a squared distance, begins at its minimum.
    assert float(F.cosine_similarity(moved[0], moved[1], 0)) > (0.7 if isinstance(objective, RMU) else 0.9)


@pytest.mark.slow
def test_level_runs_on_copies(model_dir: Path, tmp_path: Path) -> None:
    """The penalty reads the float32 weights, and the result comes as near to the level as in float32."""
    holdout = make_rows("never", 8)
    trained = finetune(model_dir, FORGET + RETAIN, output_dir=tmp_path / "trained", options=replace(OPTIONS, epochs=20))
    given: dict[str, Any] = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": holdout, "base": model_dir}
    reached = []
    for bf16 in (False, True):
        options = replace(OPTIONS, bf16=bf16, epochs=2)
        result = forget(trained.model_dir, Level(), **given, output_dir=tmp_path / f"level-{bf16}", options=options)
        reached.append(result.facts["reached"])
    assert reached[1] == pytest.approx(reached[0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
def test_a_replay_takes_the_logged_arithmetic(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    """Rollback reproduces a run on copies bit for bit, also of an earlier version; a log of an unknown arithmetic is refused."""
    rows, options = FORGET + RETAIN, replace(OPTIONS, epochs=1, save_steps=2, gradient_accumulation=2)
    with monkeypatch.context() as earlier:
        if not wide:
            earlier.setattr(arithmetic, "WIDE", ())
        trained = finetune(model_dir, rows, output_dir=tmp_path / "trained", options=options)
    log = TrainingLog.read(trained.model_dir / LOG_NAME)
    entry = FLOAT32_SUMS if wide else BFLOAT16_COPIES
    assert log.arithmetic == entry
    gone = [rows[log.microbatches[-1].records[0]]]
    given: dict[str, Any] = {"forget_set": gone, "data": rows, "base": model_dir}
    rolled = forget(trained.model_dir, Rollback(check=True), **given, output_dir=tmp_path / "rolled")
    assert rolled.facts["machine_reproduces_the_training"]
    assert TrainingLog.read(rolled.model_dir / LOG_NAME).arithmetic == entry
    unknown = tmp_path / LOG_NAME
    unknown.write_text((trained.model_dir / LOG_NAME).read_text().replace(f'"{entry}"', '"another"'))
    with pytest.raises(InputError, match="not a training log of this version"):
        TrainingLog.read(unknown)


@pytest.mark.slow
def test_cut_off_and_begun_again(model_dir: Path, tmp_path: Path) -> None:
    """A resumed run ends with the bits of one that was not interrupted."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    def run(work: Path, callbacks: Any = ()) -> str:
        described = Run(load_records(FORGET), replace(OPTIONS, save_steps=2), work, callbacks=callbacks)
        return weights_digest(train_records(load_model(model_dir), described).model)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", [Stop()])
    assert run(tmp_path / "cut") == whole


def test_copies_follow_steps_below_their_precision(tokenizer: Any) -> None:
    """Weights on the grid are copied exactly; moved by a hundredth of a unit, their copies move by as much in the mean."""
    model = make_llama(tokenizer).bfloat16().float()
    weight = model.model.layers[0].mlp.gate_proj.weight
    weight.data = torch.full((600, 700), -0.75)
    with Arithmetic(in_copies=True).of(model):
        assert torch.equal(model.model.layers[0].mlp.gate_proj.weight.float(), weight)
    step = 0.01 * 2**-8  # of the grid's unit between 1/2 and 1
    weight.data += step
    with Arithmetic(in_copies=True).of(model):
        copy = model.model.layers[0].mlp.gate_proj.weight
        copy.float().sum().backward()
    moved = copy.detach().double() + 0.75
    assert float(moved.mean()) == pytest.approx(step, rel=5 * (0.01 * 0.99 / weight.numel()) ** 0.5 / 0.01)
    assert torch.equal(weight.grad, torch.ones_like(weight))
