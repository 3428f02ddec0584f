"""Differential privacy: gradients are one unit's alone, the noise is what the accounting says, the run does what it says."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from new_processes import printed_by
from training_rows import make_rows

from unlearn import NPO, Auto, DifferentialPrivacy, Retrain, Rollback, TrainingOptions, finetune, forget
from unlearn.defenses.accounting import NoisePlan, epsilon_of, plan_noise
from unlearn.defenses.base import TrainingTask
from unlearn.defenses.differential_privacy import UnitBatches
from unlearn.defenses.unit_gradients import chunks, hooked, row_losses, sum_by_unit, trained_parameters
from unlearn.experiments.reproduction import reproduce
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.data.records import Fields, parse_records
from verify.errors import InputError, RunError
from verify.io.files import write_manifest
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.training.adapters import attach_adapter

opacus = pytest.importorskip("opacus", reason="Opacus is not installed: pip install 'unlearn-verify[dp]'")

MakeLoaded = Callable[[str], LoadedModel]
OPTIONS = TrainingOptions(learning_rate=1e-2, batch_size=4, max_steps=4)
QUIET = DifferentialPrivacy(target_epsilon=20.0, noise_seed=7)


def task_of(loaded: LoadedModel, tmp_path: Path, options: TrainingOptions = OPTIONS, count: int = 12) -> TrainingTask:
    rows = make_rows("forget", count)
    return TrainingTask(loaded, parse_records(rows, Fields(), "r"), options, tmp_path, tmp_path / "work", rows, Fields())


def slow_unit_gradients(model: Any, batches: UnitBatches, units: list[int]) -> list[dict[str, torch.Tensor]]:
    """One backward pass for each window of each unit, by the scorer that all training uses; added up in float64."""
    found = []
    for unit in units:
        total: dict[str, torch.Tensor] = {}
        for row in batches.rows_of[unit]:
            model.zero_grad()
            batch = batches.batch([unit], torch.device("cpu"))[0]
            place = list(batches.rows_of[unit]).index(row)
            alone = {name: value[place : place + 1] for name, value in batch.items()}
            (-scored_log_probabilities(model, alone)[0].sum() * batches.weights[row]).backward()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    total[name] = total.get(name, 0) + grad.double()
        found.append(total)
    return found


@pytest.mark.parametrize("unit", ["record", "subject"])
@pytest.mark.parametrize(("kind", "lora"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("tied", False)])
def test_clipped_gradients_are_those_of_a_slow_loop(
    make_loaded: MakeLoaded, tmp_path: Path, kind: str, lora: bool, unit: str
) -> None:
    """What Opacus' optimizer adds up without noise is the sum of each unit's own gradient, clipped, by a loop in float64."""
    from opacus.optimizers import DPOptimizer

    task = task_of(make_loaded(kind), tmp_path, dataclasses.replace(OPTIONS, lora=lora))
    batches = UnitBatches.of(task, unit)
    model = attach_adapter(task.loaded.model, task.options)
    if lora:  # away from the fresh adapter, whose A has no gradient yet
        with torch.no_grad():
            for parameter in trained_parameters(model):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    units, clip = [0, 2, 3, 5], 0.5
    expected: dict[str, torch.Tensor] = {}
    norms = []
    for gradient in slow_unit_gradients(model, batches, units):
        norm = math.sqrt(sum(float((value**2).sum()) for value in gradient.values()))
        norms.append(norm)
        for name, value in gradient.items():
            expected[name] = expected.get(name, 0) + value * min(1.0, clip / norm)
    assert max(norms) > clip, "clipping is at work"
    model.zero_grad()
    model.train()
    rows, weights, owners = batches.batch(units, torch.device("cpu"))
    with hooked(model):
        inner = torch.optim.SGD(trained_parameters(model), lr=1.0)
        private = DPOptimizer(inner, noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=len(units))
        (row_losses(model, rows) * weights).sum().backward()
        sum_by_unit(model, owners, len(units))
        private.pre_step()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad.double(), expected[name] / len(units), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_epsilon_is_opacus_own_number(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    """Epsilon in the facts is what Opacus' accountant gives for the steps that were counted, within the budget; PRV likewise."""
    from opacus.accountants import PRVAccountant, RDPAccountant

    facts = dataclasses.replace(QUIET, target_delta=1e-3).train(task_of(make_loaded("llama"), tmp_path)).facts
    assert (facts["delta"], facts["steps"], facts["units"]) == (1e-3, 4, 12)
    assert facts["sample_rate"] == pytest.approx(4 / 12)
    private = plan_noise(2.0, 1e-3, 12, 4, 4, "prv")
    spent = epsilon_of(private, 1e-3, "prv")
    cases = [
        (RDPAccountant(), facts["noise_multiplier"], facts["epsilon"], 20.0),
        (PRVAccountant(), private.noise_multiplier, spent, 2.0),
    ]
    for counter, noise, epsilon, budget in cases:
        for _ in range(4):
            counter.step(noise_multiplier=noise, sample_rate=4 / 12)
        assert epsilon == pytest.approx(counter.get_epsilon(delta=1e-3), abs=1e-9)
        assert budget - 0.1 < epsilon <= budget


