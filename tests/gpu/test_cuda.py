"""The same on a GPU as on the processor.

Tolerances are for sums in another order in float32; bfloat16 under autocast has a looser one, which is stated where it is used.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from on_a_gpu import OBJECTIVES, ON_A_GPU, ONE_STEP, ROWS, computing_on, on_both
from probed_models import FORGET, OTHER, adapter, whole
from tiny_models import make_llama, make_tokenizer

from unlearn import TrainingOptions, finetune, forget
from unlearn.methods import method_classes
from unlearn.methods.level import Level
from unlearn.methods.retrain import Retrain
from verify import Settings, audit
from verify.attacks import attack_classes, select_attacks
from verify.attacks.base import Observation
from verify.data.encoding import Encoder
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record, parse_records
from verify.models.digests import weights_digest
from verify.models.generation import greedy_continuations, sampled_continuations
from verify.models.loading import LoadedModel, load_model
from verify.models.token_stats import compute_token_statistics
from verify.probes import probe_classes
from verify.probes.adversarial_suffix import AdversarialSuffix
from verify.probes.base import Material
from verify.probes.elicitation import Elicitation
from verify.scores.observe import measure
from verify.scores.table import ScoreTable

pytestmark = ON_A_GPU

RECORDS = parse_records(ROWS, Fields(), "records")
EDITS = ["fisher", "ssd", "task_vector", "ties", "negmerge", "lora_negation"]
OTHERWISE = {"altpo", "scrub"}
"""Objectives whose first step is another one on a GPU: `altpo` samples its targets; `scrub` begins where its gradient is rounding,
which AdamW scales to the learning rate."""
FLOAT32, BFLOAT16 = 2e-3, 5e-2
"""Largest mean distance of token log-probabilities, nats: after training in float32, and under autocast."""


def log_probabilities(loaded: LoadedModel) -> np.ndarray:
    """Of every scored token of the records, as this model sees them."""
    windows = Encoder(loaded.tokenizer, loaded.context_length).encode(RECORDS)
    table = compute_token_statistics(loaded.model, windows, loaded.tokenizer.pad_token_id)
    return np.concatenate([entry.log_probability for entry in table])


def require_near(folders: tuple[Path, Path], tolerance: float) -> None:
    """Two models on disk give the tokens nearly the same log-probabilities, both on the processor."""
    with computing_on("cpu"):
        first, second = (log_probabilities(load_model(folder)) for folder in folders)
    assert np.abs(first - second).mean() < tolerance


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was fine-tuned on 18 records, with its log and checkpoints, made on the GPU."""
    options = TrainingOptions(learning_rate=2e-3, epochs=4, batch_size=4, save_steps=3, seed=3)
    return finetune(model_dir, ROWS[:18], output_dir=tmp_path_factory.mktemp("trained") / "m", options=options).model_dir


def test_a_model_is_loaded_onto_the_gpu(model_dir: Path) -> None:
    """By default; its digest is that of the file, wherever it is."""
    found = load_model(model_dir)
    assert next(found.model.parameters()).device.type == "cuda"
    assert found.digest == load_model(model_dir, device="cpu").digest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_token_statistics_are_those_of_the_processor(model_dir: Path, dtype: str) -> None:
    """All columns of the pass: 1e-4 in float32; in bfloat16 within its rounding, and ranks within a few places."""
    tables = []
    for device in ("cpu", "cuda"):
        loaded = load_model(model_dir, dtype=dtype, device=device)
        windows = Encoder(loaded.tokenizer, loaded.context_length).encode(RECORDS)
        tables.append(compute_token_statistics(loaded.model, windows, loaded.tokenizer.pad_token_id).columns)
    near = 1e-4 if dtype == "float32" else 0.1
    for name in ("log_probability", "mean", "deviation"):
        np.testing.assert_allclose(tables[1][name], tables[0][name], rtol=near, atol=near)
    assert np.mean(np.abs(tables[1]["rank"] - tables[0]["rank"])) < (0.01 if dtype == "float32" else 3)
    assert np.mean(tables[1]["greedy"] != tables[0]["greedy"]) < 0.02


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_fine_tuning_goes_the_same_way(model_dir: Path, tmp_path: Path, lora: bool, bf16: bool) -> None:
    """The losses of all steps, and the trained model."""
    options = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, lora=lora, bf16=bf16, logging_steps=1)
    runs = on_both(lambda device: finetune(model_dir, ROWS, output_dir=tmp_path / device, options=options))
    losses = [np.array([loss for _, loss in run.result.losses]) for run in runs]
    assert len(losses[0]) == 12
    tolerance = BFLOAT16 if bf16 else FLOAT32
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)
    require_near((runs[0].model_dir, runs[1].model_dir), tolerance)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_every_objective_is_the_same(model_dir: Path, tmp_path: Path, name: str, lora: bool) -> None:
    """One step from the same model leads to the same model; where that cannot be, to a finite one."""

    def run(device: str) -> Path:
        sets = {"forget_set": ROWS[:8], "retain_set": ROWS[8:]}
        options = replace(ONE_STEP, lora=lora)
        return forget(model_dir, method_classes()[name](), **sets, output_dir=tmp_path / device, options=options).model_dir

    folders = on_both(run)
    assert np.isfinite(log_probabilities(load_model(folders[1]))).all()
    if name not in OTHERWISE:
        require_near(folders, FLOAT32)
        assert load_model(folders[1]).digest != load_model(model_dir).digest


