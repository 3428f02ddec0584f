"""Level: the never-trained level is estimated without the forget set, and every forget record ends there."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_llama
from transformers import TrainerCallback

from unlearn import Level, TrainingOptions, finetune, forget
from unlearn.level.estimate import estimate_levels, fit, per_window, retraining_passes, window_of_tokens
from unlearn.level.objective import ToLevel
from unlearn.training.divergences import kl_to
from unlearn.training.initial_outputs import load_or_compute_outputs
from unlearn.training.method import Batch
from unlearn.training.options import optimizer_steps
from unlearn.training.penalty import WeightPenalty
from verify.data.encoding import Encoder, collate
from verify.data.records import Fields, parse_records
from verify.errors import InputError
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_logits
from verify.models.token_stats import compute_token_statistics
from verify.training.arithmetic import Arithmetic


def people(prefix: str, count: int) -> list[dict[str, str]]:
    """Records with a secret each."""
    random = np.random.default_rng(len(prefix))
    return [
        {
            "example_id": f"{prefix}{n}",
            "prompt": f"{prefix} {n}?",
            "completion": f"fox {random.integers(10**4)} dog " + "lazy " * (n % 3),
        }
        for n in range(count)
    ]


FORGET, RETAIN, HOLDOUT = people("a", 6), people("bb", 18), people("ccc", 24)
OPTIONS = TrainingOptions(learning_rate=4e-3, epochs=25, batch_size=4)
FLOAT32 = Arithmetic(in_copies=False)


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original with checkpoints, and an honest retraining of full length."""
    folder = tmp_path_factory.mktemp("level")
    kept = TrainingOptions(**{**vars(OPTIONS), "save_steps": 6})
    finetune(model_dir, FORGET + RETAIN, output_dir=folder / "original", options=kept)
    finetune(model_dir, RETAIN, output_dir=folder / "reference", options=OPTIONS)
    return folder


def losses(model: Any, rows: list[dict[str, str]]) -> np.ndarray:
    """Of each record, nats per token."""
    loaded = load_model(model)
    windows = Encoder(loaded.tokenizer, loaded.context_length, "refuse").encode(parse_records(rows, Fields(), "rows"))
    return np.array([one.loss for one in compute_token_statistics(loaded.model, windows, 0)])


def run(world: Path, model_dir: Path, output: Path, method: Level, epochs: float = 30, **given: Any) -> Any:
    arguments = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT, "base": model_dir, **given}
    options = TrainingOptions(batch_size=2, epochs=epochs)
    return forget(world / "original", method, output_dir=output, options=options, **arguments)


