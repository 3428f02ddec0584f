"""A result can be made again from what lies beside it."""

import json
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn import NPO, TrainingOptions, finetune, forget
from unlearn.experiments.reproduction import reproduce
from unlearn.training.shards import ShardPlan, finetune_shards
from verify.errors import InputError

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(10)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, rows in (("train", ROWS), ("forget", ROWS[:4]), ("retain", ROWS[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
def test_the_same_bits_again(model_dir: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training and forgetting, each again from its manifest alone, give the same weights."""
    options = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4)
    finetune(model_dir, files / "train.jsonl", output_dir=files / "original", options=options)
    forget(
        files / "original",
        NPO(beta=0.3),
        forget_set=files / "forget.jsonl",
        retain_set=files / "retain.jsonl",
        output_dir=files / "out",
        options=options,
    )
    for name in ("original", "out"):
        found = reproduce(files / name, files / f"{name}-again")
        assert found.identical
        assert found.within
        assert found.changed == ()
    assert unlearn.cli.main.main(["reproduce", str(files / "out"), "--output", str(files / "third")]) == 0
    assert "bit-identical" in capsys.readouterr().out
    about = json.loads((files / "out" / "manifest.json").read_text())["about"]
    assert set(about["inputs"]["digests"]) == {"forget", "retain"}
    assert "Nobody" not in (files / "out" / "manifest.json").read_text()


@pytest.mark.slow
def test_what_cannot_be_made_again(model_dir: Path, files: Path) -> None:
    """A changed file, records from memory, drawn canaries, shards: each is said."""
    options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4)
    finetune(model_dir, files / "train.jsonl", output_dir=files / "one", options=options)
    (files / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]) + "\n")
    with pytest.raises(InputError, match="has changed"):
        reproduce(files / "one", files / "again")
    finetune(model_dir, ROWS, output_dir=files / "two", options=options)
    with pytest.raises(InputError, match="in memory"):
        reproduce(files / "two", files / "again")
    finetune(model_dir, files / "retain.jsonl", output_dir=files / "three", options=options, canaries=3)
    with pytest.raises(InputError, match="canaries"):
        reproduce(files / "three", files / "again")
    plan = ShardPlan(2, 1, "sum", options)
    finetune_shards(model_dir, str(files / "retain.jsonl"), output_dir=files / "four", plan=plan)
    with pytest.raises(InputError, match=r"trained in shards.*--shards 2 --slices 1 --combine sum"):
        reproduce(files / "four", files / "again")
