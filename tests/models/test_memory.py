"""Memory: the least that a run needs is said before anything is loaded; a run that fits is never refused."""

from pathlib import Path
from typing import Any

import pytest

from unlearn import ShardPlan, TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods.npo import NPO
from unlearn.methods.task_vector import TaskVector
from verify import audit
from verify.errors import InputError
from verify.measures.robustness import probe
from verify.models import memory
from verify.models.loading import load_model
from verify.models.memory import StoredWeights, free_bytes, require_memory, stored_weights
from verify.reexecution.reexecute import reexecute


def _weights(folder: Path) -> int:
    return sum(parameter.numel() for parameter in load_model(folder).model.parameters())


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the free memory to a number of bytes."""
    return lambda value: monkeypatch.setattr(memory, "free_bytes", lambda device=None: value)


def test_the_size_is_read_from_the_headers(model_dir: Path, tmp_path: Path, rows: Any) -> None:
    """Of a folder, and of an adapter, whose base counts; None where there are no files."""
    count = _weights(model_dir)
    found = stored_weights(model_dir)
    assert found is not None
    assert found.count == count
    assert 4.0 <= found.item_bytes < 4.5  # with the headers of the file
    options = TrainingOptions(lora=True, epochs=1, batch_size=4)
    adapter = finetune(model_dir, rows("forget", 4), output_dir=tmp_path / "adapter", options=options).model_dir
    assert stored_weights(adapter) == found
    assert stored_weights("owner/name") is None
    assert stored_weights(load_model(model_dir)) is None
    assert found.loaded_bytes("bfloat16") == 2 * count
    assert StoredWeights(8, 4.0).loaded_bytes("auto", "4bit") == 4


def test_training_all_weights_needs_sixteen_bytes_for_each(model_dir: Path, tmp_path: Path, rows: Any, little: Any) -> None:
    """One byte less is refused with both figures before the output folder is made, and an adapter still fits."""
    count, records = _weights(model_dir), rows("forget", 4)
    options = TrainingOptions(epochs=1, batch_size=4)
    little(16 * count - 1)
    with pytest.raises(
        InputError, match=r"training all weights of .* needs at least 0\.0 GB .* Train an adapter instead \(--lora\)"
    ):
        finetune(model_dir, records, output_dir=tmp_path / "out", options=options)
    with pytest.raises(InputError, match="training all weights of"):
        forget(model_dir, NPO(), forget_set=records, retain_set=rows("retain", 4), output_dir=tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
    little(16 * count)
    finetune(model_dir, records, output_dir=tmp_path / "out", options=options)
    little(5 * count)
    lora = TrainingOptions(epochs=1, batch_size=4, lora=True)
    finetune(model_dir, records, output_dir=tmp_path / "adapter", options=lora)


def test_a_weight_edit_needs_both_models_and_no_moments(model_dir: Path, tmp_path: Path, rows: Any, little: Any) -> None:
    """A method that needs the base loads it beside the model."""
    count = _weights(model_dir)
    little(6 * count)
    with pytest.raises(InputError, match="needs at least"):
        forget(
            model_dir,
            TaskVector(),
            forget_set=rows("forget", 4),
            retain_set=rows("retain", 4),
            base=model_dir,
            output_dir=tmp_path / "o",
        )


def test_an_audit_needs_the_memory_of_one_model(model_dir: Path, rows: Any, little: Any) -> None:
    """Three models of which each fits are audited; one that does not fit is named."""
    count, records = _weights(model_dir), rows("forget", 6)
    little(5 * count)
    audit(model_dir, model_dir, forget_set=records)
    little(3 * count)
    with pytest.raises(InputError, match=rf"{model_dir.name} .* needs at least .* Load it in half precision"):
        audit(model_dir, model_dir, forget_set=records)


def test_probes_need_the_memory_of_all_models_they_hold(model_dir: Path, rows: Any, little: Any) -> None:
    """Original and base stay in memory beside the model that is probed; the message counts them."""
    little(3 * 4 * _weights(model_dir) - 1)
    models = {"model": model_dir, "original": model_dir, "references": [model_dir] * 2, "base": model_dir}
    with pytest.raises(InputError, match=rf"{model_dir.name} .* beside 2 other models needs at least .* GB are free"):
        probe(**models, forget_set=rows("forget", 4), retain_set=rows("retain", 4))


def test_shards_and_a_repetition_are_refused_before_anything_is_loaded(
    model_dir: Path, tmp_path: Path, rows: Any, little: Any
) -> None:
    """Training in shards, and the repetition of a deletion, which trains again: no folder and no proof is written."""
    count, records = _weights(model_dir), rows("forget", 4)
    little(4 * count - 1)
    plan = ShardPlan(2, 1, "average", TrainingOptions())
    with pytest.raises(InputError, match=r"training an adapter on .* needs at least"):
        finetune_shards(model_dir, records, output_dir=tmp_path / "shards", plan=plan)
    assert not (tmp_path / "shards").exists()
    little(16 * count - 1)
    with pytest.raises(InputError, match=r"training all weights of .* needs at least"):
        reexecute(model_dir, model_dir, data=records, forget_set=records[:1], output=tmp_path / "proof.json")
    assert not (tmp_path / "proof.json").exists()


def test_the_message_has_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory is below the machine's and above nothing; a system that does not say refuses nothing."""
    free = free_bytes("cpu")
    assert free is not None
    assert 1e6 < free < 1e15
    with pytest.raises(InputError, match=r"it needs at least 1000000\.0 GB of memory, and .* GB are free\. Do less\."):
        require_memory(1e15, "it", "Do less.", "cpu")
    monkeypatch.setattr(memory, "_system_bytes", lambda: None)
    monkeypatch.setattr(memory, "_group_bytes", lambda: None)
    require_memory(1e15, "it", "Do less.", "cpu")