@pytest.mark.parametrize("name", ["npo", "grad_diff", "scrub", "rmu"])
def test_a_step_under_autocast_is_near_that_in_float32(model_dir: Path, tmp_path: Path, name: str) -> None:
    """On the GPU, with `bf16`, also where the loss compares with the model before unlearning: its outputs are rounded alike."""
    sets = {"forget_set": ROWS[:8], "retain_set": ROWS[8:]}
    folders = [
        forget(
            model_dir,
            method_classes()[name](),
            **sets,
            output_dir=tmp_path / str(half),
            options=replace(ONE_STEP, max_steps=3, bf16=half),
        ).model_dir
        for half in (False, True)
    ]
    require_near((folders[0], folders[1]), BFLOAT16)


@pytest.mark.parametrize("name", EDITS)
def test_weight_edits_are_the_same(trained: Path, tmp_path: Path, name: str) -> None:
    """The search takes the same strength, and leads to the same model."""

    def run(device: str) -> Any:
        sets = {"forget_set": ROWS[:6], "retain_set": ROWS[6:18]}
        options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4)
        return forget(trained, method_classes()[name](tolerance=0.3), **sets, output_dir=tmp_path / device, options=options)

    first, second = on_both(run)
    assert second.facts["scale"] == pytest.approx(first.facts["scale"])
    require_near((first.model_dir, second.model_dir), 2e-2)


def test_level_reaches_the_same_level(trained: Path, model_dir: Path, tmp_path: Path) -> None:
    """The estimate agrees to a hundredth of a nat; the curvature of its anchor is drawn at random on each device."""
    given = {"forget_set": ROWS[:6], "retain_set": ROWS[6:18], "holdout_set": ROWS[18:], "base": model_dir}
    first, second = on_both(lambda device: forget(trained, Level(share=0.2), **given, output_dir=tmp_path / device))
    assert second.facts["level"] == pytest.approx(first.facts["level"], abs=1e-2)
    assert second.facts["reached"] == pytest.approx(first.facts["reached"], abs=0.1)


def test_a_retraining_is_the_same(trained: Path, model_dir: Path, tmp_path: Path) -> None:
    """Of the records that stay, from the base."""
    given = {"forget_set": ROWS[:6], "data": ROWS[:18], "base": model_dir}
    folders = on_both(lambda device: forget(trained, Retrain(), **given, output_dir=tmp_path / device).model_dir)
    require_near(folders, 2e-2)


