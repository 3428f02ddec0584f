"""Options that a model leaves without an effect are refused: beside its adapter, and beside the training that a rebuild repeats."""

import json
import shlex
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn import TrainingOptions, finetune

FORGET = "--forget DATA --output NEW"
REBUILD = f"{FORGET} --data DATA --base BASE"
RETRAIN, AUTO = f"forget retrain {REBUILD}", f"forget auto {REBUILD}"
NO = "has no effect here:"
WITHOUT_EFFECT = [
    (f"{RETRAIN} --model WHOLE --epochs 2", f"--epochs {NO} WHOLE was trained with --max-steps 1, which is repeated. Leave it out"),
    (f"{AUTO} --model WHOLE --epochs 2", f"--epochs {NO} WHOLE was trained with --max-steps 1"),
    (f"{RETRAIN} --model WHOLE --lora-rank 4", "without --lora, which is repeated. Give --lora as well, or leave --lora-rank out."),
    (f"{RETRAIN} --model WHOLE --lora-targets q_proj", f"--lora-targets {NO} WHOLE was trained without --lora"),
    (f"{RETRAIN} --model BASE --lora-rank 4", f"--lora-rank {NO} nothing says that BASE was trained with --lora. Give --lora"),
    (f"{RETRAIN} --model WHOLE --warmup-ratio 0.1", "trained with --scheduler constant, which is repeated. Leave it out"),
    (f"{RETRAIN} --model WHOLE --keep-checkpoints 2", "trained without --save-steps"),
    (f"{RETRAIN} --model WHOLE --seed 0", f"--seed 0 {NO} the default leaves what WHOLE was trained with, --seed 3. Leave it out"),
    (f"{RETRAIN} --model ADAPTER --lora-rank 8", "trained with, --lora-rank 4. Leave it out, or give another value."),
    (f"{RETRAIN} --model ADAPTER --no-lora", f"--no-lora {NO} the default leaves what ADAPTER was trained with, --lora. Leave it"),
    (f"{AUTO} --model ADAPTER --lora-alpha=16", "trained with, --lora-alpha 4."),
    (f"forget npo --model ADAPTER {FORGET} --lora --lora-rank 4", f"--lora-rank {NO} ADAPTER is an adapter already"),
    (f"forget npo --model ADAPTER {FORGET} --lora --lora-alpha 4 --lora-rank 2", "--lora-rank, --lora-alpha have no effect here"),
    ("train --model ADAPTER --data DATA --output NEW --lora --lora-rank 8", "Leave it out, or give a model with whole weights"),
    ("train --model ADAPTER --data DATA --output NEW --shards 2 --lora-dropout 0.1", f"--lora-dropout {NO} ADAPTER is an adapter"),
]
WITH_EFFECT = [
    f"{RETRAIN} --model WHOLE --learning-rate 1e-2 --max-steps 2",
    f"{RETRAIN} --model WHOLE --lora --lora-rank 8",
    f"{RETRAIN} --model WHOLE --scheduler linear --warmup-ratio 0.1 --batch-size 2 --seed 4",
    f"{RETRAIN} --model ADAPTER --lora-rank 2 --lora --max-steps 1",
    f"forget npo --model ADAPTER {FORGET} --lora --epochs 2",
    f"forget npo --model WHOLE {FORGET} --lora --lora-rank 8",
    f"forget lora_negation --model WHOLE {FORGET} --retain DATA --lora-rank 8",
    f"forget sisa --model ADAPTER {REBUILD}",
    "train --model BASE --data DATA --output NEW --lora --lora-rank 8",
    "train --model ADAPTER --data DATA --output NEW --lora --epochs 1",
]


@pytest.fixture(scope="module")
def places(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model with whole weights and an adapter, both trained for one step with settings of their own."""
    root = tmp_path_factory.mktemp("fixed")
    rows = [{"example_id": f"{number}", "subject_id": f"{number}", "text": f"a b c {number}"} for number in range(4)]
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = {"max_steps": 1, "seed": 3}
    whole, adapter = TrainingOptions(scheduler="constant", **short), TrainingOptions(lora=True, lora_rank=4, lora_alpha=4, **short)
    for name, options in (("whole", whole), ("adapter", adapter)):
        finetune(str(model_dir), str(root / "data.jsonl"), output_dir=root / name, options=options)
    given = {"WHOLE": root / "whole", "ADAPTER": root / "adapter", "DATA": root / "data.jsonl", "BASE": model_dir}
    return {name: str(place) for name, place in given.items()}


def placed(text: str, places: dict[str, str], folder: Path) -> str:
    """A text with the paths in place of their names."""
    for name, place in {**places, "NEW": str(folder / "new")}.items():
        text = text.replace(name, place)
    return text


@pytest.mark.parametrize(("line", "said"), WITHOUT_EFFECT)
def test_an_option_that_the_model_leaves_without_effect_is_refused(
    line: str, said: str, places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, what the model was trained with, and what to type; nothing is written."""
    assert unlearn.cli.main.main(shlex.split(placed(line, places, tmp_path))) == 2
    assert placed(said, places, tmp_path) in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("line", WITH_EFFECT)
def test_an_option_that_changes_the_training_is_accepted(
    line: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those reach the method or the training."""
    reached = []
    monkeypatch.setattr("unlearn.forgetting.forget", lambda *_, **__: reached.append(1) or _refuse())
    monkeypatch.setattr("unlearn.finetuning.finetune", lambda *_, **__: reached.append(1) or _refuse())
    assert unlearn.cli.main.main(shlex.split(placed(line, places, tmp_path))) != 0
    assert reached


def _refuse() -> None:
    raise KeyboardInterrupt
