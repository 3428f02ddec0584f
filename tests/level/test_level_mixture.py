"""The level from two views: what one is too rough for and the other remembers too well."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from tiny_models import make_llama
from training_rows import make_rows

from unlearn import Level, TrainingOptions, finetune, forget
from unlearn.level import mixtures
from unlearn.level.mixtures import ENOUGH, _in_half_batches, _stand_ins, can_be_mixed, mixed, two_views
from verify.data.records import Fields, parse_records
from verify.models.loading import load_model
from verify.training.adapters import attach_adapter

ALL = np.ones(4, dtype=bool)


def test_two_views_by_hand() -> None:
    """Known answers: without noise the fine view's order on the scale that the rough one shows; with some, less of it."""
    rough, fine = np.array([1.0, 3.0, 2.0, 2.0]), np.array([0.1, 0.5, 0.2, 0.4])
    # cov = 0.1 and var A = 0.5, so the slope is 0.2; var B = 0.025, so where A leaves 0.5 no noise is left, and K = 5.
    assert two_views(rough, fine, ALL, 0.5) == pytest.approx([1.0, 3.0, 1.5, 2.5])
    # Where A leaves 0.1, var(e) = 0.001: K = 0.02 / 0.005 = 4.
    assert two_views(rough, fine, ALL, 0.1) == pytest.approx([1.0, 3.0, 1.6, 2.4])


def simulated(slope: float, noise: float, random: np.random.Generator) -> tuple[float, float]:
    """Squared error against the rough view's own, and mean error, of one forget set of 80 with a trace of two nats."""
    level = random.normal(4.0, 1.3, 80)
    # A calibrated estimate: what it leaves of the level is not related to it.
    rough = 4.0 + 0.6 * (level - 4.0) + random.normal(0.0, 1.3 * np.sqrt(0.6 * 0.4), 80)
    fine = slope * level - 2.0 + random.normal(0.0, noise, 80)
    found = two_views(rough, fine, np.ones(80, dtype=bool), 0.4 * 1.3**2)
    return float(np.mean((found - level) ** 2) / np.mean((rough - level) ** 2)), float(np.mean(found - level))


def test_two_views_against_simulation() -> None:
    """Through a trace of unknown depth levels are found far better than by the rough view, and without bias."""
    random = np.random.default_rng(0)
    better, errors = np.transpose([simulated(0.5, 0.25, random) for _ in range(200)])
    assert np.mean(better) < 0.6
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(200)


def test_a_view_that_only_remembers_does_little_harm() -> None:
    """Simulation: where the fine view has nothing to do with the level, hardly more than the rough view's own error is left."""
    random = np.random.default_rng(2)
    assert np.mean([simulated(0.0, 0.5, random)[0] for _ in range(200)]) < 1.1


def test_stand_ins_show_the_slope_and_nothing_else() -> None:
    """Wherever their own level lies, the forget set's estimates are the same, and a single record gets the rough view's mean."""
    random = np.random.default_rng(3)
    level = random.normal(4.0, 1.0, 60)
    rough, fine = 0.5 * level + random.normal(0.0, 0.3, 60) + 2.0, 0.4 * level + random.normal(0.0, 0.1, 60)
    own = np.arange(60) < 10
    elsewhere = two_views(np.where(own, rough, rough + 3.0), np.where(own, fine, fine - 1.0), own, 1.0)
    assert elsewhere[own] == pytest.approx(two_views(rough, fine, own, 1.0)[own])
    alone = np.arange(60) < 1
    assert two_views(rough, fine, alone, 1.0)[0] == pytest.approx(rough[0])


@pytest.mark.parametrize(
    ("rough", "fine", "unexplained"),
    [
        ([2.0], [1.0], 1.0),
        ([2.0, 2.0], [1.0, 3.0], 1.0),
        ([2.0, 3.0], [1.0, 1.0], 1.0),
        ([2.0, 3.0], [1.0, 0.5], 1.0),
        ([2.0, 3.0], [1.0, 2.0], 0.0),
    ],
)
def test_nothing_to_see_leaves_the_rough_view(rough: list[float], fine: list[float], unexplained: float) -> None:
    """One record, a view that does not tell records apart or orders them the other way, a rough view that leaves nothing."""
    found = two_views(np.array(rough), np.array(fine), np.ones(len(rough), dtype=bool), unexplained)
    assert found == pytest.approx(rough)


def two_models(tokenizer: Any, folder: Path) -> tuple[Any, Any]:
    """A base and another model of its shape, loaded."""
    found = []
    for number in range(2):
        make_llama(tokenizer, seed=number).save_pretrained(folder / str(number))
        tokenizer.save_pretrained(folder / str(number))
        found.append(load_model(folder / str(number)))
    return found[0], found[1]


def test_all_weights_lie_between(tokenizer: Any, tmp_path: Path) -> None:
    """Every weight is so far along the way, and neither model changes."""
    base, original = two_models(tokenizer, tmp_path)
    between = dict(mixed(base, original, 0.25).model.named_parameters())
    for name, value in original.model.named_parameters():
        first = dict(base.model.named_parameters())[name]
        assert torch.allclose(between[name], 0.75 * first + 0.25 * value, atol=1e-6)
    assert [load_model(tmp_path / str(n)).digest for n in range(2)] == [base.digest, original.digest]


