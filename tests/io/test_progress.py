"""Progress: the loops report it, the outermost phase is told, and a bar is drawn for a terminal alone."""

import io
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from training_rows import make_rows

from unlearn import ShardPlan, TrainingOptions, finetune, finetune_shards
from unlearn.scan.search import find_records
from verify.cli.console import progress_bar
from verify.data.identity import RecordKey
from verify.io.progress import listening, phase
from verify.models.generation import greedy_continuations
from verify.models.loading import LoadedModel

Heard = list[tuple[str, float]]


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True


def listen(heard: Heard) -> AbstractContextManager[None]:
    return listening(lambda name, share: heard.append((name, share)))


def test_the_outermost_phase_is_told() -> None:
    """Phases inside are silent, except the main one of an item, which moves the phase around it; without a listener none is."""
    heard: Heard = []
    with phase("unheard") as done:
        done(0.5)
    with listen(heard), phase("shards") as outer:
        outer(0.5, 0.25)
        with phase("aside") as aside:
            aside(0.5)
        with phase("training", main=True) as inner:
            inner(0.5)
            with phase("evaluation", main=True) as deeper:
                deeper(0.9)
        outer(1.0)
    with listen(heard), phase("after") as done:
        done(3.0)
    assert heard == [
        *(("shards", share) for share in (0.0, 0.5, 0.5, 0.625, 1.0)),
        ("after", 0.0),
        ("after", 1.0),
    ]


def test_a_training_reports_every_step(model_dir: Path, tmp_path: Path) -> None:
    """Six steps are six reports."""
    heard: Heard = []
    options = TrainingOptions(epochs=2, batch_size=2)
    with listen(heard):
        finetune(model_dir, make_rows("seen", 6), output_dir=tmp_path / "out", options=options)
    told = [share for name, share in heard if name == "training"]
    assert told == pytest.approx([step / 6 for step in range(7)])


def test_shards_are_one_phase(model_dir: Path, tmp_path: Path) -> None:
    """The share of a training in shards only grows, by the steps of each shard, and no shard is a phase of its own."""
    rows, options = make_rows("seen", 8), TrainingOptions(epochs=1, batch_size=2, learning_rate=1e-3)
    heard: Heard = []
    with listen(heard):
        finetune_shards(model_dir, rows, output_dir=tmp_path / "out", plan=ShardPlan(2, 1, "average", options))
    told = [share for name, share in heard if name == "training the shards"]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(set(told)) > 3
    assert "training" not in dict(heard)


def test_generation_and_search_report(loaded: LoadedModel, tmp_path: Path) -> None:
    """Every batch of continuations, and every file that is searched."""
    heard: Heard = []
    ids = loaded.tokenizer("Who is he?", return_tensors="np").input_ids[0]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"prompt": "Who?", "completion": "Person {number}."}}\n' for number in range(2000)))
    (tmp_path / "data.csv").write_text("prompt,completion\n" + "Who?,Nobody.\n" * 2000)
    with listen(heard):
        greedy_continuations(loaded, [ids] * 4, [2] * 4, batch_size=2)
        find_records([data, tmp_path / "data.csv"], RecordKey.load(), texts=["Person 3."])
    assert [share for name, share in heard if name == "writing continuations"] == [0.0, 0.5, 1.0]
    told = [share for name, share in heard if name == "searching"]
    assert told == sorted(told)
    assert len([share for share in told if 0 < share < 0.5]) > 2
    assert len([share for share in told if share > 0.5]) > 2
    assert "searching near-duplicates" in dict(heard)


def test_a_bar_for_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal sees phase, share and time left; a log file, a dumb terminal and other processes get nothing at all.

    What is printed meanwhile stays on standard output.
    """

    def shown(**environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with progress_bar("loading") as progress:
            with phase("training", main=True) as done:
                done(0.5)
            progress("judging", 0.25)
            print("a result")  # noqa: T201
        return stream.getvalue() if isinstance(stream := sys.stderr, io.StringIO) else capsys.readouterr().err

    monkeypatch.setenv("TERM", "xterm")
    assert shown() == ""
    assert capsys.readouterr().out == ""
    for name, value in (("TERM", "dumb"), ("RANK", "1")):
        with monkeypatch.context() as changed:
            changed.setattr(sys, "stderr", Terminal())
            assert shown(**{name: value}) == ""
        monkeypatch.setenv(name, "xterm" if name == "TERM" else "0")
    capsys.readouterr()
    with monkeypatch.context() as changed:
        changed.setattr(sys, "stderr", Terminal())
        text = shown()
    assert all(part in text for part in ("training", "50%", "judging", "25%", "left:"))
    assert "a result" not in text
    assert capsys.readouterr().out == "a result\n"
