"""The forget part of a gradient is projected against the retain part, or keeps moments of its own, as its options say."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_rows import make_rows
from transformers import TrainerCallback

from unlearn import FLAT, NPO, SCRUB, GradDiff, GradientOptions, Level, Retrain, TrainingOptions, forget
from unlearn.training.gradients import DividedGradient, SeparateMoments, projected
from unlearn.training.method import Objective
from unlearn.training.run import Run, run_objective
from unlearn.training.scored_batch import score
from verify.data.records import Fields, parse_records
from verify.errors import InputError
from verify.io.files import MANIFEST
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities

FORGET, RETAIN = make_rows("gone", 6), make_rows("kept", 6)
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=2)
BOTH = GradientOptions(project_gradients="conflict", separate_moments=True)


def run(model: Path, work: Path, objective: Objective, gradients: GradientOptions | None, **options: Any) -> Any:
    """Run an objective on the tiny model; return the model."""
    callbacks = options.pop("callbacks", ())
    forget_set, retain_set = (parse_records(rows, Fields(), "records") for rows in (FORGET, RETAIN))
    chosen = dataclasses.replace(OPTIONS, **options)
    made = Run(forget_set, chosen, work, retain=retain_set, gradients=gradients, callbacks=callbacks)
    return run_objective(load_model(model), objective, made).model


def test_projection_by_hand() -> None:
    """Against opposing gradients the common component goes, over all weights or tensor by tensor; agreeing ones stay, or do not."""
    retain = [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]

    def of(how: str, first: list[float], second: list[float]) -> list[list[float]]:
        made = [torch.tensor(first), torch.tensor(second)]
        projected(made, retain, how)
        return [part.tolist() for part in made]

    assert of("never", [-3.0, 1.0], [0.5]) == [[-3.0, 1.0], [0.5]]
    # The product is -3 + 1 = -2 and the square of the retain gradient 5: -2/5 of it is taken out.
    assert of("conflict", [-3.0, 1.0], [0.5]) == [pytest.approx([-2.6, 1.0]), pytest.approx([1.3])]
    assert of("conflict", [3.0, 1.0], [0.5]) == [[3.0, 1.0], [0.5]]
    assert of("always", [3.0, 1.0], [0.5]) == [[0.0, 1.0], [0.0]]
    zero = [torch.tensor([3.0, 1.0])]
    projected(zero, [torch.zeros(2)], "always")
    assert zero[0].tolist() == [3.0, 1.0], "a retain gradient of zero takes nothing out"


def test_moments_by_hand() -> None:
    """With one part alone it is AdamW; with two, a part a thousand times larger takes no larger step of its own."""
    torch.manual_seed(0)
    weight, twin = (torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
    part: dict[str, torch.Tensor | None] = {"forget": None}
    ours = SeparateMoments([weight], lambda _: part["forget"], lr=0.1, weight_decay=0.05)
    theirs = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.05)
    for _ in range(5):
        weight.grad = torch.randn(2, dtype=torch.float64)
        twin.grad = weight.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(weight.detach(), twin.detach())
    single = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    apart = SeparateMoments([single], lambda _: part["forget"], lr=0.1)
    part["forget"] = torch.tensor([1000.0], dtype=torch.float64)
    single.grad = part["forget"] - 1.0
    apart.step()
    assert single.item() == pytest.approx(0.0, abs=1e-6), "the first step of both is the rate, in opposite directions"


def test_the_retain_loss_stays_to_first_order(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With "always" the forget part that a step takes is orthogonal to the retain part in every weight tensor; else it is not."""
    cosines: dict[str, list[float]] = {"never": [], "always": []}
    join = DividedGradient.join

    def watched(self: DividedGradient) -> None:
        retain = [None if part is None else part.clone() for part in self._retain]
        join(self)
        for parameter, part in zip(self.parameters, retain, strict=True):
            own = self.forget[id(parameter)]
            if part is not None and part.norm() > 0 and own.norm() > 0:
                cosines[self.options.project_gradients].append(abs(float((own * part).sum() / own.norm() / part.norm())))

    monkeypatch.setattr(DividedGradient, "join", watched)
    run(model_dir, tmp_path / "1", NPO(), GradientOptions(separate_moments=True))
    run(model_dir, tmp_path / "2", NPO(), GradientOptions(project_gradients="always"))
    assert max(cosines["always"]) < 1e-3 < 0.2 < max(cosines["never"])


def test_the_defaults_change_nothing(model_dir: Path, tmp_path: Path) -> None:
    """Options that add both parts are the run without options, bit for bit, and so is the folder that it resumes in."""
    digests = [weights_digest(run(model_dir, tmp_path / str(n), NPO(), given)) for n, given in enumerate((None, GradientOptions()))]
    assert digests[0] == digests[1]
    run(model_dir, tmp_path / "0", NPO(), GradientOptions())  # the same run, which it may resume
    with pytest.raises(InputError, match="unfinished run with other settings"):
        run(model_dir, tmp_path / "0", NPO(), BOTH)


