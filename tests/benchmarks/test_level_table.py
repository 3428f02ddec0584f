"""The benchmark of the level table on real models: its design, its statistics, and one run on a tiny world."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from benchmarks.level_table.__main__ import made, missing_said
from benchmarks.level_table.audits import Judged, audits_of
from benchmarks.level_table.costs import costs_of
from benchmarks.level_table.levels import Pool, compare, joined, pair_up
from benchmarks.level_table.measure import BASE, _claimed, file_of, measure_world, read_scored
from benchmarks.level_table.packing import pack, unpack
from benchmarks.level_table.page import page
from benchmarks.level_table.stacked import stacked
from benchmarks.level_table.tables import Measured, regressions_of, rows_of
from benchmarks.level_table.trainings import folded_design, models_of, stacks_of
from benchmarks.level_table.worlds import DESIGN, NO_PROMPT, Sizes, World, measured_world
from unlearn import TrainingOptions
from unlearn.finetuning import finetune
from verify.data.encoding import Encoder
from verify.data.sources import load_records
from verify.errors import InputError
from verify.models.loading import load_model
from verify.probes.base import mean_losses
from verify.probes.logit_lens import layer_losses
from verify.statistics.channels import EXACT_TEXT

SUBJECTS, EACH, CONTROLS, MODELS = 60, 4, 40, 8


@pytest.mark.parametrize(("models", "folds"), [(8, 2), (8, 4)])
def test_folded_design(models: int, folds: int) -> None:
    """Every subject is left out of exactly models / folds, and the models leave out equally many; other counts are refused."""
    out = folded_design(20, models, folds, np.random.default_rng(0))
    assert out.shape == (models, 20)
    assert (out.sum(axis=0) == models // folds).all()
    assert (out.sum(axis=1) == 20 // folds).all()
    with pytest.raises(ValueError, match="cannot be divided"):
        folded_design(20, models + 1, folds, np.random.default_rng(0))


def simulated(
    noise: float, bias: float, seed: int
) -> tuple[Pool, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Draw a half pool, and an honest target 0.7 + 0.8 l whose forget records lie lower by a bias."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(SUBJECTS + CONTROLS), EACH)
    level = rng.normal(3.0, 0.5, len(subject))
    own = np.arange(len(subject)) < SUBJECTS * EACH
    out = folded_design(SUBJECTS, MODELS, 2, rng)[:, subject[own]]
    pool = level + rng.normal(0.0, 0.2, (MODELS, 1)) + noise * rng.standard_normal((MODELS, len(subject)))
    target = 0.7 + 0.8 * level + noise * rng.standard_normal(len(subject)) - bias * own
    unseen = np.flatnonzero(subject[own] < 20)
    made = Pool(np.where(out, pool[:, own], np.nan), pool[:, ~own])
    return made, (target[own], target[~own], unseen), subject[own], subject[~own] - SUBJECTS


def test_levels_without_noise() -> None:
    """A pool's own effects cancel, and the straight line of the controls predicts an honest target exactly."""
    pool, target, subjects, controls = simulated(0.0, 0.0, 1)
    pairs = pair_up(lambda _: [pool], [target], subjects, controls, seed=0)
    np.testing.assert_allclose(pairs.residual, 0.0, atol=1e-9)
    found = compare(pairs, 2.0)
    assert found.correlation.value == pytest.approx(1.0)
    assert found.slope.value == pytest.approx(0.8)
    assert found.control_slope == pytest.approx(0.8)
    assert (found.pairs, found.subjects) == (20 * EACH, 20)


def test_bias_is_found() -> None:
    """A bias that is planted in forget records lies within the interval about as often as the level says; none is invented."""
    covered = 0
    for seed in range(40):
        pool, target, subjects, controls = simulated(0.2, 0.3, seed)
        found = compare(pair_up(lambda _, pool=pool: [pool], [target], subjects, controls, seed=0), 2.0)
        covered += found.bias.low <= 0.15 <= found.bias.high
        assert found.bias.low > 0
        assert found.error.value > found.bias.value
    assert covered >= 33