def test_epsilon_of_a_known_mechanism() -> None:
    """Without sampling, T steps are one Gaussian of noise sigma / sqrt(T), whose exact epsilon is known (Balle and Wang 2018)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    sigma, steps, delta = 4.0, 9, 1e-5
    mu = math.sqrt(steps) / sigma
    exact = brentq(lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0.01, 50)
    plan = NoisePlan(sigma, 1.0, steps)
    assert epsilon_of(plan, delta, "prv") == pytest.approx(exact, abs=0.02)
    orders = np.linspace(1.1, 63, 2000)
    renyi = steps * orders / (2 * sigma**2)
    bound = float((renyi + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min())
    assert epsilon_of(plan, delta, "rdp") == pytest.approx(bound, abs=0.01)
    assert epsilon_of(plan, delta, "rdp") >= exact


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "lora"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True)])
def test_through_finetune(make_loaded: MakeLoaded, tmp_path: Path, kind: str, lora: bool) -> None:
    """The model loads, the manifest names parameters and what was spent, the log names records but no steps."""
    loaded = make_loaded(kind)
    base = tmp_path / "base"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save_pretrained(base)
    options = dataclasses.replace(OPTIONS, lora=lora)
    result = finetune(base, make_rows("forget", 12), output_dir=tmp_path / "out", options=options, defense=QUIET)
    assert load_model(tmp_path / "out").digest == result.digest != loaded.digest
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]["defense"]
    assert about == result.defense
    assert about["name"] == "differential_privacy"
    assert about["parameters"] == dataclasses.asdict(QUIET)
    assert 0 < about["epsilon"] <= 20
    assert {"delta", "noise_multiplier", "sample_rate", "steps"} <= set(about)
    log = TrainingLog.read(tmp_path / "out" / LOG_NAME)
    assert (len(log.records), log.microbatches, log.defense, log.final_weights) == (12, (), "differential_privacy", result.digest)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, None])
def test_runs_repeat_only_with_a_noise_seed(make_loaded: MakeLoaded, tmp_path: Path, seed: int | None) -> None:
    """With a noise seed two runs give the same weights; without one never, and the seed is kept nowhere."""
    defense = dataclasses.replace(QUIET, noise_seed=seed)
    done = [defense.train(task_of(make_loaded("llama"), tmp_path)) for _ in range(2)]
    first, second = (weights_digest(one.trained.model) for one in done)
    assert (first == second) is (seed is not None)
    assert done[0].facts["repeatable"] is (seed is not None)


COMMAND_LINE = """
import sys
from unlearn.cli.main import main
assert main(sys.argv[1:]) == 0
"""


@pytest.mark.slow
def test_another_process_gives_the_same(model_dir: Path, tmp_path: Path) -> None:
    """The command line, in a process of its own, trains to the same weights as the Python call, and prints what was spent."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in make_rows("forget", 12)))
    here = finetune(model_dir, str(data), output_dir=tmp_path / "here", options=OPTIONS, defense=QUIET)
    given = ["--model", str(model_dir), "--data", str(data), "--output", str(tmp_path / "there"), "--defense", "dp"]
    settings = ["--target-epsilon", "20", "--noise-seed", "7", "--learning-rate", "1e-2", "--batch-size", "4", "--max-steps", "4"]
    said = printed_by(COMMAND_LINE, "train", *given, *settings)
    assert here.digest in said
    assert "epsilon 19.9" in said or "epsilon 20.0" in said
    again = reproduce(tmp_path / "there", tmp_path / "again")
    assert again.identical


