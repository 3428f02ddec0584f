"""Command lines that are wrong in their values and paths: one sentence with status 2, no traceback, and nothing is written."""

import json
import shlex
from pathlib import Path

import pytest

import unlearn.cli.main
import verify.cli.main

PROGRAMS = {"unlearn": unlearn.cli.main, "verify": verify.cli.main}
TRAIN = "unlearn train --model MODEL --data DATA --output NEW --max-steps 1"
WRONG = [
    (f"{TRAIN} --seed 99999999999999999999999", "--seed must be at most 4294967295, got 99999999999999999999999."),
    ("unlearn demo --output NEW --seed 4294967296", "--seed must be at most 4294967295"),
    (
        "unlearn sweep --model MODEL --forget DATA --retain DATA --grid g --output NEW --seeds 0 5000000000",
        "--seeds must be at most",
    ),
    ("verify audit --model m --original o --forget f --output NEW --seed 5000000000", "--seed must be at most"),
    (f"unlearn forget rmu --forget f --model m --output NEW --direction-seed {2**40}", "--direction-seed must be at most"),
    ("unlearn reproduce MODEL --output NEW --tolerance nan", "--tolerance must be a finite number, got nan."),
    ("unlearn reproduce MODEL --output NEW --tolerance -1", "--tolerance must be 0 or more, got -1.0."),
    ("verify power --forget 10 --gap nan", "--gap must be a finite number, got nan."),
    ("verify power --forget 10 --record-spread inf", "--record-spread must be a finite number"),
    ("verify power --forget -3", "--forget must be 0 or more, got -3."),
    *(
        (f"unlearn scan --data DATA {given}", f"{said} cannot all be read from standard input, which has one end. Give - to one")
        for given, said in (
            ("--subjects - --ids -", "--subjects and --ids"),
            ("--texts - --subjects -", "--subjects and --texts"),
            ("--subjects - --ids - --texts -", "--subjects and --ids and --texts"),
        )
    ),
    ("unlearn plan-shards --shards 4 -1", "--shards must be 0 or more, got -1."),
    ("verify reexecute --model m --base b --data d --forget f --output NEW --segments 0", "--segments must be 1 or more, or all"),
    ("verify backdoor --model m --original o --references r --triggers t --alpha 5", "--alpha must lie between 0 and 1, got 5"),
    (TRAIN.replace("NEW", "/proc/none/model"), "/proc/none cannot be used: "),
    (TRAIN.replace("NEW", "MODEL/below"), "lies in the folder of a finished model"),
    ("verify audit --model m --original o --forget f --output NEW --canaries FOLDER", "FOLDER cannot be read (Is a directory)."),
    ("unlearn check-dataset DATA --suppression FOLDER/none", "is not a file. Name the suppression list"),
    ("unlearn suppress DATA --suppression FOLDER", "is not a file. Name the suppression list"),
    (
        "unlearn replay-suppression --search FOLDER/none --suppression NEW.list --ledger NEW.db",
        "is not a folder. Name folders that exist",
    ),
    ("unlearn check-dataset --suppression FOLDER/none", "name the data sets: unlearn check-dataset FILE"),
    ("unlearn request approve", "name the requests: unlearn request approve ID"),
    ("verify compare --output NEW", "name the audits: verify-unlearning compare DIR"),
    ("verify report FOLDER", "Give the folder that `verify-unlearning audit` wrote."),
    ("verify annex FOLDER --output NEW", "Give the folder that `verify-unlearning audit` wrote."),
]


@pytest.fixture(scope="module")
def places(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A finished model, its data, and an empty folder."""
    root = tmp_path_factory.mktemp("wrong")
    rows = [{"example_id": f"{number}", "subject_id": f"{number}", "text": f"a b c {number}"} for number in range(4)]
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "folder").mkdir()
    command = [
        "train",
        "--model",
        str(model_dir),
        "--data",
        str(root / "data.jsonl"),
        "--output",
        str(root / "model"),
        "--max-steps",
        "1",
    ]
    assert unlearn.cli.main.main(command) == 0
    return {"MODEL": str(root / "model"), "DATA": str(root / "data.jsonl"), "FOLDER": str(root / "folder")}


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_a_wrong_invocation_is_answered_in_a_sentence(
    line: str, said: str, places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was given and what is allowed; nothing is written to the new output."""
    for name, place in {**places, "NEW": str(tmp_path / "new")}.items():
        line, said = line.replace(name, place), said.replace(name, place)
    program, *words = shlex.split(line)
    assert PROGRAMS[program].main(words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("new/*")), "an empty folder may have been claimed"
    assert not (tmp_path / "new").is_file()
