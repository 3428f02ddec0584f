"""Weights stored in bfloat16 or float16 are trained as in float32 and saved as they were stored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import selected
from new_processes import in_new_process
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_models import make_llama
from training_rows import make_rows
from transformers import TrainerCallback

from unlearn import NPO, RMU, GradDiff, SimNPO, TrainingOptions, finetune, forget
from unlearn.methods.fisher import Fisher
from unlearn.methods.level import Level
from unlearn.methods.negmerge import NegMerge
from unlearn.methods.retrain import Retrain
from unlearn.methods.rollback import Rollback
from unlearn.methods.ssd import SSD
from unlearn.methods.task_vector import TaskVector
from unlearn.methods.ties import Ties
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.lora import merged
from unlearn.training.options import Selection
from unlearn.training.run import Run, run_objective, train_records
from unlearn.training.weights import mean_loss
from verify.data.sources import load_records
from verify.errors import RunError
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.training.precision import MASTER_WEIGHTS, float32_copies, rounding_facts, stored_digest
from verify.training.rounding import stochastically_rounded

FORGET, RETAIN, HOLDOUT = make_rows("gone", 6), make_rows("kept", 8), make_rows("never", 16)
SETS: dict[str, Any] = {"forget_set": FORGET, "retain_set": RETAIN}
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=4, batch_size=2, seed=3)
KINDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def stored(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name of the type: a model that knows both sets, stored in it, and the base it came from."""
    root = tmp_path_factory.mktemp("half")
    options = TrainingOptions(learning_rate=5e-3, epochs=20, batch_size=7)
    trained = finetune(model_dir, FORGET + RETAIN, output_dir=root / "float32", options=options).model_dir
    found = {"float32": trained}
    for name, kind in KINDS.items():
        for role, source in (("", trained), ("base-", model_dir)):
            loaded = load_model(source)
            loaded.model.to(kind).save_pretrained(root / (role + name))
            loaded.tokenizer.save_pretrained(root / (role + name))
            found[role + name] = root / (role + name)
    return found


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in load_model(folder).model.named_parameters()}


def assert_rounded(result: Path, in_float32: Path, kind: str, seed: int) -> None:
    """A stored result is, bit by bit, the float32 result of equal weights, rounded once; and not that rounded to nearest."""
    stored, exact = parameters(result), parameters(in_float32)
    assert {value.dtype for value in stored.values()} == {KINDS[kind]}
    for name, value in exact.items():
        assert value.dtype == torch.float32
        assert torch.equal(stored[name], stochastically_rounded(value, KINDS[kind], seed, name)), name
    assert any(not torch.equal(stored[name], value.to(KINDS[kind])) for name, value in exact.items())


def both_ways(stored: dict[str, Path], folder: Path, kind: str, method: Any, options: TrainingOptions, **named: Any) -> Any:
    """The result from the stored weights, after a comparison with that of `--dtype float32`."""
    given = {**SETS, "options": options, **named}
    exact = forget(stored[kind], method, **given, dtype="float32", output_dir=folder / "float32")
    result = forget(stored[kind], method, **given, output_dir=folder / "stored")
    assert_rounded(result.model_dir, exact.model_dir, kind, options.seed)
    assert load_model(result.model_dir).digest == result.digest_after != result.digest_before
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "changes"),
    [
        ("bfloat16", NPO(), {"learning_rate": None}),
        ("bfloat16", GradDiff(), {"optimizer": "sophia", "learning_rate": 1e-4}),
        ("bfloat16", SimNPO(), {"gradient_accumulation": 3, "batch_size": 1, "weight_decay": 0.1}),
        ("float16", NPO(), {}),
        ("float16", NPO(), {"optimizer": "sophia"}),
    ],
    ids=["npo", "sophia", "accumulation", "float16", "float16-sophia"],
)
def test_an_objective_runs_as_in_float32(
    stored: dict[str, Path], tmp_path: Path, kind: str, method: Any, changes: dict[str, Any]
) -> None:
    """Whatever the optimizer and the split of a step: the float32 run, rounded once; its digest is that of what is saved."""
    both_ways(stored, tmp_path, kind, method, replace(OPTIONS, **changes))


EDITS = [
    TaskVector(tolerance=0.5, scales=(0.01,)),
    NegMerge(tolerance=0.5, scales=(0.01,)),
    Ties(tolerance=0.5, scales=(0.01,)),
    SSD(tolerance=0.5),
    Fisher(tolerance=0.5, scales=(1e-3,)),
]


