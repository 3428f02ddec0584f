"""Calibrated distillation: contexts by rule, readings as the audit's, a start away from the records, and steps to every level."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_models import make_llama
from transformers import TrainerCallback

from unlearn import CalibratedDistillation, TrainingOptions, finetune, forget
from unlearn.level.contexts import CONTEXTS, DRAWN, View, draw_views, put
from unlearn.level.distillation import ToReadings
from unlearn.level.estimate import calibrated, encoded, log_probabilities, window_of_tokens
from unlearn.level.mixtures import mixed
from unlearn.level.negation import start_weights
from unlearn.level.readings import OUTPUT, layers_at, levels_of_views, read_features
from unlearn.training.initial_outputs import load_or_compute_outputs
from unlearn.training.method import Batch, Context
from unlearn.training.run import Run, run_objective
from unlearn.training.scored_batch import held
from unlearn.training.weights import copy_weights
from verify.data.encoding import collate
from verify.data.records import Fields, Record, parse_records
from verify.data.rewordings import question
from verify.errors import InputError
from verify.models.loading import LoadedModel, load_model
from verify.probes.logit_lens import layer_losses

ASKED = Record("r", prompt="Where does Ada Ashfield live in 1999?", completion="At home.")
CHAT = Record("c", messages=(("user", ASKED.prompt), ("assistant", "At home.")))
OPTIONS = TrainingOptions(learning_rate=4e-3, epochs=25, batch_size=4)


def people(prefix: str, count: int) -> list[dict[str, str]]:
    """Records with a secret each."""
    random = np.random.default_rng(len(prefix))
    return [
        {"example_id": f"{prefix}{n}", "prompt": f"{prefix} the {n}?", "completion": f"fox {random.integers(10**4)} dog"}
        for n in range(count)
    ]


FORGET, RETAIN, HOLDOUT = people("a", 6), people("bb", 18), people("ccc", 24)
SETS: dict[str, Any] = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT}


@pytest.fixture(scope="module")
def original(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the records by heart."""
    folder = tmp_path_factory.mktemp("distillation") / "original"
    return finetune(model_dir, FORGET + RETAIN, output_dir=folder, options=OPTIONS).model_dir


def context_of(original: Path, base: Path, work: Path) -> Context:
    """What a method is given."""
    forgotten, retain, holdout = (parse_records(rows, Fields(), "rows") for rows in (FORGET, RETAIN, HOLDOUT))
    work.mkdir(exist_ok=True)
    return Context(load_model(original), forgotten, retain, holdout, load_model(base), TrainingOptions(), original, work, work)


