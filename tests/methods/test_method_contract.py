"""Every file in the directory keeps the contract: a new method is tested by existing."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn import TrainingOptions, forget
from unlearn.methods import method_classes, method_name
from unlearn.training.initial_outputs import load_or_compute_outputs
from unlearn.training.method import Batch, InsideLayers, Objective, Progress, Rebuild, WeightEdit, WithAlternatives, WithMemory
from unlearn.training.options import TrainingOptions as Options
from unlearn.training.scored_batch import held
from unlearn.training.stopping import StopRule
from verify.data.encoding import Encoder, collate
from verify.data.records import Fields, parse_records
from verify.errors import InputError
from verify.io.progress import listening
from verify.models.digests import weights_digest
from verify.models.loading import load_model

METHODS = method_classes()
OBJECTIVES = {name: kind for name, kind in METHODS.items() if isinstance(kind(), Objective)}


def rows(prefix: str, count: int) -> list[dict[str, str]]:
    return [
        {
            "example_id": f"{prefix}{n}",
            "prompt": f"Who is {prefix} {n}?",
            "completion": f"One of {prefix}" + " more" * (n % 4) + f" {n}.",
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("name", METHODS)
def test_form(name: str) -> None:
    """One frozen dataclass that explains itself: idea, formula, paper, when not to use it, parameters with defaults."""
    kind = METHODS[name]
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    method = kind()
    assert method_name(method) == name
    assert sum(isinstance(method, role) for role in (Objective, WeightEdit, Rebuild)) == 1
    text = kind.__doc__ or ""
    assert "Do not" in text, "says when not to use it"
    assert re.search(r"19|20\d\d", text), "names its paper"
    assert re.search(r"^\s{4,}\S.*[=<\-]", text, re.MULTILINE), "shows its formula on a line of its own"
    for field in dataclasses.fields(kind):
        assert field.name in text, f"documents {field.name}"
        assert field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    assert kind.idea
    assert kind.paper
    assert kind.trains_in_steps == (isinstance(method, Objective) or name in ("level", "calibrated_distillation"))
    assert 0.0 <= method.upfront_cost < 1.0
    known = {field.name for field in dataclasses.fields(Options)}
    assert set(kind.defaults) <= known
    if hasattr(method, "stop_rule") and method.stop_rule is not None:
        assert isinstance(method.stop_rule, StopRule)


@pytest.mark.parametrize(
    ("name", "parameters", "flag"),
    [
        *((name, {"beta": beta}, "--beta") for name in ("npo", "dpo", "altpo", "simnpo") for beta in (0.0, -1.0, float("nan"))),
        ("altpo", {"temperature": 0.0}, "--temperature"),
        ("wga", {"beta": -1.0}, "--beta"),
        ("satimp", {"beta1": -1.0}, "--beta1"),
        ("gradient_ascent", {"check_every": -1}, "--check-every"),
        ("flat", {"divergence": "hellinger"}, "--divergence"),
    ],
)
def test_parameters_out_of_range(name: str, parameters: dict[str, Any], flag: str) -> None:
    """Refused with the flag's name before anything is read, rather than by a division in the first step."""
    with pytest.raises(InputError, match=flag):
        METHODS[name](**parameters)


def prepared(model_dir: Path, name: str, tmp_path: Path, count: int = 4) -> tuple[Any, Any, Any, Any]:
    """Model in evaluation mode, method, windows by role, and the cached reference."""
    loaded = load_model(model_dir)
    method = METHODS[name]()
    encoder = Encoder(loaded.tokenizer, loaded.context_length, "refuse")
    windows = {role: encoder.encode(parse_records(rows(role, count), Fields(), role)) for role in ("forget", "retain")}
    pad = loaded.tokenizer.pad_token_id
    if isinstance(method, WithAlternatives):
        given = [parse_records(rows(role, count), Fields(), role) for role in ("forget", "retain")]
        said = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(method.alternatives(loaded, *given, seed=0))
        windows["alternative"] = list({window.record: window for window in reversed(said)}.values())[::-1]
    layer = method.inner_layer(loaded.model) if isinstance(method, InsideLayers) else None
    reference = load_or_compute_outputs(tmp_path, loaded, method.reference, windows, pad, layer=layer)
    return loaded.model.eval(), method, windows, reference


