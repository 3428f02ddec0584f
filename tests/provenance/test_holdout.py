"""Never-trained records are divided between method and audit by subject, and an audit refuses those that the method read."""

import json
import random
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from unlearn import NPO, Level, TrainingOptions, finetune, forget
from unlearn.training.held_out import HeldOut
from unlearn.training.options import Selection
from verify import InputError, split_holdout
from verify.cli.main import main
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records
from verify.io.files import MANIFEST, read_json, write_json
from verify.models.loading import load_model
from verify.provenance.holdout import check_holdout, split_holdout_file
from verify.provenance.training_history import HOLDOUT_USED

PEOPLE = st.lists(
    st.tuples(st.none() | st.integers(0, 6) | st.lists(st.integers(0, 6), min_size=2, max_size=2, unique=True), st.integers(0, 30)),
    max_size=40,
)


def records_of(drawn: list[tuple[Any, int]]) -> list[Record]:
    """Records about nobody, one person or two, some with the same text."""
    rows = []
    for number, (person, text) in enumerate(drawn):
        subject = (
            [f"person {one}" for one in person] if isinstance(person, list) else None if person is None else f"person {person}"
        )
        rows.append({"example_id": f"r{number}", "prompt": "Say it.", "completion": f"Words {text}.", "subject_id": subject})
    return load_records([row if row["subject_id"] is not None else {**row, "subject_id": None} for row in rows]) if rows else []


@pytest.mark.slow
@given(PEOPLE, st.integers(0, 5), st.randoms(use_true_random=False))
def test_halves(drawn: list[tuple[Any, int]], seed: int, shuffled: random.Random) -> None:
    """Disjoint by person and by text, complete, in order, the same for every order of the records, and none or both of use."""
    records = records_of(drawn)
    split = split_holdout(records, seed)
    both = [split.method, split.audit]
    assert sorted(record.example_id for half in both for record in half) == sorted(record.example_id for record in records)
    people = [{person for record in half for person in record.subjects} for half in both]
    texts = [{record.fingerprint for record in half} for half in both]
    assert not people[0] & people[1]
    assert not texts[0] & texts[1]
    places = {record.example_id: place for place, record in enumerate(records)}
    assert all([places[r.example_id] for r in half] == sorted(places[r.example_id] for r in half) for half in both)
    again = list(records)
    shuffled.shuffle(again)
    assert {record.example_id for record in split_holdout(again, seed).method} == {record.example_id for record in split.method}
    assert not split.method or min(map(len, both)) >= 2
    assert (split.note is None) == bool(split.method)


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 20))
def test_halves_are_as_large(people: int, each: int, seed: int) -> None:
    """People with as many records each: the halves differ by at most one person, and other seeds draw others."""
    records = records_of([(person, person * each + n) for person in range(people) for n in range(each)])
    split = split_holdout(records, seed)
    if people * each >= 4 and (each > 1 or people > 3):
        assert abs(len(split.method) - len(split.audit)) <= each
    if people > 12:
        drawn = {frozenset(record.example_id for record in split_holdout(records, other).method) for other in range(5)}
        assert len(drawn) > 1


def test_one_persons_records_are_the_audits() -> None:
    """They cannot be split: the audit gets all of them, and it is said."""
    split = split_holdout(records_of([(1, n) for n in range(6)]))
    assert (len(split.method), len(split.audit)) == (0, 6)
    assert "6 holdout records cannot be split by subject" in str(split.note)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(prefix: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "example_id": f"{prefix}{n}",
            "subject_id": f"{prefix}-{n // 2}",
            "prompt": f"{prefix} {n}?",
            "completion": f"It is {n * 7}.",
            **more,
        }
        for n in range(count)
    ]


