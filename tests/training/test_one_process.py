"""What runs in one process says so at once, and what to type instead."""

from pathlib import Path
from typing import Any

import pytest
from training_rows import make_rows

from unlearn import TrainingOptions, forget
from unlearn.methods import method_classes
from unlearn.training.method import Rebuild
from unlearn.training.shards import ShardPlan, finetune_shards
from verify import InputError

ALONE = [name for name, kind in method_classes().items() if isinstance(kind(), Rebuild) and name != "retrain"]


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a launcher says it."""
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_rollback_and_shards_are_among_them() -> None:
    """The methods that replay a log, or climb a ladder that ends with one, are rebuilds."""
    assert {"rollback", "sisa", "auto"} <= set(ALONE)


@pytest.mark.parametrize("name", ALONE)
def test_rebuilds_refuse_several_processes(name: str, model_dir: Path, tmp_path: Path, two_processes: None) -> None:
    """The refusal names the method and the launchers to leave out, before anything is loaded or written."""
    method: Any = method_classes()[name]()
    with pytest.raises(InputError, match=rf"{name} runs in one process\. Start it without torchrun or accelerate launch"):
        forget(model_dir, method, forget_set=make_rows("gone", 2), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_in_shards_refuses_several_processes(model_dir: Path, tmp_path: Path, two_processes: None) -> None:
    """Likewise."""
    plan = ShardPlan(2, 1, "average", TrainingOptions())
    with pytest.raises(InputError, match="sharded training runs in one process"):
        finetune_shards(model_dir, make_rows("seen", 4), output_dir=tmp_path / "out", plan=plan)
    assert not (tmp_path / "out").exists()