def test_generation_is_the_same_and_repeatable(trained: Path) -> None:
    """Greedy texts are those of the processor; sampled ones repeat, and leave the random state of both devices as it was."""
    prompts = [np.array(load_model(trained).tokenizer(row["prompt"])["input_ids"]) for row in ROWS[:6]]
    texts = [greedy_continuations(load_model(trained, device=device), prompts, [12] * 6) for device in ("cpu", "cuda")]
    assert texts[0] == texts[1]
    loaded = load_model(trained)
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    sampled = [sampled_continuations(loaded, prompts[0], 12, 8, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert torch.equal(states[0], torch.get_rng_state())
    assert torch.equal(states[1], torch.cuda.get_rng_state())


QUICK = {
    "adversarial_suffix": AdversarialSuffix(budgets=(1, 2), candidates=4, records=2),
    "elicitation": Elicitation(advantage=-100.0),
}


@pytest.mark.parametrize("kind", ["whole", "adapter"])
@pytest.mark.parametrize("name", list(probe_classes()))
def test_every_probe_measures_the_same(name: str, kind: str) -> None:
    """As on the processor, but for probes that decide by the nearest of many candidates or draw texts; weights stay as they are."""
    make, one = (adapter if kind == "adapter" else whole), QUICK.get(name, probe_classes()[name]())

    def measured(device: str) -> Any:
        loaded, old, base = (replace(made, model=made.model.to(device)) for made in (make(1), make(2), whole(7)))
        found = one.losses(loaded, Material(FORGET, OTHER, old, seed=3, base=base))
        assert weights_digest(loaded.model) == loaded.digest
        return found

    first, second = on_both(measured)
    assert first.keys() == second.keys()
    chosen = name in ("adversarial_suffix", "elicitation", "multi_turn", "self_correction")
    for treatment, values in first.items():
        np.testing.assert_allclose(second[treatment], values, rtol=0.3 if chosen else 2e-2, err_msg=treatment)


ATTACKED = [
    Record("a", prompt="who", completion="the quick brown fox"),
    Record("b", completion="lazy dogs jump over other animals"),
    Record("c", completion="x"),
    Record("e", prompt="p", completion="over the brown fox", secret="brown"),
]
CONTROLS = [Record(str(number), prompt="q", completion=f"animals jump {number} times over dogs") for number in range(7)]


def observed(seed: int, device: str) -> Observation:
    """What an audit hands to an attack of a random model."""
    tokenizer, key = make_tokenizer(), RecordKey(b"k" * 32)
    loaded = load_model(make_llama(tokenizer, seed).to(device), tokenizer=tokenizer)
    return replace(measure(loaded, ATTACKED, cache_dir=None, key=key), controls=measure(loaded, CONTROLS, cache_dir=None, key=key))


@pytest.mark.parametrize("name", list(attack_classes()))
def test_every_attack_scores_the_same(name: str) -> None:
    """As on the processor; `sampled` draws other texts, and only its range is checked."""
    attack = select_attacks([name])[name]

    def scored(device: str) -> Any:
        others = [observed(seed, device) for seed in (1, 2)]
        references = others if "retrained references" in attack.needs else others[:1] if "reference model" in attack.needs else []
        return attack.score(observed(0, device), references)

    first, second = on_both(scored)
    assert np.isfinite(second).all()
    if name == "sampled":
        assert ((second >= 0) & (second <= 1)).all()
    else:
        np.testing.assert_allclose(second, first, rtol=2e-2, atol=2e-3)


def noisy(model_dir: Path, folder: Path, seed: int) -> Path:
    """A copy of a model with noise on all weights."""
    copy = load_model(model_dir, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    copy.model.save_pretrained(folder)
    copy.tokenizer.save_pretrained(folder)
    return folder


def test_an_audit_through_all_channels_measures_the_same(model_dir: Path, tmp_path: Path) -> None:
    """Losses of every model on every set and channel, and all scores but those of sampled texts; training has more room."""
    models = [noisy(model_dir, tmp_path / f"copy{seed}", seed) for seed in range(4)]
    templates = tmp_path / "templates.yaml"
    templates.write_text("templates: [{prompt: 'Who is (?P<who>.+)\\?', rewordings: ['Tell me about {who}.']}]")

    def run(device: str) -> ScoreTable:
        audit(
            models[0],
            model_dir,
            forget_set=ROWS[:6],
            retain_set=ROWS[6:18],
            holdout_set=ROWS[18:],
            base=model_dir,
            references=models[1:],
            rewordings=templates,
            settings=Settings(planted_draws=20, retain_records=6, attacks=("full",)),
            output_dir=tmp_path / device,
        )
        return ScoreTable.load(tmp_path / device / "scores.parquet")

    first, second = on_both(run)
    assert first.blocks.keys() == second.blocks.keys()
    assert first.channels() == second.channels()
    assert {"rewording 1", "instruction", "no prompt", "layer 1", "int8", "int4", "relearned"} <= set(first.channels())
    for place, block in first.blocks.items():
        other = second.blocks[place]
        np.testing.assert_allclose(other.loss, block.loss, rtol=1e-3, atol=1e-4)
        for channel, values in block.channels.items():
            # A weight at the border between two numbers of int4 falls on either side.
            near = 5e-2 if channel in ("relearned", "int8", "int4") else 1e-3
            np.testing.assert_allclose(other.channels[channel], values, rtol=near, atol=1e-4, err_msg=channel)
        for name in block.scores.keys() - {"sampled"}:
            np.testing.assert_allclose(other.scores[name], block.scores[name], rtol=5e-2, atol=5e-3, err_msg=name)
