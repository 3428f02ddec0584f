"""What names a thing twice is refused wherever it is read: in JSON of every kind, in CSV and in Parquet."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearn.purge.suppression import SuppressionList
from unlearn.requests.ledger.intake import from_csv, from_opendsr
from unlearn.training.log import TrainingLog
from verify.auditing.registration import Registration
from verify.data.identity import RecordKey
from verify.data.records import Fields
from verify.data.sources import load_forget_set, load_records, stream_records
from verify.errors import InputError
from verify.io.files import read_json
from verify.io.strict_json import NotStrictError, parse_every, parse_json
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence

PRIVATE = "Ines lives in Arlen"
PACKAGES = [path for package in ("verify", "unlearn") for path in (Path(__file__).parents[2] / package).rglob("*.py")]


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"x": {"b": 1, "a": 2, "a": 3}}]', '{"a": 1, "\\u0061": 2}', "[NaN]", '{"a": -Infinity}']
)
def test_ambiguous_json_is_refused(text: str) -> None:
    """At any depth, in any spelling of the name, whether or not the values are equal."""
    with pytest.raises(NotStrictError):
        parse_json(text)


def test_everything_else_is_read_as_before() -> None:
    """Equal names in different objects are no conflict; constants are read where they are asked for."""
    text = '[{"a": 1}, {"a": {"a": [2.5, null, true, "\\u00e9"]}}]'
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
    assert parse_json("[Infinity]", constants=True) == [float("inf")]


@pytest.mark.parametrize("name", ["completion", "subject_id", "note"])
@pytest.mark.parametrize("form", ["jsonl", "json lines", "json list", "nested"])
def test_a_record_file_that_names_a_thing_twice(form: str, name: str, tmp_path: Path) -> None:
    """The message has file, row and column; no value, and no name inside one, which may be content. Unused columns count too."""
    good = '{"prompt": "q", "completion": "a", "subject_id": "s", "note": "n"}'
    bad = good[:-1] + f', "{name}": "{PRIVATE}"}}'
    if form == "nested":
        bad = f'{{"text": "t", "meta": {{"{PRIVATE}": 1, "{PRIVATE}": 2}}}}'
    path = tmp_path / ("d.jsonl" if form in ("jsonl", "nested") else "d.json")
    path.write_text(f"[{good},\n{bad}]" if form == "json list" else f"{good}\n\n{bad}\n")
    for read in (load_records, lambda source: list(stream_records(source)), lambda source: load_forget_set(source, None)):
        with pytest.raises(InputError, match="the same name" if form == "nested" else name) as caught:
            read(str(path))
        assert "Ines" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert ("row 2" if form == "json list" else "line 3") in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["prompt,completion,completion\nq,a,b\n", "prompt,completion,,\nq,a,b,c\n", 'prompt,completion,"completion"\n'],
    ids=repr,
)
def test_a_csv_header_that_names_a_column_twice(text: str, tmp_path: Path) -> None:
    """Also where it has no rows, and where the repeated name is empty."""
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"d\.csv: the header .* 2 times"):
        load_records(str(path))


@pytest.mark.parametrize("row", ["q", "q,a,b", '"q,a"', "q,a,"])
def test_a_csv_row_of_another_length(row: str, tmp_path: Path) -> None:
    """Shorter or longer than the header: nothing is shifted or dropped."""
    path = tmp_path / "d.csv"
    path.write_text(f"prompt,completion\nq,a\n\n{row}\n")
    with pytest.raises(InputError, match=r"d\.csv, row 2"):
        load_records(str(path))


def test_a_parquet_schema_that_names_a_field_twice(tmp_path: Path) -> None:
    """At the top, in a struct, and in a list of structs."""
    texts = pa.array(["a"])
    turn = pa.StructArray.from_arrays([texts, texts, texts], names=["role", "content", "content"])
    turns = pa.ListArray.from_arrays([0, 1], turn)
    for names, columns in (
        (["text", "text"], [texts, texts]),
        (["text", "x"], [texts, turn]),
        (["text", "messages"], [texts, turns]),
    ):
        pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "d.parquet")
        with pytest.raises(InputError, match="2 times"):
            load_records(str(tmp_path / "d.parquet"))


@pytest.mark.parametrize(
    "columns", ["completion,prompt,Completion", "prompt, completion,completion", "prompt,completion,Subject_ID"]
)
def test_columns_that_differ_by_case_or_space(columns: str, tmp_path: Path) -> None:
    """Where it is not clear which column is meant, or a person's column would be passed over, the file is refused."""
    path = tmp_path / "d.csv"
    path.write_text(f"{columns}\na,b,c\n")
    with pytest.raises(InputError, match="case or spaces"):
        load_records(str(path))
    (record,) = load_records(
        str(path), Fields(prompt=columns.split(",")[0], completion=columns.split(",")[1], subject=columns.split(",")[2])
    )
    assert record.subjects == ("c",)


