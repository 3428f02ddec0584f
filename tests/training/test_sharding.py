"""Models in parts on several processes are measured, chosen, saved and taken up again like whole ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import sharded_run
import torch
from accelerate.commands.config.config_args import load_config_from_file
from new_processes import in_processes

from unlearn.cli.main import main
from unlearn.training.fsdp import CONFIGURATIONS, configuration, gathered
from verify.errors import InputError
from verify.models.loading import load_model
from verify.training.sharding import is_sharded, local, put


def seen_by(processes: int, model_dir: Path, output: Path) -> dict[str, Any]:
    """Run the sharded training in a number of processes and return what they saw."""
    output.mkdir()
    in_processes(processes, sharded_run.main, model_dir, output)
    return dict(json.loads((output / "seen.json").read_text()))


@pytest.mark.slow
def test_two_processes_with_half_a_model_each(model_dir: Path, tmp_path: Path) -> None:
    """FSDP2: losses of one process to 1e-5, weights to 2e-5; digest, model, adapter, checkpoint, selection as if whole."""
    one, two = (seen_by(count, model_dir, tmp_path / str(count)) for count in (1, 2))
    assert two["start"] == two["stored"] == one["start"], "the digest does not depend on how weights are spread"
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    first, second = (load_model(tmp_path / str(count) / "model").model.state_dict() for count in (1, 2))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-5
    assert load_model(tmp_path / "2" / "model").digest == two["end"]
    assert two["resumed"] == two["end"] != two["middle"], "taken up from a checkpoint in parts"
    assert two["chosen"] == two["middle"], "each process put back its own part of the best step"
    assert two["put back"] == two["stored"], "kept whole, put back into parts"
    assert load_model(tmp_path / "2" / "rounded").digest == two["rounded"] == one["rounded"], "rounded in parts as if whole"
    assert load_model(tmp_path / "2" / "rounded").model.dtype == torch.bfloat16
    assert load_model(tmp_path / "2" / "adapter", base=model_dir).digest == two["adapter"] == two["adapter whole"]


def test_a_whole_model_is_its_own_part(model_dir: Path) -> None:
    """In one process nothing lies in parts: what is held is all, a copy, and goes back."""
    model = load_model(model_dir).model
    assert not is_sharded(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in gathered(model).items())
    parameter = model.model.norm.weight
    before = local(parameter)
    with torch.no_grad():
        parameter.zero_()
    assert before.abs().sum() > 0
    put(parameter, before, kept_whole=True)
    assert torch.equal(parameter, before)


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read(path: Path) -> None:
    """Accelerate reads every shipped file, and finds in it what its name says."""
    found = load_config_from_file(str(path))
    if path.stem.startswith("fsdp2"):
        assert found.distributed_type.value == "FSDP"
        assert (found.fsdp_config["fsdp_version"], found.fsdp_config["fsdp_state_dict_type"]) == (2, "SHARDED_STATE_DICT")
    else:
        assert found.distributed_type.value == "DEEPSPEED"
        assert found.deepspeed_config["zero_stage"] == 2


def test_the_command_prints_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    """For `accelerate launch --config_file`; an unknown name is answered with those that there are."""
    assert main(["launch-config", "fsdp2"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    with pytest.raises(InputError, match="deepspeed_zero2, fsdp2"):
        configuration("fsdp9")