def test_a_further_statistic_is_regressed_on() -> None:
    """A statistic on which the target depends lowers the error, where the losses alone leave it."""
    pool, target, subjects, controls = simulated(0.0, 0.0, 2)
    rng = np.random.default_rng(3)
    own, others = rng.normal(size=len(target[0])), rng.normal(size=len(target[1]))
    statistic = Pool(np.where(np.isnan(pool.losses), np.nan, own), np.tile(others, (MODELS, 1)))
    moved = (target[0] + own, target[1] + others, target[2])
    alone, both = (
        compare(pair_up(lambda _, used=used: used, [moved], subjects, controls, 0), 1.0) for used in ([pool], [pool, statistic])
    )
    assert alone.error.value > 0.5
    assert both.error.value == pytest.approx(0.0, abs=1e-9)


def rows(first: str, subjects: int) -> list[Mapping[str, str]]:
    """Two records each of some subjects."""
    return [
        {"prompt": f"{first} {n} {turn}?", "completion": f"dog {n * 37 % 100} lazy {turn}", "subject_id": f"{first}{n}"}
        for n in range(subjects)
        for turn in range(2)
    ]


@pytest.fixture(scope="module")
def tiny(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of ten subjects and two epochs, with every kind of model that needs no method."""
    return World(
        name="tiny",
        folder=tmp_path_factory.mktemp("level-table"),
        base=model_dir,
        rows=rows("fox", 10),
        controls=rows("quick", 8),
        options=TrainingOptions(learning_rate=1e-2, epochs=2, batch_size=8),
        treatment=TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=8),
        sizes=Sizes(half=4, quarter=4, sets=1, people=5, full=2, kept=1, treated=1),
        channels=(EXACT_TEXT, NO_PROMPT),
        layer=1,
        requests=(5,),
    )


@pytest.mark.slow
def test_tiny_world(tiny: World) -> None:
    """Every model is trained once, its losses are kept and its weights are not; the page has every part."""
    assert measure_world(tiny, 0.0) == len(list(models_of(tiny))), "no model is begun when the time is over"
    assert measure_world(tiny, 600.0) == 0
    names = [model.name for model in models_of(tiny)]
    times = {name: file_of(tiny, name).stat().st_mtime_ns for name in names}
    assert measure_world(tiny, 600.0) == 0
    assert times == {name: file_of(tiny, name).stat().st_mtime_ns for name in names}
    assert not list((tiny.folder / "work").iterdir())
    assert [path.name for path in (tiny.folder / "models").iterdir()] == ["original"]

    half = next(model for model in models_of(tiny) if model.kind == "half")
    losses = read_scored(tiny, half.name).own(NO_PROMPT)
    assert (np.isnan(losses) == ~half.left_out).all()
    measured = Measured(tiny)
    found, regressed = list(rows_of([measured])), list(regressions_of([measured], "half, M 4"))
    assert {(row.channel, row.predictor) for row in found} == {
        (channel, predictor)
        for channel in tiny.channels
        for predictor in ("half, M 2", "half, M 4", "quarter, M 4", "full retrainings, the others")
    }
    costs = list(costs_of(measured, "half, M 4", measured.pools()["half, M 4"], (1, 5)))
    assert costs[0].audit < costs[1].audit < costs[1].retraining
    text = page(found, regressed, {}, costs, "a machine")
    assert text.count("| exact text") == 4
    assert "loss + entropy" in text
    assert "| tiny | 20 |" in text


def test_audits_of_a_tiny_world(tiny: World) -> None:
    """Every target is audited by the table, and by references only where there are four; what was kept is known."""
    measure_world(tiny, 600.0)
    measured = Measured(tiny)
    audits = list(audits_of(measured, {"a pool": measured.pools()["half, M 4"]}, tiny.requests))
    assert [one.truth for one in audits].count("honest") == 2
    assert {one.truth: round(one.kept, 2) for one in audits} == {
        "honest": 0.0,
        "remembered evenly": 0.0,
        "a fifth of the records kept": 0.2,
        "a fifth of the subjects kept": 0.2,
        "untouched": 1.0,
    }
    untouched = next(one for one in audits if one.truth == "untouched")
    assert untouched.known == pytest.approx(1.0)
    assert all(one.first is None and one.second is None for one in audits)
    text = page([], [], {"tiny": audits}, [], "a machine")
    assert "| honest | 5 | 2 |" in text
    assert "| honest | 5 | 1 |" in text, "of the calibration: one target for the set"


def test_a_partial_world_is_called_one(tiny: World, tmp_path: Path) -> None:
    """A page says which models are missing, audits what needs no honest retraining, and counts each judge's audits."""
    measure_world(tiny, 600.0)
    tiny.write_design("a machine")
    pack([tiny.folder], tmp_path / "packed.zip")
    unpack(tmp_path / "packed.zip", tmp_path)
    world, _ = measured_world(tmp_path / tiny.folder.name)
    assert missing_said([Measured(world)]) == ""
    for number in range(2):
        file_of(world, f"full-0-{number}").unlink()
    partial = Measured(world)
    assert (
        missing_said([partial])
        == f"Not all models were trained: {len(partial.models)} of {len(partial.models) + 2} were. There are 0 of 2 of kind `full`."
    )
    assert "0 of 2 of kind `full`" in page([], [], {}, [], "a machine", missing_said([partial]))
    audits = list(audits_of(partial, {"a pool": partial.pools()["half, M 4"]}, world.requests))
    assert sorted(one.truth for one in audits) == ["a fifth of the records kept", "a fifth of the subjects kept", "untouched"]
    judged = replace(audits[0], known=0.2, first=Judged(True, False), second=Judged(True, False))
    text = page([], [], {"tiny": [audits[0], judged]}, [], "a machine")
    assert "| +0.20 .. +0.20 of 1 |" in text
    assert text.count("100.0 [2.5, 100.0] of 1 | 0.0 [0.0, 97.5] of 1") == 2, "rules 1 and 2, for one of two audits"
    assert text.count("100.0 [2.5, 100.0] / 0.0 [0.0, 97.5] of 1") == 2, "and in the calibration"


def test_joined_worlds() -> None:
    """Subjects and targets of two worlds are different ones, so that a bootstrap draws from both."""
    pool, target, subjects, controls = simulated(0.2, 0.0, 1)
    pairs = pair_up(lambda _: [pool], [target], subjects, controls, seed=0)
    both = joined([pairs, pairs])
    assert len(np.unique(both.subject)) == 2 * len(np.unique(pairs.subject))
    assert both.centre.shape == (2, 2 * len(pairs.level))
    alone, together = compare(pairs, 2.0), compare(both, 2.0)
    assert together.bias.value == pytest.approx(alone.bias.value)
    assert together.bias.high - together.bias.low < 0.85 * (alone.bias.high - alone.bias.low)


ADAPTER = TrainingOptions(
    lora=True, lora_rank=4, lora_alpha=8, learning_rate=1e-2, epochs=3, batch_size=4, warmup_ratio=0.1, weight_decay=0.1
)
"""Of the stacked trainings: 18 records make an incomplete last step in every epoch, and gradients are clipped."""


@pytest.mark.slow
def test_a_stack_trains_as_finetune_does(model_dir: Path, tmp_path: Path) -> None:
    """Models of a stack lose what `finetune` alone would make them lose, on every record and layer; the base stays as it was."""
    options = replace(ADAPTER, max_grad_norm=0.5)
    asked = load_records([dict(row) for row in rows("fox", 10)])
    seeds, parts = (3, 8), (asked[:18], asked[2:])
    loaded = load_model(model_dir)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    encoder = Encoder(loaded.tokenizer, loaded.context_length)
    with stacked(loaded, options, seeds) as stack:
        stack.train([encoder.encode(part) for part in parts], seeds)
        windows = encoder.encode(asked)
        found, deep = stack.losses(windows, len(asked)), stack.losses(windows, len(asked), layer=1)
    for number, (seed, part) in enumerate(zip(seeds, parts, strict=True)):
        data = [row for row in rows("fox", 10) if load_records([dict(row)])[0].fingerprint in {one.fingerprint for one in part}]
        folder = tmp_path / str(seed)
        finetune(str(model_dir), [dict(row) for row in data], output_dir=folder, options=replace(options, seed=seed))
        alone = load_model(folder)
        np.testing.assert_allclose(found[number], mean_losses(alone, asked), rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(deep[number], layer_losses(alone, asked, (1,))["layer 1"], rtol=2e-3, atol=2e-4)
    assert np.abs(found[0] - mean_losses(loaded, asked)).max() > 0.1, "the models were trained"
    after = loaded.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_stack_refuses_what_it_does_not_know(model_dir: Path) -> None:
    """Options that would train another model than `finetune` are refused, and nothing is left attached."""
    loaded = load_model(model_dir)
    for wrong in ({"lora": False}, {"lora_dropout": 0.1}, {"gradient_accumulation": 2}, {"optimizer": "sophia"}):
        with pytest.raises(ValueError, match="a stack trains"), stacked(loaded, replace(ADAPTER, **wrong), (0,)):  # type: ignore[arg-type]
            pass
    assert not [name for name, _ in loaded.model.named_modules() if "lora" in name]


@pytest.fixture
def stacking(tiny: World, tmp_path: Path) -> World:
    """The tiny world with adapters, three at once."""
    sizes = replace(tiny.sizes, treated=0)
    return replace(tiny, folder=tmp_path / "stacking", options=ADAPTER, stack=3, sizes=sizes)


@pytest.mark.slow
def test_a_stacked_world(stacking: World, tmp_path: Path) -> None:
    """Models are stacked with others of as many records; one that another process has is left to it; the numbers can be packed."""
    models = list(models_of(stacking))
    groups = [[model.name for model in stack] for stack in stacks_of(stacking, models)]
    assert sorted(name for group in groups for name in group) == sorted(model.name for model in models)
    assert all(len({model.left_out.sum() for model in stack}) == 1 for stack in stacks_of(stacking, models))
    assert ["original"] in groups
    assert max(map(len, groups)) == 3
    stacking.write_design("a machine")
    with _claimed(stacking, ["half-01", BASE]) as mine, _claimed(stacking, ["half-00", "half-01"]) as other:
        assert (mine, other) == (["half-01", BASE], ["half-00"])
    with _claimed(stacking, ["half-01"]):
        assert measure_world(stacking, 600.0) == 1, "another process has one model of a stack, and its companions are trained"
    assert measure_world(stacking, 600.0) == 0
    half = next(model for model in models if model.kind == "half")
    assert (np.isnan(read_scored(stacking, half.name).own(NO_PROMPT)) == ~half.left_out).all()
    assert [path.name for path in (stacking.folder / "models").iterdir()] == ["original"]
    pack([stacking.folder], tmp_path / "packed.zip")
    unpack(tmp_path / "packed.zip", tmp_path / "there")
    world, machine = measured_world(tmp_path / "there" / stacking.folder.name)
    assert [model.name for model in models_of(world)] == [model.name for model in models]
    assert all((one.left_out == other.left_out).all() for one, other in zip(models_of(world), models, strict=True))
    assert made([Measured(world)], machine) == made([Measured(stacking)], "a machine")


def test_packed_files_of_others(tmp_path: Path) -> None:
    """A file that is cut off, or holds something else or a path out of its folder, is refused; an empty folder is not packed."""
    with pytest.raises(InputError, match="no world was trained"):
        pack([], tmp_path / "none.zip")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="cut off"):
        unpack(tmp_path / "cut.zip", tmp_path / "there")
    for name in ("people/model.safetensors", f"../{DESIGN}", "people/losses/../../x.npz", "/people/losses/a.npz"):
        with ZipFile(tmp_path / "other.zip", "w") as packed:
            packed.writestr(name, "x")
        with pytest.raises(InputError, match="not written by pack"):
            unpack(tmp_path / "other.zip", tmp_path / "there")
    assert not (tmp_path / "there").exists()