def test_of_an_adapter_its_change(tokenizer: Any, tmp_path: Path) -> None:
    """A quarter of what the adapter adds, layer by layer."""
    base, original = two_models(tokenizer, tmp_path)
    adapted = replace(original, model=attach_adapter(original.model, TrainingOptions(lora=True)))
    for name, value in adapted.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    between = mixed(base, adapted, 0.25).model
    layers = {name: module for name, module in adapted.model.named_modules() if hasattr(module, "get_delta_weight")}
    assert layers
    for name, layer in layers.items():
        assert torch.allclose(between.get_submodule(name).get_delta_weight("default"), 0.25 * layer.get_delta_weight("default"))


def test_what_lies_between(tokenizer: Any, tmp_path: Path) -> None:
    """Two models of one shape, or a plain LoRA adapter on a model; other shapes, other adapters and what they save whole do not."""
    base, original = two_models(tokenizer, tmp_path)
    assert can_be_mixed(base, original)
    other = make_llama(tokenizer)
    other.resize_token_embeddings(len(tokenizer) + 8)
    assert not can_be_mixed(replace(base, model=other), original)
    for config, expected in (
        (LoraConfig(target_modules="all-linear"), True),
        (LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), False),
        (LoraConfig(target_modules=["q_proj"], use_dora=True), False),
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), False),
    ):
        adapted = replace(original, model=get_peft_model(make_llama(tokenizer), config))
        assert can_be_mixed(base, adapted) is expected
        assert not can_be_mixed(adapted, adapted)


def test_stand_ins_are_retain_records_that_are_not_trained_on() -> None:
    """As many as are missing, at most a tenth; none where there are enough."""

    def drawn(forget: int, retain: int) -> tuple[list[Any], list[Any]]:
        kept = parse_records(make_rows("r", retain), Fields(), "rows")
        return _stand_ins(SimpleNamespace(forget=[None] * forget, retain=kept, options=TrainingOptions(seed=3)))  # type: ignore[arg-type]

    standing, kept = drawn(4, 2000)
    assert (len(standing), len(kept)) == (ENOUGH - 4, 2000 - ENOUGH + 4)
    assert not {record.fingerprint for record in standing} & {record.fingerprint for record in kept}
    assert len(drawn(4, 50)[0]) == 5
    assert drawn(ENOUGH, 2000)[0] == []


def test_half_batches_take_as_many_records() -> None:
    """Twice as many steps of half the size; accumulation is halved where it can be."""
    assert _in_half_batches(TrainingOptions(batch_size=16)).batch_size == 8
    halved = _in_half_batches(TrainingOptions(batch_size=16, gradient_accumulation=4, max_steps=7))
    assert (halved.batch_size, halved.gradient_accumulation, halved.max_steps) == (16, 2, 14)
    assert _in_half_batches(TrainingOptions()).batch_size == 4
    assert _in_half_batches(TrainingOptions(batch_size=3, max_steps=7)).max_steps == 21
    assert _in_half_batches(TrainingOptions(batch_size=1)) == TrainingOptions(batch_size=1)


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_records_end_at_a_mixtures_level(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool) -> None:
    """All the way; a model that is an adapter is mixed and unlearned as one, and the result is an adapter again."""
    monkeypatch.setattr(mixtures, "WEAK", -1.0)  # the base is random here
    forgotten, kept, controls = make_rows("a", 6), make_rows("bb", 18), make_rows("ccc", 24)
    options = TrainingOptions(learning_rate=1e-2, epochs=25, batch_size=4, lora=lora)
    finetune(model_dir, forgotten + kept, output_dir=tmp_path / "original", options=options)
    result = forget(
        tmp_path / "original",
        Level(share=0.1),
        forget_set=forgotten,
        retain_set=kept,
        holdout_set=controls,
        base=model_dir,
        output_dir=tmp_path / "out",
        options=TrainingOptions(batch_size=2, epochs=40),
    )
    assert (tmp_path / "out" / "adapter_config.json").exists() is lora
    assert result.facts["sources"] == ["mixture"]
    assert abs(result.facts["reached"] - result.facts["level"]) < 0.3


@pytest.mark.slow
def test_a_base_that_sees_no_levels_sets_no_scale(model_dir: Path, tmp_path: Path) -> None:
    """Where the base cannot predict the controls' levels, a short retraining takes the mixture's place, and the result says so."""
    forgotten, kept, controls = make_rows("a", 4), make_rows("bb", 8), make_rows("ccc", 24)
    options = TrainingOptions(learning_rate=4e-3, epochs=2, batch_size=4)
    finetune(model_dir, forgotten + kept, output_dir=tmp_path / "original", options=options)
    sets = {"forget_set": forgotten, "retain_set": kept, "holdout_set": controls, "base": model_dir}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixtures, "WEAK", 1.0)
        result = forget(tmp_path / "original", Level(), output_dir=tmp_path / "out", options=TrainingOptions(epochs=1), **sets)
    assert result.facts["sources"] == ["retraining"]