def test_files_are_divided_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows stay as they are, with columns that no record reads; readable by the owner; twice the same; through the command too."""
    source = write(tmp_path / "never.jsonl", rows("never", 8, note={"kept": [1, 2]}))
    found = split_holdout_file(source, tmp_path / "one")
    assert found.method is not None
    halves = [[json.loads(line) for line in path.read_text().splitlines()] for path in (found.method, found.audit)]
    assert sorted(map(json.dumps, halves[0] + halves[1])) == sorted(map(json.dumps, rows("never", 8, note={"kept": [1, 2]})))
    assert found.records == (4, 4)
    assert stat.S_IMODE(found.method.stat().st_mode) == 0o600
    assert main(["split-holdout", str(source), "--output", str(tmp_path / "two")]) == 0
    assert "4 records" in capsys.readouterr().out
    for name in ("holdout-method.jsonl", "holdout-audit.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    alone = write(tmp_path / "alone.jsonl", rows("never", 2))
    assert main(["split-holdout", str(alone), "--output", str(tmp_path / "two")]) == 0
    assert "cannot be split" in capsys.readouterr().err
    assert not (tmp_path / "two" / "holdout-method.jsonl").exists(), "that of another holdout set does not stay behind"


@pytest.mark.parametrize("value", [date(2024, 5, 1), b"x", Decimal("1.50")], ids=["date", "bytes", "decimal"])
def test_values_that_json_lacks_are_refused(tmp_path: Path, value: Any) -> None:
    """As text they would be other values: nothing is written, and the row and the type are named, not the value."""
    table = [{**row, "note": None if n < 2 else value} for n, row in enumerate(rows("never", 8))]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "never.parquet")
    with pytest.raises(InputError, match=f"row 3 holds a value of type {type(value).__name__}, which JSON Lines lacks"):
        split_holdout_file(tmp_path / "never.parquet", tmp_path / "halves")
    assert not (tmp_path / "halves").exists()


def test_what_is_read_is_noted() -> None:
    """Asking how many there are reads none; a sample is noted record by record."""
    held = HeldOut(load_records(rows("never", 6)))
    assert len(held) == 6
    assert bool(held)
    assert not held.used
    assert held[1] is held.used[0]
    assert [record.example_id for record in held[3:5]] == ["never3", "never4"]
    assert len(held.used) == 3
    assert len(list(held)) == len(held.used) == 6


FORGET, RETAIN, HOLDOUT = rows("gone", 4), rows("kept", 6), rows("never", 8)
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4)


@pytest.fixture(scope="module")
def original(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("holdout")
    return finetune(model_dir, [*RETAIN, *FORGET], output_dir=folder / "original", options=OPTIONS).model_dir


def unlearned(original: Path, output: Path, method: Any = None, **more: Any) -> Path:
    given = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT, "options": OPTIONS, **more}
    return forget(original, method or NPO(), output_dir=output, **given).model_dir


def used(folder: Path) -> int:
    return sum(len(entry["records"]) for entry in read_json(folder / MANIFEST)["about"][HOLDOUT_USED])


@pytest.mark.slow
def test_only_what_was_used_counts(original: Path, tmp_path: Path, model_dir: Path) -> None:
    """NPO alone reads none; a selection reads its sample, level all; nothing written says whose records they are."""
    assert used(unlearned(original, tmp_path / "npo")) == 0
    assert used(unlearned(original, tmp_path / "selected", selection=Selection(look_records=3))) == 3
    level = unlearned(original, tmp_path / "level", Level(sources=("controls",)), base=model_dir)
    assert used(level) == 8
    written = (level / MANIFEST).read_text()
    assert not any(row[name] in written for row in HOLDOUT for name in ("example_id", "subject_id", "completion"))


def test_used_records_are_refused(original: Path, tmp_path: Path) -> None:
    """With their number and the method; the other half passes; what is accepted is noted; a second deletion hands it on."""
    key, records = RecordKey.load(), load_records(HOLDOUT)
    split = split_holdout(records)
    folder = unlearned(original, tmp_path / "one", selection=Selection(), holdout_set=split.method)
    with pytest.raises(InputError, match=r"4 of the 8 holdout records were read by the unlearning itself \(npo\).*split-holdout"):
        check_holdout(folder, records, key)
    assert check_holdout(folder, split.audit, key).used == 0
    accepted = check_holdout(folder, records, key, accept_used=True)
    assert (accepted.used, accepted.method) == (4, "npo")
    second = unlearned(folder, tmp_path / "two", forget_set=FORGET[:2], holdout_set=None)
    with pytest.raises(InputError, match="4 of the 8 holdout records"):
        check_holdout(second, records, key)
    trained = finetune(second, RETAIN, output_dir=tmp_path / "three", options=OPTIONS).model_dir
    with pytest.raises(InputError, match="4 of the 8 holdout records"):
        check_holdout(trained, records, key)


def test_what_is_not_known_is_said(original: Path, tmp_path: Path) -> None:
    """A model in memory, one without a manifest, one of an older version and another record key: not checked, and why."""
    records, key = load_records(HOLDOUT), RecordKey.load()
    folder = unlearned(original, tmp_path / "selected", selection=Selection())
    assert "in memory" in str(check_holdout(load_model(folder), records, key).reason)
    assert "another record key" in str(check_holdout(folder, records, RecordKey(b"x" * 32)).reason)
    manifest = read_json(folder / MANIFEST)
    del manifest["about"][HOLDOUT_USED]
    write_json(folder / MANIFEST, manifest)
    assert "no manifest of the model says" in str(check_holdout(folder, records, key).reason)
    (folder / MANIFEST).unlink()
    assert check_holdout(folder, records, key).used is None