def test_requests_that_name_a_thing_twice(tmp_path: Path) -> None:
    """OpenDSR bodies and CSV batches are refused before anything is noted; no value and no name is repeated."""
    key = RecordKey.load()
    body = '{"subject_request_type": "erasure", "subject_identities": [{"identity_value": "a", "identity_value": "ines"}]}'
    with pytest.raises(InputError, match="same name twice") as caught:
        from_opendsr(body, key)
    assert "ines" not in str(caught.value)
    path = tmp_path / "batch.csv"
    for text, said in (
        ("identifier,regime,received,identifier\na,gdpr,2026-01-01,b\n", "2 times"),
        ("identifier,regime,received\na,gdpr\n", "row 1"),
        ("identifier,regime,received\na,gdpr,2026-01-01,b\n", "row 1"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            from_csv(path, key)


def test_files_of_the_tool_that_name_a_thing_twice(tmp_path: Path) -> None:
    """Manifests, evidence, registrations, deletion records, suppression lists and training logs."""
    path = tmp_path / "f.json"
    path.write_text('{"schema": "x", "schema": "y"}')
    for read in (read_json, Evidence.load, Registration.load, DeletionRecord.load, SuppressionList.load, TrainingLog.read):
        with pytest.raises(InputError):
            read(path)
    listed = SuppressionList()
    listed.save(path)
    text = path.read_text()
    path.write_text(text.replace('"schema":', '"schema": "other", "schema":'))
    with pytest.raises(InputError, match="not a whole suppression list"):
        SuppressionList.load(path)


def test_no_reader_beside_the_strict_one() -> None:
    """`json.loads` stands only where the text was written by the same process or is sealed; each place says so by being listed."""
    own = {
        "verify/certificate/check.py",
        "verify/data/chats.py",
        "verify/io/digests.py",
        "verify/models/configuration.py",
        "verify/io/strict_json.py",
        "verify/scores/cache.py",
        "unlearn/experiments/comparison.py",
        "unlearn/requests/ledger/ledger.py",
        "unlearn/requests/noting.py",
    }
    root = Path(__file__).parents[2]
    found = {path.relative_to(root).as_posix() for path in PACKAGES if re.search(r"json\.loads?\(", path.read_text())}
    assert found <= own
    assert not [path for path in PACKAGES if "DictReader" in path.read_text()]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_a_repeated_name_in_text_that_is_cut_off(name: str, tmp_path: Path) -> None:
    """Both faults are in the message, and nothing of the row."""
    path = tmp_path / name
    path.write_text(f'{{"x": {{"{PRIVATE}": 1, "{PRIVATE}": 2}}, "text": "{PRIVATE}')
    with pytest.raises(InputError, match="line 1 gives the same name twice in one object, and is not whole JSON") as caught:
        load_records(str(path))
    assert "Ines" not in str(caught.value)
    path.write_text(f"[{path.read_text()}" if name == "d.json" else path.read_text())
    with pytest.raises(InputError, match="not whole JSON"):
        load_records(str(path))


def test_a_search_reads_every_value() -> None:
    """Also both of a name that is given twice, at any depth; what is not JSON is refused."""
    assert parse_every('{"a": 1, "b": {"c": "x", "c": ["y"]}, "a": 2}') == {"a": [1, 2], "b": {"c": ["x", ["y"]]}}
    with pytest.raises(ValueError, match="Expecting"):
        parse_every('{"a": ')