def test_accumulation_changes_nothing(model_dir: Path, tmp_path: Path) -> None:
    """A step of one batch and of two microbatches is the same step, and another one than without the options."""
    objective = GradDiff(gamma=0.2)
    whole = run(model_dir, tmp_path / "whole", objective, BOTH, batch_size=2)
    halves = run(model_dir, tmp_path / "halves", objective, BOTH, batch_size=1, gradient_accumulation=2)
    plain = run(model_dir, tmp_path / "plain", objective, None, batch_size=2)
    for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)
    assert any(not torch.allclose(one, other, atol=1e-4) for one, other in zip(whole.parameters(), plain.parameters(), strict=True))


def test_steps_on_forget_records_alone(model_dir: Path, tmp_path: Path) -> None:
    """Where a step reads no retain records, as every other one of SCRUB, there is nothing to project against."""
    made = run(model_dir, tmp_path, SCRUB(ascent_epochs=1), BOTH)
    assert all(parameter.isfinite().all() for parameter in made.parameters())
    assert weights_digest(made) != load_model(model_dir).digest


class _Stop(TrainerCallback):
    """Ends a run after its fourth step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_resumes(dropout_dir: Path, tmp_path: Path) -> None:
    """Moments of both parts are in the checkpoint: the weights are those of an undisturbed run, bit for bit, with dropout too."""
    whole = run(dropout_dir, tmp_path / "whole", NPO(), BOTH, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        run(dropout_dir, tmp_path / "resumed", NPO(), BOTH, save_steps=2, callbacks=[_Stop()])
    resumed = run(dropout_dir, tmp_path / "resumed", NPO(), BOTH, save_steps=2)
    assert weights_digest(resumed) == weights_digest(whole)


def test_manifest_and_adapter(model_dir: Path, tmp_path: Path) -> None:
    """`forget` names the options in the manifest, and takes them for an adapter as well; without them the manifest is as before."""
    made = [
        forget(
            model_dir,
            NPO(),
            forget_set=FORGET,
            retain_set=RETAIN,
            output_dir=tmp_path / str(number),
            options=TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, lora=True),
            gradients=given,
        )
        for number, given in enumerate((BOTH, GradientOptions()))
    ]
    about = [json.loads((one.model_dir / MANIFEST).read_text())["about"] for one in made]
    assert about[0]["gradients"] == {"project_gradients": "conflict", "separate_moments": True}
    assert "gradients" not in about[1]
    assert about[0]["training"]["tokens"] == 2 * about[1]["training"]["tokens"], "the second pass is counted"
    assert made[0].digest_after != made[1].digest_after


def test_level_takes_them(model_dir: Path, tmp_path: Path) -> None:
    """The steps of `level` read them as well, weight penalty included."""
    settings = Level(sources=("controls",))
    holdout = make_rows("never", 12)
    sets = {"forget_set": FORGET, "retain_set": make_rows("kept", 18), "holdout_set": holdout}
    options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2)
    made = [
        forget(model_dir, settings, output_dir=tmp_path / str(number), options=options, gradients=given, **sets).digest_after
        for number, given in enumerate((None, BOTH))
    ]
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (Retrain(), TrainingOptions(), "takes no such steps"),
        (FLAT(), TrainingOptions(), "takes no such steps"),
        (NPO(), TrainingOptions(optimizer="sophia"), "--optimizer sophia"),
    ],
    ids=["rebuild", "no retain set", "sophia"],
)
def test_refused(model_dir: Path, tmp_path: Path, method: Any, options: TrainingOptions, said: str) -> None:
    """Where there are no two parts, or no moments of AdamW, nothing is trained."""
    with pytest.raises(InputError, match=said):
        forget(
            model_dir,
            method,
            forget_set=FORGET,
            retain_set=RETAIN,
            base=model_dir,
            output_dir=tmp_path,
            options=options,
            gradients=BOTH,
        )


class _ByItself(Objective):
    """An objective that calls the model itself, on some of its records, with or without a gradient."""

    idea = paper = "an objective that calls the model itself"

    def __init__(self, itself: str, gradient: bool = True) -> None:
        self.itself, self.gradient = itself, gradient

    def __repr__(self) -> str:
        return self.itself

    def loss(self, model: Any, batch: Any, reference: Any) -> torch.Tensor:
        parts = {"forget": batch.forget, "retain": batch.require_retain()}
        with torch.set_grad_enabled(self.gradient):
            own = [-scored_log_probabilities(model, parts.pop(role))[0].mean() for role in self.itself.split()]
        return sum((scores.loss.mean() for scores in (score(model, *parts.values()) if parts else ())), sum(own))


@pytest.mark.parametrize("itself", ["forget", "retain", "forget retain"])
def test_outputs_from_elsewhere_are_refused(model_dir: Path, tmp_path: Path, itself: str) -> None:
    """An objective some of whose outputs cannot be held constant is not divided wrongly, but refused."""
    with pytest.raises(InputError, match="scored_batch"):
        run(model_dir, tmp_path, _ByItself(itself), BOTH)


def test_outputs_without_a_gradient_may_come_from_anywhere(model_dir: Path, tmp_path: Path) -> None:
    """What has no gradient is part of neither: it is divided as the rest is."""
    one, other = (
        run(model_dir, tmp_path / str(n), _ByItself("forget", gradient=False), given) for n, given in enumerate((BOTH, None))
    )
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
