"""Probes treat every model alike and leave it as it was; their outcome is judged like the untreated models."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import train_by_heart
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from verify.data.records import Record
from verify.errors import InputError
from verify.measures.robustness import Robustness, probe
from verify.models.loading import LoadedModel
from verify.probes import select_probes
from verify.probes.base import Material, mean_losses
from verify.probes.difference import Difference
from verify.probes.logit_lens import LogitLens
from verify.probes.quantization import quantized, rounded
from verify.probes.relearning import Relearning

FORGET = [Record(f"f{number}", prompt=f"who {number}", completion=f"the quick brown fox {number * 7}") for number in range(8)]
RETAIN = [Record(f"r{number}", prompt=f"over {number}", completion=f"every lazy dog {number * 5}") for number in range(12)]
UNSEEN = [Record(f"u{number}", prompt=f"on {number}", completion=f"other animals jump {number * 3}") for number in range(10)]


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    references = {f"reference {seed}": train_by_heart(RETAIN, seed, 60, 3e-3) for seed in (1, 2, 3, 4)}
    return {"original": train_by_heart(FORGET + RETAIN, 0, 60, 3e-3), **references}


def material(models: dict[str, LoadedModel]) -> Material:
    return Material(FORGET, RETAIN, models["original"])


def test_rounding_is_its_definition() -> None:
    """The slow twin rounds number by number; every row, or group, has at most 2^b - 1 levels."""
    weight = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    for bits, group in ((8, None), (4, 64), (4, 50)):
        result = rounded(weight, bits, group)
        size = group if group and 128 % group == 0 else 128
        top = 2 ** (bits - 1) - 1
        for row in range(3):
            for start in range(0, 128, size):
                block = weight[row, start : start + size]
                scale = float(block.abs().max()) / top
                slow = torch.tensor([round(float(value) / scale) * scale for value in block])
                torch.testing.assert_close(result[row, start : start + size], slow, rtol=1e-4, atol=scale * 1e-3)
                assert len(result[row, start : start + size].unique()) <= 2 * top + 1
    assert torch.equal(rounded(torch.zeros(2, 4), 8, None), torch.zeros(2, 4))


def test_layers_that_hold_their_weights_the_other_way_round_are_rounded() -> None:
    """GPT-2's linear layers are [in, out]: every one is rounded by output row, and is itself again afterwards."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8))
    layers = [layer for layer in model.modules() if isinstance(layer, Conv1D)]
    before = [layer.weight.detach().clone() for layer in layers]
    with quantized(model, 4, 64):
        for layer, weight in zip(layers, before, strict=True):
            torch.testing.assert_close(layer.weight.detach().T, rounded(weight.T, 4, 64))
            assert not torch.equal(layer.weight, weight)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, before, strict=True))
    model.transformer.h = torch.nn.ModuleList()
    with pytest.raises(InputError, match="nothing would be rounded"), quantized(model, 4, 64):
        pass


def test_rounding_finer_disturbs_less(models: dict[str, LoadedModel]) -> None:
    """8 bits are closer to the model than 4."""
    found = select_probes(["quantization"])["quantization"].losses(models["original"], material(models))
    plain = mean_losses(models["original"], FORGET)
    assert np.abs(found["int8"] - plain).mean() < np.abs(found["int4"] - plain).mean()


def test_the_last_layer_is_the_model(models: dict[str, LoadedModel]) -> None:
    """The lens one layer before the end lacks that layer; the hidden states that `transformers` gives last are already normed."""
    loaded = models["original"]
    plain = mean_losses(loaded, FORGET)
    earlier = LogitLens(layers=(1,)).losses(loaded, material(models))["layer 1"]
    assert (earlier > plain).all()


def test_guided_by_weight_one_is_the_old_model(models: dict[str, LoadedModel]) -> None:
    """w = 0 is the new model, w = 1 the old one."""
    found = Difference(weights=(0.0, 1.0)).losses(models["reference 1"], material(models))
    for weight, one in ((0, "reference 1"), (1, "original")):
        expected = mean_losses(models[one], FORGET)
        np.testing.assert_allclose(found[f"guided by the old model, w = {weight}"], expected, rtol=1e-3, atol=1e-4)