def loss_of(
    model: Any, method: Any, windows: Any, reference: Any, order: list[int], pad: int, extra: int = 0, hold: tuple[str, ...] = ()
) -> torch.Tensor:
    device = next(model.parameters()).device

    def batch_of(role: str) -> dict[str, torch.Tensor]:
        batch = {name: values.to(device) for name, values in collate([windows[role][index] for index in order], pad).items()}
        if not extra:
            return batch
        filler = {"input_ids": pad, "attention_mask": 0, "scored": False}
        return {
            key: torch.cat([value, torch.full((len(order), extra), filler[key], dtype=value.dtype, device=device)], dim=1)
            for key, value in batch.items()
        }

    batch = Batch(
        forget=batch_of("forget"),
        retain=batch_of("retain") if method.needs_retain else None,
        alternative=batch_of("alternative") if "alternative" in windows else None,
        progress=Progress(values=dict(method.begin()) if isinstance(method, WithMemory) else {}),
    )
    chosen = reference.of(dict.fromkeys(windows, order), device)
    parts = {"forget": batch.forget, "retain": batch.retain, "alternative": batch.alternative}
    with held(model, *(parts[role] for role in hold if parts[role] is not None)) as now:
        loss: torch.Tensor = method.loss(model, batch, chosen)
    assert now.used
    assert not now.elsewhere
    return loss


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_and_order_change_nothing(model_dir: Path, tmp_path: Path, name: str, tokenizer: Any) -> None:
    """More padding, and the rows in another order, give the same loss; rows are what it is a mean over."""
    model, method, windows, reference = prepared(model_dir, name, tmp_path)
    pad = tokenizer.pad_token_id
    with torch.no_grad():
        plain = loss_of(model, method, windows, reference, [0, 1, 2, 3], pad)
        padded = loss_of(model, method, windows, reference, [0, 1, 2, 3], pad, extra=5)
        turned = loss_of(model, method, windows, reference, [3, 1, 0, 2], pad)
    assert plain.ndim == 0
    assert padded.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-5)
    assert turned.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_reach_the_weights(model_dir: Path, tmp_path: Path, name: str, tokenizer: Any) -> None:
    """The loss is finite, and its gradient is finite and not zero somewhere."""
    model, method, windows, reference = prepared(model_dir, name, tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the model before unlearning, where distances to it have no slope
            parameter.add_(0.05 * torch.randn(parameter.shape).to(device=parameter.device))
    loss_of(model, method, windows, reference, [0, 1, 2, 3], tokenizer.pad_token_id).backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_can_be_divided(model_dir: Path, tmp_path: Path, name: str, tokenizer: Any) -> None:
    """The gradients to the outputs on forget and on retain records add up to the whole one, and the loss stays the same; each of
    them is the mean of its microbatches'."""
    model, method, windows, reference = prepared(model_dir, name, tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))

    def slope(hold: tuple[str, ...], order: list[int]) -> tuple[float, torch.Tensor]:
        loss = loss_of(model, method, windows, reference, order, tokenizer.pad_token_id, hold=hold)
        zeros = [torch.zeros_like(parameter) for parameter in model.parameters()]
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if loss.requires_grad else zeros
        parts = [(zero if one is None else one).reshape(-1) for one, zero in zip(found, zeros, strict=True)]
        return float(loss.detach()), torch.cat(parts)

    losses, slopes = zip(*(slope(hold, [0, 1, 2, 3]) for hold in ((), ("forget", "alternative"), ("retain",))), strict=True)
    whole, retain, forget = slopes
    halves = [slope(("forget", "alternative"), order)[1] for order in ([0, 1], [2, 3])]
    torch.testing.assert_close(sum(halves) / 2, retain, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    assert list(losses[1:]) == pytest.approx([losses[0]] * 2, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(forget + retain, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    assert forget.abs().max() > 0
    assert bool(retain.abs().max() > 0) == (method.needs_retain and name != "scrub")  # whose first step reads forget records alone


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_run_end_to_end(model_dir: Path, tmp_path: Path, name: str, lora: bool) -> None:
    """Through `forget`, whole weights and LoRA: the weights change, the folder loads, and all steps are reported as progress."""
    method, heard = METHODS[name](), dict[str, float]()
    with listening(heard.__setitem__):
        result = forget(
            model_dir,
            method,
            forget_set=rows("forget", 4),
            retain_set=rows("retain", 4),
            output_dir=tmp_path / "out",
            options=TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=2, lora=lora),
        )
    assert result.digest_after != result.digest_before
    assert load_model(tmp_path / "out").digest == result.digest_after
    assert result.training is not None
    assert heard["unlearning"] == pytest.approx(result.training.epochs / 2)
    assert result.training.steps >= 1


@pytest.mark.parametrize("name", METHODS)
def test_the_model_before_unlearning_stays(model_dir: Path, tmp_path: Path, name: str) -> None:
    """No method writes into the folder it was given."""
    before = weights_digest(load_model(model_dir).model)
    assert before == load_model(model_dir).digest