@pytest.mark.slow
def test_empty_batches_are_noise(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    """A step in which nobody was drawn is taken, with noise alone, and counted."""
    options = dataclasses.replace(OPTIONS, batch_size=1, max_steps=6)
    defense = DifferentialPrivacy(target_epsilon=50.0, target_delta=1e-3, noise_seed=11)
    drawn = torch.rand((6, 3), generator=torch.Generator().manual_seed(12)) < 1 / 3
    assert (~drawn.any(1)).sum() >= 1, "this seed draws an empty batch"
    done = defense.train(task_of(make_loaded("llama"), tmp_path, options, count=3))
    assert done.facts["steps"] == 6
    assert all(torch.isfinite(parameter).all() for parameter in done.trained.model.parameters())


@pytest.mark.slow
def test_microbatches_change_nothing(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    """Steps of eight records give the same weights whether they pass four, two or one at a time."""
    models = []
    for size, accumulation in ((8, 1), (4, 2), (1, 8)):
        options = dataclasses.replace(OPTIONS, batch_size=size, gradient_accumulation=accumulation)
        models.append(QUIET.train(task_of(make_loaded("llama"), tmp_path, options)).trained.model)
    for other in models[1:]:
        for one, two in zip(models[0].parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    assert list(chunks([0, 1, 2], [[0, 1], [2, 3, 4, 5], [6]], 3)) == [[0], [1], [2]]


def test_a_long_record_is_one_unit(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    """A record in several windows is drawn and clipped as one; its windows' weights add up to its mean loss."""
    rows = [{"example_id": "a", "text": "7391 " * 60}, {"example_id": "b", "text": "the lazy dog"}]
    options = dataclasses.replace(OPTIONS, overflow="split")
    task = TrainingTask(make_loaded("llama"), parse_records(rows, Fields(), "r"), options, tmp_path, tmp_path, rows, Fields())
    batches = UnitBatches.of(task, "record")
    assert [len(found) > 1 for found in batches.rows_of] == [True, False]
    for found in batches.rows_of:
        scored = sum(int(batches.windows[row].scored.sum()) for row in found)
        assert all(batches.weights[row] == 1 / scored for row in found)


@pytest.mark.slow
def test_subjects_are_the_unit(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    """All records of a person are one unit, which the sample rate and the accounting count."""
    facts = dataclasses.replace(QUIET, privacy_unit="subject").train(task_of(make_loaded("llama"), tmp_path)).facts
    assert facts["units"] == len({row["subject_id"] for row in make_rows("forget", 12)})
    assert facts["sample_rate"] == pytest.approx(4 / facts["units"])
    rows = [{"text": f"the fox number {number}"} for number in range(6)]
    loaded = make_loaded("llama")
    task = TrainingTask(loaded, parse_records(rows, Fields(), "r"), OPTIONS, tmp_path, tmp_path, rows, Fields())
    with pytest.raises(InputError, match="--subject-field"):
        dataclasses.replace(QUIET, privacy_unit="subject").train(task)


@pytest.mark.slow
def test_unreachable_budgets_say_what_is_reachable() -> None:
    """Too little epsilon for so few records names an epsilon that works; delta of one record is refused."""
    with pytest.raises(InputError, match="cannot be reached with 10 units") as refused:
        plan_noise(0.5, 1e-5, 10, 2, 25)
    reachable = float(str(refused.value).split("--target-epsilon ")[1].split(" ")[0])
    assert plan_noise(reachable * 1.05, 1e-5, 10, 2, 25).noise_multiplier <= 2
    with pytest.raises(InputError, match="endless noise"):
        plan_noise(1e-3, 1e-5, 10, 2, 25)
    with pytest.raises(InputError, match="below 1/10"):
        plan_noise(8.0, 0.1, 10, 2, 25)


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"bf16": True}, "--bf16"),
        ({"gradient_checkpointing": True}, "--gradient-checkpointing"),
        ({"save_steps": 5}, "--save-steps"),
        ({"optimizer": "sophia"}, "--optimizer sophia"),
    ],
)
def test_what_would_void_the_guarantee_is_refused(
    make_loaded: MakeLoaded, tmp_path: Path, setting: dict[str, Any], flag: str
) -> None:
    """Settings under which the accounting would not hold are refused with their reason."""
    with pytest.raises(InputError, match=flag):
        QUIET.train(task_of(make_loaded("llama"), tmp_path, dataclasses.replace(OPTIONS, **setting)))


def test_models_whose_gradients_cannot_be_told_apart(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    """A layer in which records meet, one that keeps running numbers, and trained weights in bfloat16 are refused by name."""

    class Mixing(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden) + 0.5 * super().forward(hidden).mean(0, keepdim=True)

    mixing = make_loaded("llama")
    layer = mixing.model.model.layers[0].mlp
    layer.up_proj = Mixing(32, 64, bias=False)
    with pytest.raises(InputError, match="mixes records"):
        QUIET.train(task_of(mixing, tmp_path))
    running = make_loaded("llama")
    running.model.model.layers[1].mlp.up_proj = torch.nn.Sequential(torch.nn.Linear(32, 64, bias=False), torch.nn.BatchNorm1d(64))
    with pytest.raises(InputError, match=r"1\.mlp\.up_proj\.1"):
        QUIET.train(task_of(running, tmp_path))
    halved = make_loaded("llama")
    halved.model.to(torch.bfloat16)
    with pytest.raises(InputError, match="--dtype float32"):
        QUIET.train(task_of(halved, tmp_path))


def test_parameters_that_do_not_move_stop_the_run(make_loaded: MakeLoaded, tmp_path: Path, monkeypatch: Any) -> None:
    """A private training after which nothing has changed is an error, not a perfectly private model."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: None)
    with pytest.raises(RunError, match="did not move"):
        QUIET.train(task_of(make_loaded("llama"), tmp_path))


def test_without_opacus(make_loaded: MakeLoaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(InputError, match=r"unlearn-verify\[dp\]"):
        QUIET.train(task_of(make_loaded("llama"), tmp_path))


@pytest.mark.slow
def test_forgetting_afterwards(model_dir: Path, tmp_path: Path) -> None:
    """Retraining a private model is private again; its steps are logged nowhere, so rollback is refused."""
    rows = make_rows("forget", 12)
    finetune(model_dir, rows, output_dir=tmp_path / "all", options=OPTIONS, defense=QUIET)
    again = forget(tmp_path / "all", Retrain(), forget_set=rows[:2], data=rows, base=model_dir, output_dir=tmp_path / "less")
    fresh = finetune(model_dir, rows[2:], output_dir=tmp_path / "fresh", options=OPTIONS, defense=QUIET)
    assert again.digest_after == fresh.digest
    assert again.facts["defense"]["epsilon"] == fresh.defense["epsilon"] if fresh.defense else False
    about = json.loads((tmp_path / "less" / "manifest.json").read_text())["about"]
    assert about["defense"] == again.facts["defense"]
    third = forget(tmp_path / "less", Retrain(), forget_set=rows[2:4], data=rows[2:], base=model_dir, output_dir=tmp_path / "third")
    assert third.facts["defense"]["parameters"] == dataclasses.asdict(QUIET), "the second deletion is private as well"
    with pytest.raises(InputError, match="Use retrain"):
        forget(tmp_path / "all", Rollback(), forget_set=rows[:2], data=rows, base=model_dir, output_dir=tmp_path / "no")


@pytest.mark.slow
def test_a_defence_is_not_lost_on_the_way(model_dir: Path, tmp_path: Path) -> None:
    """After an approximate method, and after `auto`, a retraining is private; a manifest without the settings is refused."""
    rows = make_rows("forget", 12)
    finetune(model_dir, rows, output_dir=tmp_path / "all", options=OPTIONS, defense=QUIET)
    common = {"forget_set": rows[:2], "data": rows, "base": model_dir}
    for name, method in (("npo", NPO()), ("auto", Auto())):
        forget(tmp_path / "all", method, output_dir=tmp_path / name, **common)
        again = forget(
            tmp_path / name,
            Retrain(),
            **common | {"forget_set": rows[2:4], "data": rows[2:]},
            output_dir=tmp_path / f"{name} again",
        )
        assert again.facts["defense"]["parameters"] == dataclasses.asdict(QUIET)
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    write_manifest(tmp_path / "all", "model", manifest["about"] | {"defense": None})
    with pytest.raises(InputError, match="would protect nobody"):
        forget(tmp_path / "all", Retrain(), output_dir=tmp_path / "bare", **common)


@pytest.mark.slow
def test_a_run_cut_off_begins_anew(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle, it leaves no weights; the same command again runs from the beginning, with fresh noise."""
    rows = make_rows("forget", 12)
    with monkeypatch.context() as patched:
        patched.setattr("unlearn.defenses.differential_privacy.sum_by_unit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(model_dir, rows, output_dir=tmp_path / "out", options=OPTIONS, defense=QUIET)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    finetune(model_dir, rows, output_dir=tmp_path / "out", options=OPTIONS, defense=QUIET)
    whole = finetune(model_dir, rows, output_dir=tmp_path / "whole", options=OPTIONS, defense=QUIET)
    assert load_model(tmp_path / "out").digest == whole.digest


@pytest.mark.parametrize(
    "wrong",
    [{"target_epsilon": 0.0}, {"target_epsilon": math.nan}, {"target_delta": 1.0}, {"max_grad_norm": -1.0}, {"privacy_unit": "x"}],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    """A budget that is none is refused."""
    with pytest.raises(InputError):
        DifferentialPrivacy(**wrong)