def test_relearning_starts_where_the_model_is(models: dict[str, LoadedModel]) -> None:
    """No step changes nothing; steps on the records themselves bring them back."""
    loaded = models["reference 1"]
    plain = mean_losses(loaded, FORGET)
    there = dataclasses.replace(material(models), other=FORGET)
    found = Relearning(steps=(0, 10), learning_rate=3e-3).losses(loaded, there)
    np.testing.assert_allclose(found["relearned 0"], plain, rtol=1e-5)
    assert found["relearned 10"].mean() < plain.mean() - 0.1


def run(models: dict[str, LoadedModel], target: str, **changes: Any) -> Robustness:
    references = [models[name] for name in models if name.startswith("reference") and name != target]
    arguments: dict[str, Any] = {"forget_set": _rows(FORGET), "retain_set": _rows(RETAIN), "holdout_set": _rows(UNSEEN)}
    return probe(models[target], models["original"], references, **{**arguments, **changes})


def _rows(records: list[Record]) -> list[dict[str, str]]:
    return [{"example_id": one.example_id, "prompt": one.prompt, "completion": one.completion} for one in records]


@pytest.mark.slow
def test_an_untouched_model_is_found_under_every_weight_treatment(models: dict[str, LoadedModel]) -> None:
    """Residual 1 where nothing was removed; a retraining is no further from the others than they are from each other."""
    untouched = run(models, "original", probes=("quantization", "relearning"))
    honest = run(models, "reference 1", probes=("quantization", "relearning"))
    treatments = [row.treatment for row in untouched.treated]
    assert len(treatments) > len(("quantization", "relearning"))
    assert [row.treatment for row in honest.treated] == treatments
    for row in untouched.treated:
        assert row.residual is not None
        assert row.residual.value == pytest.approx(1.0, abs=1e-6)
        assert row.accused
    for row in honest.treated:
        assert row.residual is not None
        assert row.residual.low < 0.3
        assert not row.accused
    assert untouched.recovery is not None
    assert honest.recovery is not None
    assert untouched.recovery.excess[0] == pytest.approx(1.0)
    assert abs(honest.recovery.excess[-1]) < 0.3
    assert untouched.retain is not None
    assert len(untouched.retain.references) == 4
    assert untouched.retain.target.value > 0.9
    assert "untreated" in untouched.table()
    assert "excess recovery" in untouched.table()


def test_the_file_holds_no_text(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    """Numbers only, readable again, and never over another file."""
    path = tmp_path / "robustness.json"
    found = run(models, "reference 1", probes=("difference",), output=path)
    assert Robustness.load(path) == found
    assert "fox" not in path.read_text()
    with pytest.raises(InputError, match="exists"):
        run(models, "reference 1", probes=("difference",), output=path)


@pytest.mark.slow
def test_ids_against_the_training_file(models: dict[str, LoadedModel]) -> None:
    """A list of ids with the training file says the same as the two sets: no copy of the records need be made for a probe."""
    named = {"forget_set": [record.example_id for record in FORGET], "retain_set": None, "data": _rows(FORGET + RETAIN)}
    assert run(models, "reference 1", probes=("prompt_variants",), **named) == run(
        models, "reference 1", probes=("prompt_variants",)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda _: {"probes": ("guess",)}, "no probe called guess"),
        (lambda _: {"retain_set": _rows(FORGET)}, "forget"),
        (lambda _: {"retain_set": None}, "--retain FILE, or the training file with --data FILE"),
    ],
)
def test_bad_input(models: dict[str, LoadedModel], changes: Callable[[Any], dict[str, Any]], message: str) -> None:
    """Unknown probes and overlapping sets are refused before any model is treated."""
    with pytest.raises(InputError, match=message):
        run(models, "reference 1", **changes(None))
    with pytest.raises(InputError, match="two retrained references"):
        probe(
            models["reference 1"],
            models["original"],
            [models["reference 2"]],
            forget_set=_rows(FORGET),
            retain_set=_rows(RETAIN),
        )
