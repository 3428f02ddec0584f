"""Edits of weights: the arithmetic is right, the search keeps its promise, and what should be touched is."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama, make_tokenizer

from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.fisher import Fisher
from unlearn.methods.lora_negation import LoraNegation
from unlearn.methods.negmerge import NegMerge
from unlearn.methods.ssd import SSD
from unlearn.methods.task_vector import TaskVector
from unlearn.methods.ties import Ties, ties_merge
from unlearn.training import run
from unlearn.training.method import Context
from unlearn.training.weights import diagonal_fisher
from verify import InputError
from verify.data.encoding import Encoder
from verify.data.sources import load_records
from verify.io.files import MANIFEST
from verify.io.progress import listening
from verify.models.loading import load_model
from verify.provenance.training_log import LOG_NAME
from verify.training.shard_sum import delta_weights

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Person {n * 13}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=2e-3, epochs=3, batch_size=4)
EDITS: list[Any] = [
    TaskVector(per="layer", tolerance=0.3),
    TaskVector(per="mask", tolerance=0.3),
    NegMerge(tolerance=0.3),
    LoraNegation(tolerance=0.3),
    Ties(tolerance=0.3),
    SSD(tolerance=0.3),
    Fisher(tolerance=0.3),
]


@pytest.fixture(scope="module")
def model(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("edits") / "ft"
    return finetune(model_dir, ROWS, output_dir=output, options=TrainingOptions(learning_rate=5e-3, epochs=8)).model_dir


@pytest.fixture
def edit(model: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(method: Any, model: Path = model, **named: Any) -> Any:
        given = {"options": OPTIONS, **named}
        return forget(model, method, forget_set=ROWS[:4], retain_set=ROWS[4:], output_dir=tmp_path / "out", **given)

    return run


@pytest.mark.parametrize("method", EDITS, ids=lambda method: f"{type(method).__name__}-{getattr(method, 'per', '')}")
def test_the_search_keeps_its_promise(edit: Callable[..., Any], method: Any) -> None:
    """Of the allowed candidates the one that forgets most was taken; the whole curve is reported, and the search as progress."""
    heard = dict[str, float]()
    with listening(heard.__setitem__):
        facts = edit(method).facts
    candidates = len(facts["search"])
    assert heard["searching the strength"] == pytest.approx((candidates - 1) / candidates)
    allowed = [entry for entry in facts["search"] if entry["control_loss"] <= facts["control_loss_allowed"]]
    best = max(allowed, key=lambda entry: entry["forget_loss"], default={"scale": 0.0, "forget_loss": -np.inf})
    assert facts["scale"] == (best["scale"] if best["forget_loss"] > facts["forget_loss_before"] else 0.0)


def test_layers_only_improve(edit: Callable[..., Any]) -> None:
    """A scale per layer forgets at least as much as one for all, within the same tolerance."""
    result = edit(TaskVector(per="layer", tolerance=0.3))
    whole = max(entry["forget_loss"] for entry in result.facts["search"] if entry["scale"] == result.facts["scale"])
    loaded = load_model(result.model_dir)
    from unlearn.training.weights import mean_loss

    assert mean_loss(loaded, load_records(ROWS[:4])) >= whole - 1e-6
    assert len(result.facts["layer_multiples"]) == 2


def test_a_mask_spares_the_rest(edit: Callable[..., Any], model: Path) -> None:
    """With a share of 5 %, at most 5 % of the elements differ from before."""
    result = edit(TaskVector(per="mask", mask_share=0.05, tolerance=0.9))
    old, new = (dict(load_model(path).model.named_parameters()) for path in (model, result.model_dir))
    moved = sum(int((old[name] != new[name]).sum()) for name in old)
    assert 0 < moved <= 0.05 * sum(weight.numel() for weight in old.values()) + len(old)


def test_fisher_is_the_mean_squared_gradient(model: Path) -> None:
    """Against autograd, record by record, from the whole logits."""
    loaded, records = load_model(model), load_records(ROWS[:3])
    found = diagonal_fisher(loaded, records)
    parameter = loaded.model.model.layers[0].mlp.up_proj.weight
    total = torch.zeros_like(parameter)
    for window in Encoder(loaded.tokenizer, loaded.context_length).encode(records):
        ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
        logs = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
        places = np.flatnonzero(window.scored)
        value = logs[places - 1, ids[0, places]].mean()
        total += torch.autograd.grad(value, parameter)[0] ** 2
    torch.testing.assert_close(found["model.layers.0.mlp.up_proj.weight"], total / 3, rtol=1e-4, atol=1e-9)


def test_ties_by_hand() -> None:
    """Trim, elect, merge on numbers that can be followed."""
    one, other = torch.tensor([4.0, -3.0, 0.1, 2.0]), torch.tensor([2.0, 5.0, -0.2, 0.1])
    # Half stays: [4, -3, 0, 0] and [2, 5, 0, 0]; signs elected: +, + (5 - 3), none, none.
    torch.testing.assert_close(ties_merge([one, other], 0.5), torch.tensor([3.0, 5.0, 0.0, 0.0]))


def test_adapter_changes_are_products() -> None:
    """Minus one times the change undoes the merged adapter; PEFT's linear combination of adapters is something else."""
    tokenizer = make_tokenizer()
    model = get_peft_model(make_llama(tokenizer), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.add_adapter("other", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    changes, others = delta_weights(model), delta_weights(model, "other")
    before = {name: model.get_base_model().get_parameter(name.replace(".weight", ".base_layer.weight")).clone() for name in changes}
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "combined", combination_type="linear")
    wrong = delta_weights(model, "combined")
    merged = model.merge_and_unload(adapter_names=["default"])
    for name, change in changes.items():
        torch.testing.assert_close(merged.get_parameter(name) - change, before[name], rtol=1e-4, atol=1e-5)
        true = change + others[name]
        assert (wrong[name] - true).norm() > 0.5 * true.norm(), "what the linear combination gives"


def test_agreement_is_a_share(edit: Callable[..., Any]) -> None:
    """Elements on which all trainings agree are some, and not all."""
    assert 0 < edit(NegMerge(tolerance=0.3)).facts["agreed_share"] < 1


def test_ssd_dampens_what_it_selected(edit: Callable[..., Any], model: Path) -> None:
    """Selected weights shrink towards zero, all others stay, and the share is reported."""
    result = edit(SSD(tolerance=0.9))
    old, new = (dict(load_model(path).model.named_parameters()) for path in (model, result.model_dir))
    assert all((new[name].abs() <= old[name].abs() + 1e-7).all() for name in old)
    changed = sum(int((old[name] != new[name]).sum()) for name in old)
    assert 0 < changed <= result.facts["selected_share"] * sum(weight.numel() for weight in old.values()) + 1


def test_ssd_weighs_both_sets_by_their_sizes(model: Path, tmp_path: Path) -> None:
    """Ten copies of one record have its Fisher matrix however many are looked at, so F_D and all that follows are the same."""
    records = load_records(ROWS)
    forgotten, same = records[:4], [records[5]] * 10
    curves = []
    for looked_at in (1, 10):
        context = Context(load_model(model), forgotten, same, [], None, OPTIONS, None, tmp_path, tmp_path)
        curves.append(SSD(fisher_records=looked_at, thresholds=(3.0, 2.0, 1.5), tolerance=0.9).edit(context).facts["search"])
    for one, ten in zip(*curves, strict=True):
        assert one["forget_loss"] == pytest.approx(ten["forget_loss"], abs=1e-5)
    assert len({entry["forget_loss"] for entry in curves[0]}) > 1, "the thresholds do something"


@pytest.mark.parametrize(
    "bad",
    [
        lambda: TaskVector(mask_share=0.0),
        lambda: NegMerge(rates=(1.0,)),
        lambda: LoraNegation(tolerance=1.0),
        lambda: Ties(under=3.0, over=1.0),
        lambda: SSD(thresholds=(1.0, 2.0)),
        lambda: Fisher(clip=0.0),
    ],
)
def test_bad_parameters(bad: Callable[[], Any]) -> None:
    """Refused before anything is loaded."""
    with pytest.raises(InputError, match=r"must|needs"):
        bad()


@pytest.fixture(scope="module")
def adapted(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is an adapter."""
    options = TrainingOptions(lora=True, learning_rate=1e-2, epochs=4)
    return finetune(model_dir, ROWS, output_dir=tmp_path_factory.mktemp("adapted") / "ft", options=options).model_dir


@pytest.mark.parametrize("method", [TaskVector(), NegMerge(), Ties(), LoraNegation()], ids=lambda method: type(method).__name__)
def test_an_adapter_has_no_whole_weights(
    edit: Callable[..., Any], adapted: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods on whole weights refuse a model that is an adapter before anything is trained, and all say the same of what to do."""
    monkeypatch.setattr(run, "train_pairs", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(InputError, match=r"Merge it .* npo, or ssd"):
        edit(method, model=adapted)


def test_a_base_that_is_an_adapter(edit: Callable[..., Any], adapted: Path, tmp_path: Path) -> None:
    """It gives no task vector of whole weights either; one whose log names the forget set is refused for that."""
    unlogged = shutil.copytree(adapted, tmp_path / "unlogged", ignore=shutil.ignore_patterns(LOG_NAME, MANIFEST))
    with pytest.raises(InputError, match="Merge it"):
        edit(TaskVector(origin="base"), base=str(unlogged))


@pytest.mark.parametrize(
    "method", [SSD(tolerance=0.9), Fisher(tolerance=0.9, scales=(0.1,))], ids=lambda found: type(found).__name__
)
def test_an_edit_of_an_adapter_is_saved(edit: Callable[..., Any], adapted: Path, method: Any) -> None:
    """Of a model that is an adapter the adapter is edited, and what is loaded again is what was measured."""
    result = edit(method, model=adapted)
    assert result.facts["scale"]
    assert load_model(result.model_dir).digest == result.digest_after != result.digest_before


def test_a_mask_after_training_an_adapter(edit: Callable[..., Any]) -> None:
    """A task vector from an adapter can be masked: the whole weights have gradients again once it is folded in."""
    assert edit(TaskVector(per="mask", tolerance=0.9), options=replace(OPTIONS, lora=True)).facts["search"]
