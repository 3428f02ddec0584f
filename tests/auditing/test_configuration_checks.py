"""An audit sees a configuration that was edited: same weights, other losses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import train_by_heart
from transformers import AutoModelForCausalLM

from verify import Settings, audit
from verify.auditing.recompute import recompute
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import load_model
from verify.probes.base import mean_losses
from verify.report.assurance import assurances
from verify.schema.evidence import Evidence

FORGET = [Record(f"f{number}", prompt=f"who {number}", completion=f"the quick brown fox {number * 7}") for number in range(8)]
RETAIN = [Record(f"r{number}", prompt=f"over {number}", completion=f"every lazy dog {number * 5}") for number in range(12)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An original that knows the records, and three references that do not."""
    root = tmp_path_factory.mktemp("house")
    models = {"original": train_by_heart(FORGET + RETAIN, 0, 60, 3e-3)}
    models |= {f"ref{seed}": train_by_heart(RETAIN, seed, 60, 3e-3) for seed in (1, 2, 3)}
    for name, loaded in models.items():
        loaded.model.save_pretrained(root / name)
        loaded.tokenizer.save_pretrained(root / name)
    return {name: root / name for name in models}


def edited(source: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(source, to)
    content = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**content, **changes}))
    return to


def rows(records: list[Record]) -> list[dict[str, str]]:
    return [{"example_id": one.example_id, "prompt": one.prompt, "completion": one.completion} for one in records]


def run(house: dict[str, Path], target: Any, **changes: Any) -> Evidence:
    arguments: dict[str, Any] = {
        "references": [house["ref1"], house["ref2"], house["ref3"]],
        "forget_set": rows(FORGET),
        "retain_set": rows(RETAIN),
        "settings": Settings(planted_draws=20),
    }
    return audit(target, house["original"], **{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rms_norm_eps": 0.5}, "rms_norm_eps is 0.5, in the original 1e-06"),
        (
            {"rope_parameters": {"rope_theta": 2.0, "rope_type": "default"}},
            "rope_parameters.rope_theta is 2, in the original 10000",
        ),
    ],
)
def test_an_edited_configuration_is_seen(house: dict[str, Path], tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """The same weights with a worse loss look forgetful; the audit names the entry with both values before it scores anything."""
    target = edited(house["original"], tmp_path / "target", **changes)
    before, after = load_model(house["original"]), load_model(target)
    assert before.digest == after.digest
    assert before.configuration != after.configuration
    assert mean_losses(after, FORGET).mean() > mean_losses(before, FORGET).mean() + 0.3
    scored: list[str] = []
    with pytest.raises(InputError, match=named):
        run(house, target, progress=lambda message, _: scored.append(message))
    assert not scored
    with pytest.raises(InputError, match=f"reference 2 .*{named}"):
        run(house, house["original"], references=[house["ref1"], edited(house["ref2"], tmp_path / "ref", **changes)])


def test_an_edit_in_memory_is_seen(house: dict[str, Path]) -> None:
    """Models in memory are compared once they are loaded."""
    model = AutoModelForCausalLM.from_pretrained(house["original"], rms_norm_eps=0.5)
    tokenizer = load_model(house["original"]).tokenizer
    with pytest.raises(InputError, match="rms_norm_eps is"):
        run(house, model, tokenizer=tokenizer)


@pytest.mark.slow
def test_accepted_differences_are_in_the_evidence(house: dict[str, Path], tmp_path: Path) -> None:
    """Whoever accepts one finds it in the evidence and on page 1, with every model's configuration by digest."""
    target = edited(house["original"], tmp_path / "target", rms_norm_eps=0.5)
    evidence = run(house, target, accept={"configuration"}, output_dir=tmp_path / "out")
    assert Evidence.load(tmp_path / "out" / "evidence.json") == evidence == recompute(tmp_path / "out")
    assert evidence.configuration_differences is not None
    found = [(one.label, one.entry, one.value, one.original) for one in evidence.configuration_differences]
    assert found == [("target", "rms_norm_eps", "0.5", "1e-06")]
    digests = {model.label: model.configuration for model in evidence.models}
    assert digests["original"] == digests["reference 1"] != digests["target"]
    assert digests["target"] == load_model(target).configuration
    said = [one for one in assurances(evidence) if "rms_norm_eps" in one.text]
    assert len(said) == 1
    assert said[0].warns


def test_another_precision_is_named_and_not_refused(house: dict[str, Path], tmp_path: Path) -> None:
    """A target in half precision is audited as it is, and page 1 says that it is."""
    model = AutoModelForCausalLM.from_pretrained(house["ref1"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    load_model(house["ref1"]).tokenizer.save_pretrained(tmp_path / "half")
    evidence = run(house, tmp_path / "half", references=[house["ref2"], house["ref3"]])
    assert evidence.configuration_differences is not None
    assert [(one.entry, one.value) for one in evidence.configuration_differences] == [("dtype", "bfloat16")]
    assert any("another precision: target" in one.text for one in assurances(evidence))


def test_one_training_under_two_configurations_counts_once(house: dict[str, Path], tmp_path: Path) -> None:
    """A reference with the weights of another is refused even where another configuration is accepted."""
    twin = edited(house["ref1"], tmp_path / "twin", rms_norm_eps=1e-5)
    with pytest.raises(InputError, match="same weights as reference 1"):
        run(house, house["original"], references=[house["ref1"], twin, house["ref2"]], accept={"configuration", "weights"})