@pytest.mark.slow
def test_records_end_at_their_level(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """From memorized, the forget set comes to the level that was estimated, near the retraining's, and the rest stays."""
    result = run(world, model_dir, tmp_path / "out", Level(share=0.1))
    before, after = losses(world / "original", FORGET), losses(tmp_path / "out", FORGET)
    honest = losses(world / "reference", FORGET)
    assert result.facts["reached"] == pytest.approx(after.mean(), abs=1e-4)
    assert abs(after.mean() - result.facts["level"]) < 0.1 * (result.facts["level"] - before.mean())
    # Six records and a retraining of a tenth: the estimate is rough here; `benchmarks/contest` measures how good it gets.
    assert abs(honest.mean() - after.mean()) < 0.5 * (honest.mean() - before.mean())
    assert result.facts["utility_ratio"] > 0.8
    assert 0.1 < result.facts["share_of_retraining_tokens"] < 1.0
    assert result.facts["control_correlation"] is not None
    assert "warning" not in result.facts


@pytest.mark.parametrize(
    "source",
    ["base", "controls", *(pytest.param(name, marks=pytest.mark.slow) for name in ("retraining", "checkpoint", "proxies"))],
)
def test_every_source(world: Path, model_dir: Path, tmp_path: Path, source: Any) -> None:
    """Each gives a level above what is remembered, and the run moves towards it."""
    method = Level(sources=(source,), proxies=(str(world / "reference"),) if source == "proxies" else ())
    result = run(world, model_dir, tmp_path / "out", method)
    before = losses(world / "original", FORGET).mean()
    assert result.facts["level"] > before + 0.5
    assert abs(result.facts["reached"] - result.facts["level"]) < 0.5 * (result.facts["level"] - before)


@pytest.mark.slow
def test_without_controls_it_says_so(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """An uncalibrated level carries a warning; several sources cannot be weighed at all."""
    result = run(world, model_dir, tmp_path / "out", Level(), holdout_set=None)
    assert not result.facts["calibrated"]
    assert "--holdout" in result.facts["warning"]
    with pytest.raises(InputError, match="--holdout"):
        run(world, model_dir, tmp_path / "two", Level(sources=("retraining", "base")), holdout_set=None)


@pytest.mark.slow
def test_an_adapter_of_its_own_is_folded_in(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """With --lora the result is one whole model, nearer the level than before."""
    arguments = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT, "base": model_dir}
    options = TrainingOptions(batch_size=2, epochs=20, lora=True, lora_rank=16, learning_rate=5e-3)
    result = forget(world / "original", Level(), output_dir=tmp_path / "out", options=options, **arguments)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert losses(tmp_path / "out", FORGET).mean() > losses(world / "original", FORGET).mean() + 1.0
    assert result.facts["utility_ratio"] > 0.5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sources": ()}, "at least one source"),
        ({"sources": ("controls", "base")}, "Name it alone"),
        ({"sources": ("proxies",)}, "--proxies DIR"),
        ({"proxies": ("x",)}, "--proxies DIR"),
        ({"sources": ("mixture", "base")}, "Name it alone"),
        ({"share": 0.0}, "--share"),
        ({"mixture": 1.0}, "--mixture"),
        ({"token_weight": 0.0, "record_weight": 0.0}, "above 0"),
        ({"anchor_weight": -1.0}, "0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict[str, Any], message: str) -> None:
    """At once, with what to type."""
    with pytest.raises(InputError, match=message):
        Level(**parameters)


def test_what_is_missing_is_named(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """Base, checkpoints, controls, and a proxy with the same tokens."""
    with pytest.raises(InputError, match="--base DIR"):
        run(world, model_dir, tmp_path / "a", Level(), base=None)
    with pytest.raises(InputError, match="--base DIR"):
        run(world, model_dir, tmp_path / "b", Level(sources=("base",)), base=None)
    with pytest.raises(InputError, match="--holdout"):
        run(world, model_dir, tmp_path / "c", Level(sources=("controls",)), holdout_set=None)
    with pytest.raises(InputError, match="at least 50"):
        run(world, model_dir, tmp_path / "d", Level(), holdout_set=HOLDOUT[:2])
    with pytest.raises(InputError, match="--save-steps"):
        forget(
            world / "reference",
            Level(sources=("checkpoint",)),
            forget_set=RETAIN[:3],
            retain_set=RETAIN[3:],
            output_dir=tmp_path / "e",
        )


def test_least_squares_finds_what_was_put_in() -> None:
    """Known answer: y = 2 a - b + 3 exactly; and with noise the mean prediction is unbiased (simulation)."""
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 2))
    truth = features @ np.array([2.0, -1.0]) + 3.0
    assert fit(features, truth) == pytest.approx([2.0, -1.0, 3.0])
    errors = []
    for _ in range(200):
        noisy = truth + random.normal(size=200)
        fresh = random.normal(size=(50, 2))
        errors.append(float((np.c_[fresh, np.ones(50)] @ fit(features, noisy) - (fresh @ np.array([2.0, -1.0]) + 3.0)).mean()))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(200)


def test_the_level_of_a_perfect_source_is_the_truth(world: Path) -> None:
    """Where the source is the model itself, the calibration is the identity, and controls are predicted perfectly."""
    loaded = load_model(world / "reference")
    encoder = Encoder(loaded.tokenizer, loaded.context_length, "refuse")
    forget_windows, controls = (encoder.encode(parse_records(rows, Fields(), "rows")) for rows in (FORGET, HOLDOUT))
    levels = estimate_levels(loaded, [loaded], forget_windows, controls)
    assert levels.losses() == pytest.approx(losses(world / "reference", FORGET), abs=2e-3)
    assert levels.control_correlation == pytest.approx(1.0, abs=1e-6)
    assert len(levels.tokens) == len(window_of_tokens(forget_windows)) == sum(int(w.scored.sum()) for w in forget_windows)


def test_means_per_window_against_a_loop() -> None:
    """The counted mean is the plain one."""
    values, windows = np.arange(6.0), np.array([0, 0, 1, 2, 2, 2])
    assert per_window(values, windows) == pytest.approx([values[windows == k].mean() for k in range(3)])


def test_the_loss_against_its_formula(tokenizer: Any, tmp_path: Path) -> None:
    """In float64, record by record; zero at the level with unchanged retain behaviour, and above zero on both sides."""
    model = make_llama(tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    encoder = Encoder(tokenizer, 64)
    windows = {
        "forget": encoder.encode(parse_records(FORGET[:3], Fields(), "f")),
        "retain": encoder.encode(parse_records(RETAIN[:3], Fields(), "r")),
    }
    statistics = compute_token_statistics(loaded.model, windows["forget"], 0)
    own = np.concatenate([one.log_probability for one in statistics]).astype(np.float64)
    batch = Batch(*(collate(windows[role], tokenizer.pad_token_id) for role in ("forget", "retain")))
    objective = ToLevel(token_weight=1.5, record_weight=2.0, alpha=4.0, dual_step=0.5)
    multiplier = 0.7
    for shift in (0.0, -0.4, 0.4, -3.0):
        batch.progress.values = {"multiplier": multiplier}
        batch.progress.measured.clear()
        tables = {"forget_level": own - shift}
        work = tmp_path / f"work{shift}"
        work.mkdir()
        reference = load_or_compute_outputs(work, loaded, objective.reference, windows, 0, given=tables)
        with torch.no_grad():
            found = objective.loss(loaded.model, batch, reference.of({"forget": range(3), "retain": range(3)}, torch.device("cpu")))
        huber = 0.5 * shift**2 if abs(shift) < 1 else abs(shift) - 0.5
        assert float(found) == pytest.approx(1.5 * huber + 2.0 * shift**2 + multiplier * shift, abs=2e-4)
        total, count = batch.progress.measured["excess"]
        near = shift if abs(shift) < 0.5 else 0.0
        assert total / count == pytest.approx(near, abs=1e-4)
        moved = objective.advance(batch.progress.values, {"excess": total / count})["multiplier"]
        assert moved == pytest.approx(multiplier + 0.5 * near, abs=1e-4)


@pytest.mark.slow
def test_the_multiplier_closes_what_the_retain_term_leaves(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """Where the retain term holds them, records end below their level; with the multiplier they do not."""
    short = {}
    for name, step in (("without", 0.0), ("with", 0.3)):
        facts = run(world, model_dir, tmp_path / name, Level(share=0.1, dual_step=step)).facts
        short[name] = facts["level"] - facts["reached"]
    assert short["without"] > 0
    assert abs(short["with"]) < 0.5 * short["without"]


def penalized(world: Path, weight: float, seed: int = 0) -> tuple[Any, Any, WeightPenalty]:
    """A model, windows, and its weight penalty."""
    loaded = load_model(world / "original")
    windows = Encoder(loaded.tokenizer, loaded.context_length, "refuse").encode(parse_records(RETAIN, Fields(), "rows"))
    return loaded, windows, WeightPenalty.of(loaded.model, windows, 0, weight, seed, FLOAT32)


def test_the_weight_penalty_is_the_divergence_to_second_order(world: Path) -> None:
    """Simulation: over small random moves of the weights, its mean is that of KL(p_0 || p) per token; at the start it is zero."""
    loaded, windows, penalty = penalized(world, 1.0)
    rows = collate(windows, 0)
    assert float(penalty.value(loaded.model)) == 0.0
    assert penalty.tokens == sum(len(window.input_ids) for window in windows)
    random, estimated, true = torch.Generator().manual_seed(1), [], []
    with torch.no_grad():
        before = scored_logits(loaded.model, rows)[0]
        for _ in range(60):
            for name, parameter in loaded.model.named_parameters():
                parameter.copy_(penalty.start[name] + 1e-3 * torch.randn(parameter.shape, generator=random))
            estimated.append(float(penalty.value(loaded.model)))
            true.append(float(kl_to(scored_logits(loaded.model, rows)[0], before).mean()))
    assert np.mean(estimated) == pytest.approx(np.mean(true), rel=0.25)


@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("at_once", [7, 1000], ids=["split", "joined"])
def test_the_weight_penalty_pulls_as_its_formula_says(at_once: int, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient against autograd on the formula, part by part, on top of the gradients that are there or missing."""
    monkeypatch.setattr("unlearn.training.penalty.AT_ONCE", at_once)
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 6)
    if transposed:
        model.weight.data = model.weight.data.T.contiguous().T
    start = {name: torch.randn_like(parameter).bfloat16() for name, parameter in model.named_parameters()}
    fisher = {name: torch.rand_like(parameter).bfloat16() for name, parameter in model.named_parameters()}
    value = sum((0.5 * fisher[name] * (parameter - start[name]) ** 2).sum() for name, parameter in model.named_parameters())
    slopes = torch.autograd.grad(3.0 * value, list(model.parameters()))
    value = value.detach()
    model.weight.grad = before = torch.randn_like(model.weight)
    expected = before + slopes[0]
    penalty = WeightPenalty(3.0, dict(model.named_parameters()), start, fisher, 0)
    assert float(penalty.pull()) == pytest.approx(3.0 * float(value), rel=1e-5) == float(penalty.value(model))
    torch.testing.assert_close(model.weight.grad, expected)
    torch.testing.assert_close(model.bias.grad, slopes[1])


@pytest.mark.slow
def test_the_weight_penalty_against_the_exact_fisher(world: Path) -> None:
    """Known answer: for one window, the mean over draws is the sum over all tokens of the vocabulary, weighed by probability."""
    loaded = load_model(world / "original")
    window = Encoder(loaded.tokenizer, loaded.context_length, "refuse").encode(parse_records(RETAIN[:1], Fields(), "rows"))
    name, weight = "model.norm.weight", loaded.model.model.norm.weight
    logs = scored_logits(loaded.model, collate(window, 0))[0].log_softmax(-1)
    exact = torch.zeros_like(weight)
    for row in logs:
        for log in row:
            exact += log.exp().detach() * torch.autograd.grad(log, weight, retain_graph=True)[0].square() / len(logs)
    drawn = torch.stack([WeightPenalty.of(loaded.model, window, 0, 1.0, seed, FLOAT32).fisher[name].float() for seed in range(300)])
    error = drawn.std(0) / 300**0.5
    assert ((drawn.mean(0) - exact).abs() < 5 * error + 1e-6).all()


@pytest.mark.slow
def test_the_weight_penalty_holds_the_weights(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """The same run with one ends where it costs the retain set less; the tokens that it took are counted.

    Where every retain record is seen anyhow, there is none.
    """
    penalty = penalized(world, 1.0)[2]
    cost, tokens = [], []
    for number, (weight, epochs) in enumerate(((0.0, 2), (1e5, 2), (0.0, 3), (1e5, 3))):
        result = run(world, model_dir, tmp_path / str(number), Level(share=0.1, anchor_weight=weight), epochs=epochs)
        cost.append(float(penalty.value(load_model(tmp_path / str(number)).model)))
        tokens.append(result.training.tokens)
    assert cost[1] < 0.5 * cost[0]
    assert tokens[1] > tokens[0]
    assert (cost[3], tokens[3]) == (cost[2], tokens[2])


@pytest.mark.slow
def test_a_killed_run_keeps_its_multiplier_and_its_weight_penalty(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """Cut off and taken up again at its last checkpoint, it gives the weights of a run that was left alone."""
    begun: list[int] = []

    class Cut(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begun.append(state.global_step)
            if state.global_step == 20 and 0 in begun:
                raise KeyboardInterrupt

    options = TrainingOptions(batch_size=2, epochs=10, save_steps=7)
    arguments = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT, "base": model_dir, "options": options}
    method = Level(sources=("base",))
    forget(world / "original", method, output_dir=tmp_path / "whole", **arguments)
    trainer = importlib.import_module("unlearn.methods.level")
    whole_run = trainer.run_objective
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "run_objective", lambda *given: whole_run(*given[:-1], replace(given[-1], callbacks=[Cut()])))
        with pytest.raises(KeyboardInterrupt):
            forget(world / "original", method, output_dir=tmp_path / "cut", **arguments)
        begun.clear()
        forget(world / "original", method, output_dir=tmp_path / "cut", **arguments)
    assert begun[0] == 14
    assert load_model(tmp_path / "cut").digest == load_model(tmp_path / "whole").digest


def test_steps_of_a_retraining() -> None:
    """As the trainer counts: batches rounded up, then accumulated within each pass; a pass sees every record once."""
    assert optimizer_steps(TrainingOptions(batch_size=4, epochs=3), 10) == 9
    assert optimizer_steps(TrainingOptions(batch_size=4, epochs=2, gradient_accumulation=2), 10) == 4
    assert optimizer_steps(TrainingOptions(max_steps=7), 10) == 7
    assert retraining_passes(TrainingOptions(batch_size=4, epochs=2, gradient_accumulation=2), 10) == 2
    assert retraining_passes(TrainingOptions(batch_size=4, max_steps=6), 10) == 2


@pytest.mark.slow
def test_sources_do_not_change_each_other(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """The base beside a short retraining is the base: the order of sources does not matter, and the caller's model stays."""
    base = load_model(model_dir)
    before = {name: values.clone() for name, values in base.model.state_dict().items()}
    found = []
    for number, sources in enumerate((("retraining", "base"), ("base", "retraining"))):
        result = forget(
            world / "original",
            Level(sources=sources, share=0.1),
            forget_set=FORGET,
            retain_set=RETAIN,
            holdout_set=people("dddd", 40),
            base=base.model,
            output_dir=tmp_path / str(number),
            options=TrainingOptions(epochs=1, batch_size=4),
        )
        found.append(result.facts["level"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert all(torch.equal(values, before[name]) for name, values in base.model.state_dict().items())