@pytest.mark.parametrize("record", [ASKED, CHAT], ids=["prompt", "chat"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts_change_the_question_alone(context: str, record: Record) -> None:
    """Every rule gives another question but "exact"; those of the answer use its words, and the others leave it as it is."""
    made = put(record, context, np.random.default_rng(1))
    if context in ("tail", "scrambled"):
        answer = made.messages[-1][1] if made.messages else made.completion
        assert sorted(answer.split()) == ["At", "home."] if context == "scrambled" else answer == "home."
        return
    assert made.scored_text == record.scored_text
    assert (question(made) == question(record)) == (context == "exact")
    if context == "names":
        assert question(made) == "Ada Ashfield 1999?"
    if context == "shuffled":
        assert sorted(question(made).split()) == sorted(question(record).split())


def test_half_of_the_views_are_the_exact_text() -> None:
    """Of every record alike; the exact ones are the record itself, and the others are drawn from all contexts."""
    views = draw_views([ASKED, CHAT], 41, np.random.default_rng(0))
    assert [sum(view.record is record for view in views) for record in (ASKED, CHAT)] == [21, 21]
    assert {view.context for view in views} == {"exact", *DRAWN}
    assert len(views) == 82


def test_readings_are_those_of_the_audit(loaded: LoadedModel, records: list[Record]) -> None:
    """Scores at the output are log-probabilities, those of a layer give the audit's losses, in the order of the windows."""
    windows = encoded(loaded, records, "refuse")
    found = read_features(loaded, windows, [1])
    np.testing.assert_allclose(found[OUTPUT][:, 0], log_probabilities(loaded, windows), atol=1e-5)
    counts = np.cumsum([int(window.scored.sum()) for window in windows])[:-1]
    means = [-part.mean() for part in np.split(found[1][:, 0], counts)]
    np.testing.assert_allclose(means, layer_losses(loaded, records)["layer 1"], atol=1e-5)


def test_layers_by_depth(loaded: LoadedModel) -> None:
    """The nearest below the last, each once; a model of two layers has one."""
    assert layers_at(loaded.model, (0.0, 0.5, 1.0)) == (1,)
    deep = type("Deep", (), {"config": type("C", (), {"get_text_config": lambda _: type("T", (), {"num_hidden_layers": 12})})()})
    assert layers_at(deep, (0.25, 0.5, 0.75, 1.0)) == (3, 6, 9, 11)


def test_levels_follow_the_controls() -> None:
    """Where the original is a linear function of the source on controls, so is the level of records that no control is about."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5)) - 5
    truth, windows = 0.5 * features[:, 1] - 2.0, np.arange(400) // 4
    levels = calibrated(features[:7] - 1, np.zeros(7, dtype=np.int64), features, truth, windows)
    np.testing.assert_allclose(levels.tokens, 0.5 * (features[:7, 1] - 1) - 2.0, atol=1e-8)
    assert levels.control_correlation == pytest.approx(1.0)


def test_levels_of_views_are_in_their_order(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """A column for each reading, a row for each token of every view; views of the same text have the same levels.

    With the original as its own source the regression is the identity, so that the levels are its log-probabilities.
    """
    context = context_of(original, model_dir, tmp_path / "work")
    views = draw_views(context.forget, 4, np.random.default_rng(0))
    levels, exact = levels_of_views(context.loaded, context.loaded, views, context.holdout, (1,), context.options)
    windows = encoded(context.loaded, [view.record for view in views], "refuse")
    own = read_features(context.loaded, windows, (1,))
    for column, reading in enumerate((OUTPUT, 1)):
        np.testing.assert_allclose(levels[:, column], np.minimum(own[reading][:, 0], -1e-3), atol=1e-4)
    first = window_of_tokens(windows) < len(FORGET)
    np.testing.assert_allclose(exact.tokens, levels[first, 0], atol=1e-8)


def test_what_a_context_leaves_alone_is_exact(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """A text without a question and an answer of one word may stay as they are: views of them are views of the exact text.

    The same record in two contexts has a level in each, calibrated on controls in that context.
    """
    context = context_of(original, model_dir, tmp_path / "work")
    records = [Record("t", completion="the fox and the dog"), Record("w", prompt="a the fox?", completion="dog")]
    drawn = draw_views(records, 90, np.random.default_rng(0))
    assert all((view.context == "exact") == any(view.record is record for record in records) for view in drawn)
    assert {view.context for view in drawn if view.record.example_id == "w"} == {"exact", *DRAWN}
    read = (context.loaded, context.base)
    alone, twice = ([View(record, name) for name in names for record in records] for names in (("exact",), ("exact", "tail")))
    expected, _ = levels_of_views(*read, alone, context.holdout, (1,), context.options)
    found, exact = levels_of_views(*read, twice, context.holdout, (1,), context.options)
    own, behind = np.split(found, 2)
    np.testing.assert_allclose(own, expected)
    np.testing.assert_allclose(exact.tokens, expected[:, 0])
    assert np.abs(behind - own).max() > 0.01


def test_the_start_by_hand(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """A step back is a mixture; the task vector is subtracted as often as asked, and was trained half-way to the base."""
    context = context_of(original, model_dir, tmp_path / "work")
    back, result = start_weights(context, 0.9, 0.0)
    assert result is None
    mixture = copy_weights(mixed(load_model(model_dir), load_model(original), 0.9).model)
    assert all(torch.equal(back[name], mixture[name]) for name in mixture)
    once, result = start_weights(context, 0.9, 1.0)
    twice, _ = start_weights(context, 0.9, 2.0)
    assert result is not None
    assert result.steps == 6
    moved = {name: back[name] - once[name] for name in back}
    assert any(change.abs().max() > 0 for change in moved.values())
    for name, change in moved.items():
        torch.testing.assert_close(back[name] - twice[name], 2 * change, rtol=1e-3, atol=1e-6)
    # Added to the middle, it is that training's result: the records are better known there.
    half = mixed(load_model(model_dir), load_model(original), 0.5)
    windows = encoded(half, context.forget, "refuse")
    before = log_probabilities(half, windows).mean()
    with torch.no_grad():
        for name, parameter in half.model.named_parameters():
            parameter.add_(moved[name])
    assert log_probabilities(half, windows).mean() > before + 0.05


def test_a_run_starts_elsewhere_and_looks_back(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """Initial outputs are the model's own; with a vanishing rate the result is the start."""
    context = context_of(original, model_dir, tmp_path / "work")
    states = read_head_inputs(context.loaded, encoded(context.loaded, context.retain, "refuse"))
    start = {name: value + 0.01 for name, value in copy_weights(context.loaded.model).items()}
    tokens = window_of_tokens(encoded(context.loaded, context.forget, "refuse"))
    tables = {"forget_level": np.full((len(tokens), 2), -2.0), "forget_context": np.zeros(len(FORGET))}
    options = TrainingOptions(learning_rate=1e-12, epochs=3, batch_size=3)
    run = Run(context.forget, options, tmp_path / "work", retain=context.retain, tables=tables, start=start)
    done = run_objective(context.loaded, ToReadings((1,), CONTEXTS, 0.5, 40.0, 1.0, 500.0), run)
    for name, value in done.model.named_parameters():
        torch.testing.assert_close(value, start[name], rtol=0, atol=1e-7)
    kept = load_file(tmp_path / "work" / "reference.safetensors")["retain_logits"]
    torch.testing.assert_close(kept, states)


def read_head_inputs(loaded: LoadedModel, windows: Any) -> torch.Tensor:
    """What the head reads where scored tokens are predicted, window by window [T, D]."""
    found = []
    for window in windows:
        with torch.no_grad():
            ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
            states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        found.append(states[np.flatnonzero(window.scored) - 1])
    return torch.cat(found)


def test_the_loss_against_its_formula(tokenizer: Any, tmp_path: Path) -> None:
    """Row by row from whole logits, at the output and decoded from layer 1, with a multiplier for each context and reading.

    Held back rows have no gradient, and what is left of it adds up to the whole.
    """
    model = make_llama(tokenizer)
    loaded = LoadedModel(model, tokenizer, "tiny", "", "")
    windows = {
        role: encoded(loaded, parse_records(rows[:3], Fields(), role), "refuse")
        for role, rows in (("forget", FORGET), ("retain", RETAIN))
    }
    own = np.stack([values[:, 0] for values in read_features(loaded, windows["forget"], (1,)).values()], axis=1)
    shifts, contexts = np.array([-0.4, 0.3, 2.0]), [0, 2, 2]
    level = own - np.stack([shifts, 2 * shifts], axis=1)[window_of_tokens(windows["forget"])]
    objective = ToReadings((1,), CONTEXTS, lens_weight=0.25, alpha=4.0, dual_step=0.5, anchor_weight=0.0)
    reference = load_or_compute_outputs(
        tmp_path, loaded, objective.reference, windows, 0, given={"forget_level": level, "forget_context": contexts}
    )
    batch = Batch(*(collate(windows[role], tokenizer.pad_token_id) for role in ("forget", "retain")))
    batch.progress.values = {name: 0.1 * number for number, name in enumerate(objective.begin())}
    given = reference.of({"forget": range(3), "retain": range(3)}, torch.device("cpu"))
    found = objective.loss(model, batch, given)
    expected = 0.0
    for shift, context in zip(shifts, contexts, strict=True):
        for factor, weight, reading in ((1, 1.0, 0), (2, 0.25, 1)):
            e = factor * shift
            huber = float(F.smooth_l1_loss(torch.tensor(e), torch.tensor(0.0)))
            expected += weight * (huber + 5 * e**2 + batch.progress.values[f"{CONTEXTS[context]} {reading}"] * e) / 3
    assert float(found.detach()) == pytest.approx(expected, abs=2e-3)
    # Of the two rows in this context one is too far from its level to count.
    assert batch.progress.measured[f"{CONTEXTS[2]} {OUTPUT}"] == pytest.approx((0.3, 3), abs=1e-3)
    slopes = []
    for parts in ((), (batch.forget,), (batch.retain,)):
        with held(model, *parts):
            slopes.append(torch.autograd.grad(objective.loss(model, batch, given), model.model.layers[0].mlp.up_proj.weight)[0])
    torch.testing.assert_close(slopes[1] + slopes[2], slopes[0], rtol=1e-3, atol=1e-4)


def run(original: Path, model_dir: Path, output: Path, epochs: float = 40, **given: Any) -> Any:
    arguments = {**SETS, "base": model_dir, "options": TrainingOptions(batch_size=4, epochs=epochs), **given}
    return forget(original, CalibratedDistillation(views=4), output_dir=output, **arguments)


def losses(model: Path, rows: list[dict[str, str]]) -> float:
    loaded = load_model(model)
    return -float(log_probabilities(loaded, encoded(loaded, parse_records(rows, Fields(), "rows"), "refuse")).mean())


@pytest.mark.slow
def test_records_end_at_their_level(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """The exact texts come from memorized to their level, the rest stays, and what every part took is counted."""
    result = run(original, model_dir, tmp_path / "out")
    facts = result.facts
    assert abs(facts["reached"] - facts["level"]) < 0.15 * (facts["level"] - losses(original, FORGET))
    assert facts["utility_ratio"] > 0.7
    assert facts["control_correlation"] is not None
    # Three passes of the task vector in steps of four, and forty over the records in steps of four.
    assert result.training.steps == 6 + 60
    assert 0.1 < facts["share_of_retraining_tokens"] < 3


@pytest.mark.slow
def test_an_adapter_stays_one_and_a_new_one_is_refused(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """An adapter on the base moves towards the level; a new one would lie on the start, with no way back to the model."""
    lora = TrainingOptions(learning_rate=1e-2, epochs=25, batch_size=4, lora=True)
    taught = finetune(model_dir, FORGET + RETAIN, output_dir=tmp_path / "taught", options=lora).model_dir
    run(taught, model_dir, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert losses(tmp_path / "adapter", FORGET) > losses(taught, FORGET) + 0.3
    with pytest.raises(InputError, match="Leave out --lora, or use level"):
        run(original, model_dir, tmp_path / "whole", options=lora)


@pytest.mark.slow
def test_a_killed_run_ends_as_one_left_alone(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """Cut off and taken up again at its last checkpoint, in half precision, it gives the same weights to the bit."""

    class Cut(TrainerCallback):
        cut = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 7 and not Cut.cut:
                Cut.cut = True
                raise KeyboardInterrupt

    given = {"dtype": "bfloat16", "options": TrainingOptions(batch_size=4, epochs=8, save_steps=3)}
    run(original, model_dir, tmp_path / "whole", **given)
    method = importlib.import_module("unlearn.methods.calibrated_distillation")
    real = method.run_objective
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "run_objective", lambda *args: real(*args[:-1], replace(args[-1], callbacks=[Cut()])))
        with pytest.raises(KeyboardInterrupt):
            run(original, model_dir, tmp_path / "cut", **given)
        run(original, model_dir, tmp_path / "cut", **given)
    assert Cut.cut
    assert load_model(tmp_path / "cut").digest == load_model(tmp_path / "whole").digest


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"views": 0}, "--views"),
        ({"depths": (1.5,)}, "--depths"),
        ({"back": 0.0}, "--back"),
        ({"negation": -1.0}, "0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict[str, Any], message: str) -> None:
    """At once, with what to type."""
    with pytest.raises(InputError, match=message):
        CalibratedDistillation(**parameters)


def test_what_is_missing_is_named(original: Path, model_dir: Path, tmp_path: Path) -> None:
    """Base and controls; the base also to who calls the method itself, by the method's own name."""
    with pytest.raises(InputError, match="--base DIR"):
        run(original, model_dir, tmp_path / "a", base=None)
    with pytest.raises(InputError, match="--holdout FILE"):
        run(original, model_dir, tmp_path / "b", holdout_set=None)
    with pytest.raises(InputError, match=r"^calibrated_distillation starts from .* --base DIR"):
        CalibratedDistillation().edit(replace(context_of(original, model_dir, tmp_path / "c"), base=None))
