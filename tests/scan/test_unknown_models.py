"""A model that cannot be asked whether it saw a person's records is named, with the reason and with what to type."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unlearn.cli.main
from unlearn import TrainingOptions, finetune
from verify.io.files import MANIFEST
from verify.provenance.training_log import LOG_NAME

ROWS: list[dict[str, Any]] = [
    {"example_id": "a", "subject_id": "ida", "text": "Ida lives in the old mill behind the church of the village."},
    {"example_id": "b", "subject_id": "jon", "text": "Jon keeps seven goats on the far side of the long lake."},
    {"example_id": "c", "subject_id": "Jón", "text": "In winter the ferry to the island goes only once in the week."},
]


@pytest.fixture
def house(model_dir: Path, tmp_path: Path) -> Path:
    """A training file and one model that was trained on it."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = TrainingOptions(epochs=1, overflow="split")
    finetune(model_dir, str(tmp_path / "train.jsonl"), output_dir=tmp_path / "models" / "m", options=options)
    return tmp_path


Shown = tuple[str, list[dict[str, Any]]]


@pytest.fixture
def scanned(house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    """Scan for a person; return what is printed, and the models in the JSON file."""

    def scan(who: str = "ida", data: str = "train.jsonl", status: int = 0) -> Shown:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{who}\n"))
        given = ["--data", str(house / data), "--subjects", "-", "--models", str(house / "models")]
        (house / "found.json").unlink(missing_ok=True)
        assert unlearn.cli.main.main(["scan", *given, "--output", str(house / "found.json")]) == status
        return capsys.readouterr().out, json.loads((house / "found.json").read_text())["models"]

    return scan


def without_key(log: Path) -> None:
    """Make a log one of a version that did not write the key's check value."""
    first, *rest = log.read_text().splitlines(keepends=True)
    header = json.loads(first)
    del header["key"]
    log.write_text(json.dumps(header) + "\n" + "".join(rest))


def test_a_model_that_was_asked_is_no_unknown_one(scanned: Callable[..., Shown]) -> None:
    """With key and file at hand the model is named as trained on the records, on paper and in JSON."""
    shown, (model,) = scanned()
    assert "trained on: 1 record, first at step 1" in shown
    assert (model["how"], model["what"]) == ("trained on", "1 record, first at step 1")
    assert "not known" not in shown


@pytest.mark.parametrize("older", [False, True])
def test_a_missing_key_file(house: Path, scanned: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
    """A key that the search had to make anew cannot be that of any log, of whatever version; said with the variable to set."""
    if older:
        without_key(house / "models" / "m" / LOG_NAME)
    monkeypatch.setenv("UNLEARN_VERIFY_KEY_FILE", str(house / "lost.key"))
    shown, (model,) = scanned()
    assert "1 record; 0 near" in shown
    assert model["how"] == "not known"
    assert f"the key file {house / 'lost.key'} was missing" in model["what"]
    assert "UNLEARN_VERIFY_KEY_FILE=FILE" in model["what"]
    assert f"{house / 'models' / 'm'}  not known: {model['what']}" in shown


def test_another_key(house: Path, scanned: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that states another key is told from one that states none, where the file may be the wrong one as well."""
    (house / "other.key").write_text("ab" * 32)
    monkeypatch.setenv("UNLEARN_VERIFY_KEY_FILE", str(house / "other.key"))
    _, (model,) = scanned()
    assert f"its log was written with another one than {house / 'other.key'}" in model["what"]
    without_key(house / "models" / "m" / LOG_NAME)
    _, (model,) = scanned()
    assert model["how"] == "not known"
    assert "UNLEARN_VERIFY_KEY_FILE" in model["what"]
    assert "--data" in model["what"]


def test_another_file_and_one_of_two(house: Path, scanned: Callable[..., Shown]) -> None:
    """Searched in a file that is not the model's, or in a part of what it was trained on, nobody is said to be in no model."""
    (house / "other.jsonl").write_text(json.dumps({"subject_id": "ida", "text": "A seal was seen off the pier."}) + "\n")
    _, (model,) = scanned(data="other.jsonl")
    assert model["what"].endswith("Give the file that it was trained on (--data).")
    (house / "part.jsonl").write_text(json.dumps(ROWS[1]) + "\n")
    shown, (model,) = scanned(data="part.jsonl", status=3)
    assert "0 records" in shown
    assert model["what"].startswith("2 of 3 records that it was trained on are in none of these files")
    assert scanned("eve", status=3) == (
        "0 records; 0 near-duplicates to confirm; 0 candidates to decide\nall records that these models list were searched\n",
        [],
    )


def test_candidates_are_asked_about_as_well(scanned: Callable[..., Shown]) -> None:
    """A model that saw only rows that a human has still to confirm is named as such, beside no certain record."""
    shown, (model,) = scanned("JON")
    assert "0 records; 0 near-duplicates to confirm; 2 candidates to decide" in shown
    assert (model["how"], model["what"]) == ("trained on candidates", "2 records, first at step 1")


def test_models_without_a_log_or_of_other_programs(house: Path, scanned: Callable[..., Shown], model_dir: Path) -> None:
    """A folder whose log is lost, and one with weights that another program wrote, are named; one inside a model is not."""
    shutil.copytree(model_dir, house / "models" / "foreign")
    shutil.copytree(house / "models" / "m", house / "models" / "bare")
    (house / "models" / "bare" / LOG_NAME).unlink()
    manifest = json.loads((house / "models" / "bare" / MANIFEST).read_text())
    manifest["about"]["weights"] = "0" * 64  # else it would be known as a copy of the other
    (house / "models" / "bare" / MANIFEST).write_text(json.dumps(manifest))
    shutil.copytree(model_dir, house / "models" / "m" / "export")
    shown, models = scanned()
    told = {Path(model["folder"]).name: model for model in models}
    assert set(told) == {"m", "foreign", "bare"}
    assert told["m"]["how"] == "trained on"
    assert "no manifest" in told["foreign"]["what"]
    assert f"{house / 'models' / 'bare'}  not known: nothing in its folder lists what it was trained on" in shown
    shutil.rmtree(house / "models")
    (house / "models").mkdir()
    shown, models = scanned()
    assert shown.endswith(f"no model below {house / 'models'}. Name the folders that contain models with --models.\n")
    assert models == []


@pytest.mark.parametrize("case", ["lost key", "another key", "another file", "no log"])
def test_a_purge_names_them_too(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """They count as copies that stay, with the reason; nothing is removed of them, and the exit status is 3."""
    data, ids = house / "train.jsonl", house / "ids.txt"
    ids.write_text("a\n")
    if case == "another file":
        data = house / "other.jsonl"
        data.write_text(json.dumps({"example_id": "a", "text": "A seal was seen off the pier by the ferryman."}) + "\n")
    elif case == "no log":
        (house / "models" / "m" / LOG_NAME).unlink()
    else:
        if case == "another key":
            (house / "other.key").write_text("ab" * 32)
        monkeypatch.setenv("UNLEARN_VERIFY_KEY_FILE", str(house / "other.key"))
    (house / "empty").mkdir()
    given = ["purge", "--data", str(data), "--forget", str(ids), "--models", str(house / "models")]
    assert unlearn.cli.main.main([*given, "--search", str(house / "empty")]) == 3
    shown = capsys.readouterr().out
    assert "(whether it saw them is not known): " in shown
    assert "1 found, 0 removed, 0 can be removed, 1 stay" in shown
    reasons = {"lost key": "was missing", "another key": "another one than", "another file": "(--data)", "no log": "training log"}
    assert reasons[case] in shown
    assert (house / "models" / "m" / MANIFEST).is_file()


@pytest.mark.parametrize(
    ("case", "status", "said"),
    [
        ("no model", 0, "no model below"),
        ("nobody found", 3, "all records that these models list were searched"),
        ("found in another file", 0, "no model below these folders saw them"),
    ],
)
def test_the_json_says_why_it_lists_no_model(house: Path, scanned: Callable[..., Shown], case: str, status: int, said: str) -> None:
    """An empty list alone would read as if no model had seen the records, also where there was none to ask."""
    who, data = "ida", ["train.jsonl"]
    if case == "no model":
        shutil.rmtree(house / "models")
        (house / "models").mkdir()
    elif case == "nobody found":
        who = "somebody"
    else:
        (house / "train.jsonl").write_text(
            (house / "train.jsonl").read_text()
            + json.dumps({"example_id": "n", "subject_id": "new", "text": "A stranger came."})
            + "\n"
        )
        who = "new"
    shown, models = scanned(who, *data, status=status)
    assert models == []
    note = json.loads((house / "found.json").read_text())["note"]
    assert shown.endswith(f"{note}\n")
    assert note.startswith(said)


def test_a_scan_writes_no_file_over_another(house: Path) -> None:
    """The JSON file must be new, and end in .json; nothing is searched otherwise."""
    (house / "who.txt").write_text("ida\n")
    given = ["scan", "--data", str(house / "train.jsonl"), "--subjects", str(house / "who.txt"), "--output"]
    assert unlearn.cli.main.main([*given, str(house / "train.jsonl")]) == 2
    (house / "there.json").write_text("{}")
    assert unlearn.cli.main.main([*given, str(house / "there.json")]) == 2
    assert (house / "there.json").read_text() == "{}"
    assert unlearn.cli.main.main([*given, str(house / "new.json")]) == 0
    assert set(json.loads((house / "new.json").read_text())) == {"schema", "records", "near_duplicates", "candidates", "matches"}