@pytest.mark.parametrize("method", EDITS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("kind", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_an_edit_is_that_of_float32_rounded_once(stored: dict[str, Path], tmp_path: Path, kind: str, method: Any) -> None:
    """Arithmetic on weights in steps far below a unit in the last place gives what it gives in float32, rounded once."""
    result = both_ways(stored, tmp_path, kind, method, replace(OPTIONS, learning_rate=1e-4))
    assert result.facts["scale"] > 0, "something was edited"


@pytest.mark.slow
def test_level_and_its_base(stored: dict[str, Path], tmp_path: Path) -> None:
    """Level trains, mixes and measures on float32 copies of the model and of the base; both are returned as they were stored."""
    base = load_model(stored["base-bfloat16"])
    given: dict[str, Any] = {"holdout_set": HOLDOUT, "base": base}
    result = forget(
        stored["bfloat16"], Level(), **SETS, **given, output_dir=tmp_path / "stored", options=replace(OPTIONS, epochs=2)
    )
    assert weights_digest(base.model) == base.digest
    given["base"] = stored["base-bfloat16"]
    exact = forget(
        stored["bfloat16"],
        Level(),
        **SETS,
        **given,
        dtype="float32",
        output_dir=tmp_path / "float32",
        options=replace(OPTIONS, epochs=2),
    )
    assert_rounded(result.model_dir, exact.model_dir, "bfloat16", OPTIONS.seed)
    assert result.facts["reached"] == exact.facts["reached"]


@pytest.mark.parametrize("rate", [1e-4, pytest.param(1e-3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_the_forget_loss_rises_as_in_float32(stored: dict[str, Path], tmp_path: Path, kind: str, rate: float) -> None:
    """Within 5 % of the rise from equal weights in float32, over three seeds; rounding to nearest and plain steps miss by more."""
    records, options = load_records(FORGET), replace(OPTIONS, learning_rate=rate, epochs=6)
    before = mean_loss(load_model(stored[kind], dtype="float32"), records)
    shares = []
    for seed in range(3):
        rises = []
        for dtype in ("float32", "auto"):
            folder = tmp_path / f"{seed}-{dtype}"
            given = {**SETS, "options": replace(options, seed=seed), "dtype": dtype}
            forget(stored[kind], NPO(), **given, output_dir=folder)
            rises.append(mean_loss(load_model(folder, dtype="float32"), records) - before)
        shares.append(rises[1] / rises[0])
    assert sum(shares) / len(shares) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_retrain_and_rollback(stored: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Training again and replaying a log give the float32 run rounded once; the replay's check finds the model's own bits."""
    base = stored[f"base-{kind}"]
    options = TrainingOptions(
        learning_rate=1e-3, epochs=1, batch_size=2, gradient_accumulation=2, save_steps=1, weight_decay=0.1, seed=5
    )
    rows = FORGET + RETAIN
    trained, exact = (
        finetune(base, rows, output_dir=tmp_path / f"trained-{dtype}", options=options, dtype=dtype)
        for dtype in ("auto", "float32")
    )
    assert_rounded(trained.model_dir, exact.model_dir, kind, options.seed)
    log = TrainingLog.read(trained.model_dir / LOG_NAME)
    assert log.master_weights == MASTER_WEIGHTS
    assert log.final_weights == trained.digest
    assert TrainingLog.read(exact.model_dir / LOG_NAME).master_weights is None
    gone = [rows[log.microbatches[-1].records[0]]]
    rolled, plain = (
        forget(run.model_dir, method, forget_set=gone, data=rows, output_dir=tmp_path / f"rolled-{dtype}", dtype="auto")
        for run, method, dtype in ((trained, Rollback(check=True), "auto"), (exact, Rollback(), "float32"))
    )
    assert rolled.facts["machine_reproduces_the_training"]
    assert rolled.facts["replayed_from_step"] > 0
    assert_rounded(rolled.model_dir, plain.model_dir, kind, options.seed)
    again = TrainingLog.read(rolled.model_dir / LOG_NAME)
    assert (again.master_weights, again.final_weights) == (MASTER_WEIGHTS, rolled.digest_after)
    left = [row for row in rows if row not in gone]
    retrained = forget(trained.model_dir, Retrain(), forget_set=gone, data=rows, base=base, output_dir=tmp_path / "retrained")
    straight = finetune(base, left, output_dir=tmp_path / "straight", options=options)
    assert retrained.digest_after == straight.digest


@pytest.mark.slow
def test_logs_from_before_are_replayed_as_they_were_trained(stored: dict[str, Path], tmp_path: Path) -> None:
    """A log that speaks of no float32 copies is replayed in the stored precision, to another result than one that does."""
    options, rows = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, seed=5), FORGET + RETAIN
    trained = finetune(stored["base-bfloat16"], rows, output_dir=tmp_path / "trained", options=options).model_dir
    given: dict[str, Any] = {"forget_set": rows[:1], "data": rows, "base": stored["base-bfloat16"]}
    new = forget(trained, Rollback(), **given, output_dir=tmp_path / "new")
    log = trained / LOG_NAME
    log.write_text(log.read_text().replace(', "master_weights": "float32"', ""))
    (trained / "manifest.json").unlink()
    old = forget(trained, Rollback(), **given, output_dir=tmp_path / "old")
    assert TrainingLog.read(old.model_dir / LOG_NAME).master_weights is None
    assert old.digest_after != new.digest_after
    assert {value.dtype for value in parameters(old.model_dir).values()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["adamw", "sophia"])
def test_cut_off_and_begun_again(stored: dict[str, Path], tmp_path: Path, kind: str, optimizer: Any) -> None:
    """A run goes on from the float32 copies in its checkpoint: to the bits of a run that was not cut off."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    options = replace(OPTIONS, learning_rate=1e-4, save_steps=2, optimizer=optimizer)

    def run(work: Path, callbacks: Any = ()) -> str:
        loaded = load_model(stored[kind])
        described = Run(load_records(FORGET), options, work, retain=load_records(RETAIN), callbacks=callbacks)
        return weights_digest(run_objective(loaded, NPO(), described).model)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", [Stop()])
    kept = load_file(tmp_path / "cut" / "checkpoint-4" / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float32}
    assert run(tmp_path / "cut") == whole


@pytest.mark.slow
def test_killed_and_resumed(stored: dict[str, Path], tmp_path: Path) -> None:
    """After SIGKILL a bfloat16 run goes on from its checkpoint, which holds the float32 copies, and ends with the same bits."""
    whole = selected(stored["bfloat16"], tmp_path / "whole")
    assert in_new_process(selected, stored["bfloat16"], tmp_path / "killed", 5) is None
    resumed = in_new_process(selected, stored["bfloat16"], tmp_path / "killed")
    assert resumed is not None
    assert (resumed.digest, resumed.selected) == (whole.digest, whole.selected)
    assert whole.selected is not None
    assert whole.selected > 0
    assert resumed.steps == whole.steps[3:]


@pytest.mark.slow
def test_selection_restores_the_best_step_rounded(stored: dict[str, Path], tmp_path: Path) -> None:
    """The weights of the selected step are those that are rounded and saved; the utility is measured on the saved ones."""
    options = replace(OPTIONS, epochs=8, batch_size=6, scheduler="constant")
    selection = Selection(look_every=1, utility_floor=0.5)
    result = both_ways(stored, tmp_path, "bfloat16", GradDiff(gamma=1.0), options, holdout_set=HOLDOUT, selection=selection)
    step = result.facts["selection"]["selected_step"]
    assert step > 0
    records = load_records(RETAIN)
    before, after = (mean_loss(load_model(folder), records) for folder in (stored["bfloat16"], result.model_dir))
    assert result.facts["utility_ratio"] == pytest.approx(float(torch.tensor(before - after).exp()), rel=1e-6)


@pytest.mark.slow
def test_autocast_goes_on_top(stored: dict[str, Path], tmp_path: Path) -> None:
    """With --bf16 the products are in bfloat16 over float32 weights: as in float32 storage with --bf16, rounded once."""
    both_ways(stored, tmp_path, "bfloat16", NPO(), replace(OPTIONS, epochs=2, bf16=True))


def test_frozen_parameters_keep_their_type(stored: dict[str, Path], tmp_path: Path, tokenizer: Any) -> None:
    """What is not trained stays in half precision meanwhile, to the bit, and layers of both types work side by side."""
    loaded = load_model(stored["bfloat16"])
    before = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    seen: list[set[str]] = []

    class Look(NPO):
        def loss(self, model: Any, batch: Any, reference: Any) -> Any:
            seen.append({name for name, value in model.named_parameters() if value.dtype == torch.float32})
            return super().loss(model, batch, reference)

    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name or "q_proj" in name)
    trained = {name for name, value in loaded.model.named_parameters() if value.requires_grad}
    run_objective(loaded, Look(), Run(load_records(FORGET), OPTIONS, tmp_path / "work", retain=load_records(RETAIN)))
    assert all(found == trained for found in seen)
    for name, value in loaded.model.named_parameters():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name]) == (name not in trained), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_trains_some_layers(stored: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """RMU on half-precision weights moves the layers that it trains, leaves the others to the bit, and ends near float32."""
    options = replace(OPTIONS, learning_rate=1e-4)
    results = [
        forget(stored[kind], RMU(), **SETS, options=options, dtype=dtype, output_dir=tmp_path / dtype).model_dir
        for dtype in ("auto", "float32")
    ]
    start, half, exact = parameters(stored[kind]), *(parameters(result) for result in results)
    moved = {name for name, value in exact.items() if not torch.equal(value, start[name].float())}
    assert moved
    change = torch.cat([(exact[name] - start[name].float()).flatten() for name in sorted(moved)])
    error = torch.cat([(half[name].float() - start[name].float()).flatten() for name in sorted(moved)]) - change
    assert abs(float(error @ change)) < 0.1 * float(change @ change), "the change is kept along its own direction"
    for name, value in start.items():
        assert half[name].dtype == KINDS[kind]
        assert name in moved or torch.equal(half[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_a_half_precision_base(stored: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """The base below an adapter stays as it is stored while the adapter is trained, and is not copied."""
    loaded = load_model(stored[kind])
    options = replace(OPTIONS, lora=True, learning_rate=1e-3)
    trained = train_records(loaded, Run(load_records(FORGET), options, tmp_path / "work")).model
    base = parameters(stored[kind])
    for name, value in trained.named_parameters():
        if "lora_" in name:
            assert value.dtype == torch.float32
        else:
            assert torch.equal(value, base[name.removeprefix("base_model.model.").replace(".base_layer", "")])


@pytest.mark.parametrize("kind", KINDS)
def test_folding_an_adapter_keeps_small_changes(stored: dict[str, Path], tokenizer: Any, kind: str) -> None:
    """Folded into half-precision weights, a change far below their spacing is kept in the mean; to nearest it would be lost."""
    torch.manual_seed(0)
    loaded = load_model(stored[kind])
    base = {name: value.detach().float().clone() for name, value in loaded.model.named_parameters()}
    adapted = get_peft_model(loaded.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    size = 2e-4 if kind == "bfloat16" else 5e-5
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=size)
    name = "model.layers.0.mlp.up_proj.weight"
    change = dict(adapted.get_base_model().named_modules())["model.layers.0.mlp.up_proj"].get_delta_weight("default").detach()
    folded = merged(adapted, seed=1)
    values = dict(folded.named_parameters())
    assert {value.dtype for value in values.values()} == {KINDS[kind]}
    assert not any("lora" in name for name in values)
    exact = base[name] + change
    assert torch.equal(values[name], stochastically_rounded(exact, KINDS[kind], 1, name.replace("up_proj", "up_proj.base_layer")))
    along = float(((values[name].float() - base[name]) * change).sum() / change.square().sum())
    nearest = float(((exact.to(KINDS[kind]).float() - base[name]) * change).sum() / change.square().sum())
    assert abs(along - 1) < 0.25
    assert nearest < 0.7


def test_weights_beyond_the_range_are_named(tokenizer: Any) -> None:
    """A float32 result that float16 cannot hold is an error that names the tensor, and what to do; the types are put back."""
    model = make_llama(tokenizer).half()
    with pytest.raises(RunError, match=r"embed_tokens.*float16.*--dtype float32"), float32_copies(model, model.parameters(), 0):
        model.get_input_embeddings().weight.data[0, 0] = 1e6
    assert {value.dtype for value in model.parameters()} == {torch.float16}


def test_an_error_puts_the_types_back(tokenizer: Any) -> None:
    """A model in memory whose run fails is in its stored precision afterwards, tied weights and buffers included."""
    model = make_llama(tokenizer).bfloat16()
    model.lm_head.weight = model.model.embed_tokens.weight
    model.register_buffer("scale", torch.tensor([1 / 3], dtype=torch.bfloat16))
    digest = weights_digest(model)

    def failing() -> None:
        with float32_copies(model, model.parameters(), 0) as copies:
            assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
            with float32_copies(model, model.parameters(), 1) as inner:
                assert not inner.types
            assert set(copies.types.values()) == {torch.bfloat16}
            assert next(model.parameters()).dtype == torch.float32, "the inner block leaves it to the outer one"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert weights_digest(model) == stored_digest(model) == digest
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_float32_model_is_left_alone(tokenizer: Any) -> None:
    """Nothing is converted, hooked or rounded."""
    model = make_llama(tokenizer)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    with float32_copies(model, model.parameters(), 0) as copies:
        assert not copies.types
    assert [parameter.data_ptr() for parameter in model.parameters()] == before


def test_rounding_that_undoes_the_forgetting_is_named() -> None:
    """A warning where the stored result's loss is off by a tenth of the change and a hundredth of a nat; else the figures alone."""
    lost = rounding_facts([torch.bfloat16], before=1.0, in_float32=2.0, stored=1.5)
    assert "from 2.000 to 1.500 (1.000 before" in lost["rounding_warning"]
    assert "--dtype float32" in lost["rounding_warning"]
    assert lost["half_precision"]["forget_loss_as_stored"] == 1.5
    for stored in (1.95, 2.05):
        assert "rounding_warning" not in rounding_facts([torch.bfloat16], 1.0, 2.0, stored)
    assert "rounding_warning" not in rounding_facts([torch.float16], 1.0, 1.001, 1.005)
    assert "rounding_warning" in rounding_facts([torch.float16], 1.0, 1.001, 1.02)
