"""Of the steps of a run the best is kept: forgotten as never trained, and still of use."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_rows import make_rows
from transformers import TrainerCallback

from unlearn import NPO, GradDiff, GradientAscent, TrainingOptions, finetune, forget
from unlearn.training.options import Selection
from unlearn.training.run import Run, run_objective
from unlearn.training.selection import Look, Selector
from unlearn.training.weights import mean_loss
from verify.data.records import Fields, Record, parse_records
from verify.errors import InputError
from verify.io.files import MANIFEST
from verify.models.digests import weights_digest
from verify.models.loading import load_model

FORGET, RETAIN, HOLDOUT = make_rows("gone", 6), make_rows("kept", 8), make_rows("never", 8)


def parsed(rows: Any) -> list[Record]:
    return parse_records(rows, Fields(), "records")


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows both sets nearly by heart."""
    folder = tmp_path_factory.mktemp("selection") / "model"
    options = TrainingOptions(learning_rate=5e-3, epochs=20, batch_size=7)
    return finetune(model_dir, FORGET + RETAIN, output_dir=folder, options=options).model_dir


def run(model: Path, work: Path, objective: Any, options: TrainingOptions, selection: Selection | None, **more: Any) -> Any:
    sets = {"retain": parsed(RETAIN), "utility": parsed(RETAIN), "holdout": parsed(HOLDOUT)}
    return run_objective(load_model(model), objective, Run(parsed(FORGET), options, work, selection=selection, **{**sets, **more}))


@pytest.mark.slow
def test_a_run_that_would_over_forget_stops_at_the_level(trained: Path, tmp_path: Path) -> None:
    """Without selection the forget loss ends far beyond that of never-trained records; with it, at that level, and earlier."""
    options = TrainingOptions(learning_rate=1e-3, epochs=40, batch_size=6)
    lenient = Selection(utility_floor=0.05, look_every=1)
    before = load_model(trained)
    level = mean_loss(before, parsed(HOLDOUT))
    objective = GradDiff(gamma=1.0)
    plain = run(trained, tmp_path / "plain", objective, options, None)
    chosen = run(trained, tmp_path / "chosen", objective, options, lenient)
    gone = parsed(FORGET)
    start, far, near = (
        mean_loss(replace(before, model=model), gone) for model in (load_model(trained).model, plain.model, chosen.model)
    )
    assert far > level + 0.5
    assert level - 0.35 * (level - start) < near < level + 0.06 * (level - start)
    assert chosen.result.steps < plain.result.steps
    assert "beyond the never-trained level" in chosen.result.stopped
    assert chosen.selection["selected_step"] < chosen.result.steps
    seen = {look["step"]: look for look in chosen.selection["looks"]}
    assert seen[chosen.selection["selected_step"]]["forget_loss"] == pytest.approx(near, abs=1e-6)


@pytest.mark.slow
def test_a_run_that_would_break_the_model_gives_the_step_before(trained: Path, tmp_path: Path) -> None:
    """Ascent that ruins everything: the result is the last step above the floor, bit by bit, and its utility is that."""
    options = TrainingOptions(learning_rate=1e-3, epochs=30, batch_size=6)
    chosen = run(trained, tmp_path / "chosen", GradientAscent(), options, Selection(look_every=1), holdout=None)
    step = chosen.selection["selected_step"]
    assert 0 < step < chosen.result.steps < 30
    assert "below the floor of 90%" in chosen.result.stopped
    utility = {look["step"]: look["utility"] for look in chosen.selection["looks"]}
    assert utility[step] >= 0.9 > utility[step + 1]
    until = run(trained, tmp_path / "until", GradientAscent(), replace(options, max_steps=step, scheduler="constant"), None)
    again = run(
        trained, tmp_path / "again", GradientAscent(), replace(options, scheduler="constant"), Selection(look_every=1), holdout=None
    )
    assert again.selection["selected_step"] == step
    assert weights_digest(again.model) == weights_digest(until.model)


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cut_off_and_begun_again(trained: Path, tmp_path: Path, lora: bool) -> None:
    """A run that is cut off, before its best step or after, goes on from its last checkpoint and ends with the same choice and the
    same weights."""
    begun: list[int] = []

    class Stop(TrainerCallback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begun.append(state.global_step)
            if state.global_step == self.step:
                raise KeyboardInterrupt

    rate = 1e-2 if lora else 1e-3
    options = TrainingOptions(learning_rate=rate, epochs=30, batch_size=3, save_steps=2, lora=lora)
    selection = Selection(look_every=2, utility_floor=0.5)
    whole = run(trained, tmp_path / "whole", GradientAscent(), options, selection, holdout=None)
    best, last = whole.selection["selected_step"], whole.result.steps
    assert 0 < best < last < 60
    for cut in (best - 1, last - 1):
        with pytest.raises(KeyboardInterrupt):
            run(trained, tmp_path / str(cut), GradientAscent(), options, selection, holdout=None, callbacks=[Stop(cut)])
        begun.clear()
        again = run(trained, tmp_path / str(cut), GradientAscent(), options, selection, holdout=None, callbacks=[Stop(-1)])
        assert begun[0] == cut - cut % options.save_steps
        assert again.selection == whole.selection
        assert weights_digest(again.model) == weights_digest(whole.model)
    ended = run(trained, tmp_path / "whole", GradientAscent(), options, selection, holdout=None)
    assert weights_digest(ended.model) == weights_digest(whole.model), "cut off between its end and its result"


def test_the_result_says_what_was_chosen(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that no step improves is left as it was, with a loud word; the manifest says why; unasked, nothing is selected."""
    sets = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT}
    wild = TrainingOptions(learning_rate=0.1, epochs=2, batch_size=6)
    result = forget(trained, GradientAscent(), **sets, output_dir=tmp_path / "wild", options=wild, selection=Selection())
    assert result.digest_after == result.digest_before
    assert "left unchanged" in capsys.readouterr().err
    about = json.loads((tmp_path / "wild" / MANIFEST).read_text())["about"]
    assert about["facts"]["selection"]["selected_step"] == 0
    assert about["selection"]["utility_floor"] == 0.9
    gentle = TrainingOptions(learning_rate=1e-6, epochs=1, batch_size=6)
    plain = forget(trained, NPO(), **sets, output_dir=tmp_path / "plain", options=gentle)
    assert "selection" not in plain.facts


def test_a_run_that_recovers_goes_on() -> None:
    """Below the floor, but better from look to look: the run goes on and its last step is kept; getting worse, it ends."""
    losses = iter([(1.0, 1.0), (1.5, 1.5), (1.8, 1.3), (2.0, 1.05), (2.1, 1.5), (2.2, 1.6)])
    selector = Selector(Selection(), lambda: next(losses), 2.0)

    network = torch.nn.Linear(1, 1)
    selector.begin(network)
    assert [selector.consider(step, network) for step in (1, 2, 3, 4)] == [None] * 4
    assert selector.best == Look(3, 2.0, pytest.approx(0.951, abs=1e-3))
    assert "below the floor" in str(selector.consider(5, network))


@pytest.mark.parametrize("bad", [{"utility_floor": 0.0}, {"utility_floor": 1.5}, {"look_every": -1}, {"look_records": 0}])
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    """Each is named with what is allowed."""
    with pytest.raises(InputError, match=f"--{next(iter(bad)).replace('_', '-')}"):
        Selection(**bad)
