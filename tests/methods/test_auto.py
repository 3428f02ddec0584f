"""Auto stops where the audit certifies, falls back to the next method where it does not, and records its attempts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn import NPO, TrainingOptions, finetune, forget
from unlearn.methods.auto import Auto, _Attempts, _halves
from unlearn.methods.retrain import Retrain
from unlearn.training.log import LOG_NAME
from unlearn.training.shards import ShardPlan, finetune_shards
from verify.data.sources import load_records
from verify.errors import InputError, RunError
from verify.models.loading import load_model
from verify.schema.evidence import Evidence

ROWS = [
    {"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}.", "subject_id": f"s{n // 2}"}
    for n in range(24)
]
OPTIONS = TrainingOptions(learning_rate=5e-3, epochs=6, batch_size=4)
FORGET, RETAIN = ROWS[:8], ROWS[8:]


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original and three references."""
    folder = tmp_path_factory.mktemp("auto")
    finetune(model_dir, ROWS, output_dir=folder / "original", options=OPTIONS)
    for seed in (1, 2, 3):
        options = TrainingOptions(learning_rate=5e-3, epochs=6, batch_size=4, seed=seed)
        finetune(model_dir, RETAIN, output_dir=folder / f"reference{seed}", options=options)
    return folder


@pytest.fixture
def run_auto(world: Path, model_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(**parameters: Any) -> Any:
        references = parameters.pop("references", tuple(str(world / f"reference{seed}") for seed in (1, 2, 3)))
        auto = Auto(references=references, **parameters)
        return forget(world / "original", auto, forget_set=FORGET, data=ROWS, base=model_dir, output_dir=tmp_path / "out")

    return run


@pytest.mark.slow
def test_it_falls_back_to_the_exact_rebuild(run_auto: Callable[..., Any], tmp_path: Path) -> None:
    """Where no verdict certifies, the last attempt is retrain, and every attempt records why it was rejected."""
    result = run_auto(ladder=("gradient_ascent",))
    attempts = result.facts["rungs"]
    assert [attempt["method"] for attempt in attempts] == ["gradient_ascent", "retrain"]
    assert attempts[0]["verdict"] != "EQUIVALENT_WITHIN"
    assert attempts[0]["why"]
    assert "exactness" in attempts[1]
    assert (result.model_dir / LOG_NAME).exists(), "the next deletion can be exact as well"
    assert load_model(result.model_dir).digest == result.digest_after
    evidence = Evidence.load(tmp_path / "out" / "audit" / "evidence.json")
    assert evidence.verdict == attempts[1]["verdict"]
    assert result.facts["tuned_on_records"] == result.facts["judged_on_records"] == 4
    assert next(entry.records for entry in evidence.sets if entry.role == "forget") == 4
    assert not (tmp_path / "out" / "work").exists(), "models that hold the records are gone"


@pytest.mark.slow
def test_its_attempts_are_loaded_as_was_asked(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """A precision that is asked for is that of every attempt, and of the result."""
    result = forget(
        world / "original", Auto(), forget_set=FORGET, data=ROWS, base=model_dir, dtype="bfloat16", output_dir=tmp_path / "out"
    )
    assert {parameter.dtype for parameter in load_model(result.model_dir).model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_it_stops_at_a_satisfied_audit(run_auto: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the audit certifies, no further attempt is made; among tuned rates the one nearest to the references is judged."""
    monkeypatch.setattr(_Attempts, "_audit", lambda *_: ("EQUIVALENT_WITHIN", "certified"))
    seen: dict[str, float] = {}
    real = _Attempts._mean_loss

    def loss(self: _Attempts, folder: Path) -> float:
        seen[folder.name] = real(self, folder)
        return seen[folder.name]

    monkeypatch.setattr(_Attempts, "_mean_loss", loss)
    rates = (1.0, 10.0, 3.0)
    result = run_auto(ladder=("npo", "task_vector"), rates=rates, budget=9.0)
    (attempt,) = result.facts["rungs"]
    assert (attempt["method"], attempt["verdict"]) == ("npo", "EQUIVALENT_WITHIN")
    level = sum(seen[f"reference{seed}"] for seed in (1, 2, 3)) / 3
    distances = [abs(seen[f"npo-{number}"] - level) for number in range(len(rates))]
    assert len(set(distances)) == len(rates)
    assert attempt["rate_multiple"] == rates[distances.index(min(distances))]
    assert attempt["distance_on_the_tuning_half"] == pytest.approx(min(distances))
    assert result.facts["share_of_retraining_tokens"] > 0


@pytest.mark.slow
def test_without_references_it_is_exact_at_once(run_auto: Callable[..., Any]) -> None:
    """Nothing could judge an approximate attempt, so none is made."""
    (attempt,) = run_auto(references=()).facts["rungs"]
    assert attempt["method"] == "retrain"
    assert "too few" in attempt["why"]


@pytest.mark.slow
def test_the_budget_holds(run_auto: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What does not fit is not run, and says so; where nothing fits, there is no result."""
    monkeypatch.setattr(_Attempts, "_price", lambda *_: 0.4)
    result = run_auto(ladder=("npo",), rates=(1.0,), budget=0.5)
    assert result.facts["rungs"][-1]["outcome"].endswith("THE RESULT IS NOT EXACT")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(RunError, match="--budget"):
        run_auto(ladder=("npo",), budget=0.1)


@pytest.mark.slow
def test_the_users_options_hold_for_the_exact_attempt(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """Without a training log, the last attempt trains with the flags that were given, and not with defaults."""
    shutil.copytree(world / "original", tmp_path / "bare", ignore=shutil.ignore_patterns(LOG_NAME, "manifest.json"))
    options = TrainingOptions(learning_rate=2e-3, epochs=3, batch_size=4, seed=7)
    given = {"forget_set": FORGET, "data": ROWS, "base": model_dir, "options": options}
    by_auto = forget(tmp_path / "bare", Auto(), **given, output_dir=tmp_path / "auto")
    plain = forget(tmp_path / "bare", Retrain(), **given, output_dir=tmp_path / "plain")
    assert by_auto.digest_after == plain.digest_after


@pytest.mark.slow
def test_shards_that_answer_together_are_rebuilt_at_once(world: Path, model_dir: Path, tmp_path: Path) -> None:
    """Approximate methods cannot train several adapters; alone they say so, and auto skips them."""
    plan = ShardPlan(2, 1, "average", TrainingOptions(epochs=1, lora=True))
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "shards", plan=plan)
    references = tuple(str(world / f"reference{seed}") for seed in (1, 2, 3))
    given = {"forget_set": FORGET, "data": ROWS, "base": model_dir}
    result = forget(tmp_path / "shards", Auto(references=references), **given, output_dir=tmp_path / "out")
    assert [attempt["method"] for attempt in result.facts["rungs"]] == ["sisa"]
    with pytest.raises(InputError, match="Use sisa"):
        forget(tmp_path / "shards", NPO(), **given, output_dir=tmp_path / "npo")


def test_halves_share_nobody() -> None:
    """Every subject is in one half; together they are the forget set."""
    first, second = _halves(load_records(FORGET), seed=0)
    assert not {record.subject_id for record in first} & {record.subject_id for record in second}
    assert len(first) + len(second) == len(FORGET)


def test_bad_parameters(model_dir: Path, tmp_path: Path) -> None:
    """Unknown methods, no budget, one person, a model in memory: refused."""
    for bad in ({"ladder": ("nothing",)}, {"ladder": ("auto",)}, {"budget": 0.0}, {"rates": ()}):
        with pytest.raises(InputError):
            Auto(**bad)  # type: ignore[arg-type]
    loaded = load_model(model_dir)
    with pytest.raises(InputError, match="folder"):
        forget(
            loaded.model,
            Auto(),
            forget_set=FORGET,
            data=ROWS,
            base=model_dir,
            tokenizer=loaded.tokenizer,
            output_dir=tmp_path / "x",
        )
    with pytest.raises(InputError, match="two people"):
        forget(model_dir, Auto(), forget_set=FORGET[:2], data=ROWS, base=model_dir, output_dir=tmp_path / "y")
