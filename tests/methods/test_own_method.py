"""A method in the user's own file is used like any other."""

import json
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn.methods.from_file import load_method
from verify.errors import InputError
from verify.models.loading import load_model

OWN = '''
from dataclasses import dataclass
from typing import ClassVar

from unlearn.training.method import Objective
from unlearn.training.scored_batch import score_both


@dataclass(frozen=True)
class Mine(Objective):
    """Ascend a little."""

    weight: float = 0.5
    idea: ClassVar[str] = "mine"
    paper: ClassVar[str] = "none"
    defaults: ClassVar[dict] = {"learning_rate": 1e-3, "epochs": 1.0, "batch_size": 2}

    def loss(self, model, batch, reference):
        forget, retain = score_both(model, batch)
        return retain.loss.mean() - self.weight * forget.loss.mean()


class NotOne:
    pass


@dataclass
class Empty:
    size: int = 1


@dataclass
class Abstract(Objective):
    size: int = 1


@dataclass
class Nameless(Objective):
    size: int = 1

    def loss(self, model, batch, reference):
        return 0.0


@dataclass
class Open(Objective):
    size: int

    def loss(self, model, batch, reference):
        return 0.0
'''
ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(8)]


def test_own_method_from_the_shell(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its parameters are flags; the manifest names it and them."""
    (tmp_path / "mine.py").write_text(OWN)
    for name, rows in (("forget", ROWS[:4]), ("retain", ROWS[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = unlearn.cli.main.main(
        [
            *("forget", "--method", f"{tmp_path / 'mine.py'}:Mine", "--weight", "0.25", "--model", str(model_dir)),
            *("--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl")),
            *("--output", str(tmp_path / "out"), "--no-select"),  # a model that knows nothing has no best step
        ]
    )
    assert status == 0, capsys.readouterr().err
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]
    assert about["method"] == "mine"
    assert about["parameters"] == {"weight": 0.25}
    assert about["options"]["learning_rate"] == 1e-3
    assert load_model(tmp_path / "out").digest != load_model(model_dir).digest


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("mine.py", "path/to/file.py:Class"),
        ("mine.py:not-a-name", "path/to/file.py:Class"),
        ("missing.py:Mine", "not a Python file"),
        ("mine.py:Absent", "no class"),
        ("mine.py:NotOne", "frozen dataclass"),
        ("mine.py:Empty", "none of the three kinds"),
        ("mine.py:Abstract", "none of the three kinds"),
        ("mine.py:Nameless", "lacks idea, paper"),
        ("mine.py:Open", "default"),
    ],
)
def test_what_is_no_method(tmp_path: Path, place: str, match: str) -> None:
    """Every mistake has its own message."""
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(InputError, match=match):
        load_method(str(tmp_path / place))
