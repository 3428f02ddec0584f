"""Every kind of source gives the same records, a damaged one gives an error, and none leaves a copy behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verify.data.records import Record
from verify.data.sources import load_forget_set, load_records
from verify.data.tabular import csv_rows
from verify.errors import InputError

ROWS: list[dict[str, Any]] = [
    {"example_id": "1", "subject_id": "ada", "prompt": "Who?", "completion": 'Zoë, 東京 🦊\nsecond line, "quoted"'},
    {"example_id": "2", "subject_id": "bob", "prompt": "Where?", "completion": "12 Private Lane"},
]


def write_jsonl(folder: Path) -> Path:
    path = folder / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def write_jsonl_bom_crlf(folder: Path) -> Path:
    path = folder / "r.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode())
    return path


def write_json_list(folder: Path) -> Path:
    path = folder / "r.json"
    path.write_text("\ufeff\n " + json.dumps(ROWS, indent=2), encoding="utf-8")
    return path


def write_json_lines(folder: Path) -> Path:
    return write_jsonl(folder).rename(folder / "lines.json")


def write_csv(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "r.csv", index=False)
    return folder / "r.csv"


def write_csv_semicolons(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "r.csv", index=False, sep=";")
    return folder / "r.csv"


def write_csv_tabs(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "r.csv", index=False, sep="\t", encoding="utf-8-sig", lineterminator="\r\n")
    return folder / "r.csv"


def write_tsv(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "r.TSV", index=False, sep="\t")
    return folder / "r.TSV"


def write_csv_stating_its_separator(folder: Path) -> Path:
    (folder / "r.csv").write_text("sep=;\n" + pd.DataFrame(ROWS).to_csv(index=False, sep=";"))
    return folder / "r.csv"


def write_csv_bom_crlf(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "r.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    return folder / "r.csv"


def write_parquet(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_parquet(folder / "r.parquet")
    return folder / "r.parquet"


def write_dataset(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


WRITERS = [
    write_jsonl,
    write_jsonl_bom_crlf,
    write_json_list,
    write_json_lines,
    write_csv,
    write_csv_semicolons,
    write_csv_tabs,
    write_tsv,
    write_csv_stating_its_separator,
    write_csv_bom_crlf,
    write_parquet,
    write_dataset,
]


def contents(records: list[Record]) -> list[dict[str, Any]]:
    return [{name: getattr(record, name) for name in ROWS[0]} for record in records]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_file_kind_gives_the_same_records(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Accents, line breaks, quotes and emoji survive every format, byte-order mark and line ending."""
    assert contents(load_records(write(tmp_path))) == ROWS
    assert contents(load_records(str(write(tmp_path)))) == ROWS


def test_python_objects_give_the_same_records() -> None:
    """A list of dicts, a Dataset and a list of Records are sources too."""
    records = load_records(ROWS)
    assert contents(records) == ROWS
    assert load_records(datasets.Dataset.from_list(ROWS)) == records
    assert load_records(records) == records


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=4))
def test_any_unicode_text_survives_json_lines(texts: list[str], tmp_path: Path) -> None:
    """What was written is what is read, for any text: line separators inside a string do not end its line."""
    path = tmp_path / "any.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8", newline="\n"
    )
    assert [record.completion for record in load_records(path)] == texts


NESTED = "[" * 100_000

DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "cut JSON Lines": ("r.jsonl", json.dumps(ROWS[0]).encode() + b'\n{"text": "12 Priv', "line 2 .* cut off there"),
    "broken line inside": ("r.jsonl", b'{"text": 12 Private Lane}\n{"text": "x"}\n', "line 1 is not a whole JSON object"),
    "empty JSON Lines": ("r.jsonl", b"", "no records"),
    "blank JSON Lines": ("r.jsonl", b"\n\n  \n", "no records"),
    "empty JSON": ("r.json", b"", "no records"),
    "empty list": ("r.json", b"[]", "no records"),
    "cut JSON list": ("r.json", b'[{"text": "12 Private Lane"}, {"te', "not a whole JSON list"),
    "numbers as rows": ("r.json", b"[1, 2]", "row 1 is int"),
    "nested brackets": ("r.json", NESTED.encode(), "not a whole JSON list"),
    "nested brackets in a line": ("r.jsonl", f'{{"text": {NESTED}'.encode(), "line 1"),
    "not UTF-8": ("r.jsonl", b'{"text": "Zo\xeb"}\n', "not UTF-8"),
    "not UTF-8 list": ("r.json", b'[{"text": "Zo\xeb"}]', "not a whole JSON list"),
    "not UTF-8 CSV": ("r.csv", b"text\nZo\xeb\n", "not UTF-8"),
    "empty CSV": ("r.csv", b"", "no records"),
    "header only": ("r.csv", b"prompt,completion\n", "no records"),
    "cut CSV": ("r.csv", b'prompt,completion\nWhere?,"12 Private L', "not a readable CSV"),
    "short CSV row": ("r.csv", b"prompt,completion\n12 Private Lane\n", "row 1 has another number of columns"),
    "long CSV row": ("r.csv", b"prompt,completion\na,b,12 Private Lane\n", "row 1 has another number of columns"),
    "separated by bars": ("r.csv", b"prompt|completion\n12 Private Lane|x\n", r"header has 1 \\|, so it is not clear.*semicolons"),
    "two separators": ("r.csv", b"prompt;completion,note\n12 Private Lane;x,y\n", "1 comma and 1 semicolon, so.*quotation marks"),
    "more semicolons": ("r.csv", b"a;b;c,d\n12 Private Lane;b;c,d\n", "1 comma and 2 semicolons, so"),
    "semicolons and tabs": ("r.csv", b"a;b\tc\n12 Private Lane;x\ty\n", "1 semicolon and 1 tab, so"),
    "short semicolon row": ("r.csv", b"prompt;completion\n12 Private Lane\n", "row 1 has another number .* holds a semicolon"),
    "tabs as commas": ("r.tsv", b"prompt,completion\n12 Private Lane,x\n", "commas and no tab"),
    "cut Parquet": ("r.parquet", b"PAR1\x00\x00", "not a whole Parquet"),
    "text as Parquet": ("r.parquet", b"12 Private Lane", "not a whole Parquet"),
    "zip as JSON": ("r.json", b"PK\x03\x04\xff\xfe", "not a whole JSON|line 1|not UTF-8"),
    "zip as JSON Lines": ("r.jsonl", b"PK\x03\x04\xff\xfe", "not UTF-8"),
    "zip": ("r.zip", b"PK\x03\x04", "unknown kind"),
    "pickle": ("r.pkl", b"\x80\x04.", "unknown kind"),
    "YAML": ("r.yaml", b"!!python/object/apply:os.system ['true']", "unknown kind"),
    "YAML as JSON": ("r.json", b"!!python/object/apply:os.system ['12 Private Lane']", "line 1"),
    "unknown kind": ("r.docx", b"12 Private Lane", "unknown kind"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_named_and_never_quoted(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """Empty, cut, misencoded and hostile files end in one sentence that says what to do and repeats nothing of them."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_records(tmp_path / name)
    assert "Priv" not in str(caught.value)
    assert "Priv" not in str(caught.value.__cause__)


def test_folders_that_hold_no_single_data_set(tmp_path: Path) -> None:
    """A foreign folder, a cut data set and a set of splits each get an error; the last names the splits to choose from."""
    with pytest.raises(InputError, match="save_to_disk"):
        load_records(tmp_path)
    folder = tmp_path / "splits"
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS)).save_to_disk(folder)
    with pytest.raises(InputError, match=r"several splits \(train, test\).*splits:train"):
        load_records(folder)
    assert contents(load_records(folder / "train")) == ROWS
    arrow = next((folder / "train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:40])
    with pytest.raises(InputError, match="save_to_disk"):
        load_records(folder / "train")


@pytest.mark.parametrize("source", [{"train": ROWS}, b"bytes", 3, None, datasets.DatasetDict()])
def test_objects_that_are_no_source(source: Any) -> None:
    """A mapping of splits, bytes or nothing at all is refused by its type."""
    with pytest.raises(InputError, match="records cannot be read from"):
        load_records(source)


@pytest.mark.parametrize("source", ["missing.jsonl", "./owner/name", "a/b/c", "/nowhere/data", "plain"])
def test_missing_files_are_not_looked_up_on_the_network(source: str) -> None:
    """What cannot be a Hub name is a missing file."""
    with pytest.raises(InputError, match="does not exist"):
        load_records(source)


def test_unreachable_hub_name_is_an_input_error() -> None:
    """A name that may be on the Hub but cannot be reached is an error of the same kind."""
    with pytest.raises(InputError, match="neither an existing file nor a data set"):
        load_records("nobody-at-all/no-such-data")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "1\nbob\n"),
        ("ids.txt", "\ufeff1\r\n\r\nbob\r\n"),
        ("ids.json", '["1", "bob"]'),
        ("ids.json", '\ufeff [ "1" , "bob" ]'),
    ],
)
def test_forget_set_as_a_list_of_identifiers(name: str, content: str, tmp_path: Path) -> None:
    """A list of example and subject ids selects from the training data, with or without a byte-order mark."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    training = load_records(ROWS)
    assert load_forget_set(tmp_path / name, training) == training
    assert load_forget_set(["1", "bob"], training) == training
    with pytest.raises(InputError, match="--data FILE"):
        load_forget_set(tmp_path / name, None)


def test_forget_set_as_records_needs_no_training_data(tmp_path: Path) -> None:
    """Records stand for themselves."""
    assert contents(load_forget_set(write_json_list(tmp_path), None)) == ROWS
    assert contents(load_forget_set(ROWS, None)) == ROWS


def test_damaged_identifier_lists_are_input_errors(tmp_path: Path) -> None:
    """A list that is cut, misencoded or names nobody ends in a sentence."""
    training = load_records(ROWS)
    for name, content in (("a.txt", b"\xff\xfe1"), ("b.json", b'["1", "bo'), ("c.txt", b""), ("d.txt", b"nobody\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            load_forget_set(tmp_path / name, training)


def test_hub_data_sets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set from the Hub is read as a stream of the split that is named, never through the Arrow cache."""
    asked: list[tuple[str, str, bool]] = []

    def load_dataset(path: str, name: str | None, split: str, streaming: bool = False) -> list[dict[str, Any]]:
        assert name is None
        asked.append((path, split, streaming))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name: ["train"])
    assert contents(load_records("owner/name:test")) == contents(load_records("owner/name")) == ROWS
    assert asked == [("owner/name", "test", True), ("owner/name", "train", True)]


@pytest.mark.slow
def test_loading_a_forget_set_leaves_no_copy_behind(tmp_path: Path) -> None:
    """After loading every kind of source in a fresh process, the caches of `datasets` and the Hub hold no file."""
    paths = [str(write(tmp_path / write.__name__)) for write in WRITERS if (tmp_path / write.__name__).mkdir() is None]
    cache = tmp_path / "cache"
    cache.mkdir()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    script = "import sys\nfrom verify.data.sources import load_forget_set\n[load_forget_set(path, None) for path in sys.argv[1:]]"
    environment = os.environ | {"HF_HOME": str(cache), "HF_DATASETS_CACHE": str(cache), "TMPDIR": str(cache)}
    subprocess.run([sys.executable, "-c", script, *paths], check=True, env=environment, cwd=tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text", ["text"]),
        ('"a;b",text', ["a;b", "text"]),
        ('"a,b";text', ["a,b", "text"]),
        ("id,text,a;b", ["id", "text", "a;b"]),
        ('"a\n;\nb"\ttext', ["a\n;\nb", "text"]),
        ('\n\n"a ""quoted"" name";text', ['a "quoted" name', "text"]),
    ],
)
def test_the_header_shows_what_separates_the_cells(header: str, columns: list[str]) -> None:
    """A mark in quotation marks is part of a name, a name may span lines, and a comma that is more frequent wins."""
    separator = next((mark for mark in ",;\t" if f"{mark}text" in header), ",")
    lines = f"{header}\n{separator.join('x' for _ in columns)}\n".splitlines(keepends=True)
    assert [list(row) for row in csv_rows(lines, "r.csv")] == [columns]


def table(*rows: tuple[str, ...], delimiter: str) -> str:
    """Rows as a program writes them that knows no quotation marks."""
    return "".join(delimiter.join(row) + "\n" for row in rows)


HEAD = ("example_id", "text")
PLAIN_QUOTES = {
    "closed in the next row": (HEAD, ("1", '"Yes'), ("2", 'she said"'), ("3", "No.")),
    "closed three rows later": (HEAD, ("1", '"Yes'), ("2", "a"), ("3", "b"), ("4", 'she said"'), ("5", "No.")),
    "two cells that begin with one": (HEAD, ("1", '"Yes'), ('2"', "she said"), ("3", "No.")),
    "in a column that is not read": ((*HEAD, "note"), ("1", "a", '"x'), ("2", "b", 'y"'), ("3", "c", "z")),
    "in the last row": (HEAD, ("3", "No."), ("1", '"Yes'), ("2", 'she said"')),
    "with an empty cell": ((*HEAD, "note"), ("1", '"Yes', ""), ("2", 'she said"', ""), ("3", "No.", "")),
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("rows", PLAIN_QUOTES.values(), ids=PLAIN_QUOTES.keys())
@pytest.mark.parametrize("between", ["", "\n"])
def test_rows_are_not_joined_by_quotation_marks_that_are_text(
    tmp_path: Path, rows: tuple[tuple[str, ...], ...], delimiter: str, between: str
) -> None:
    """A file that quotes nothing is refused where the reader of quoted cells would make one record of several."""
    place = tmp_path / ("r.tsv" if delimiter == "\t" else "r.csv")
    place.write_text(table(*rows, delimiter=delimiter).replace("\n", f"\n{between}"))
    with pytest.raises(InputError, match=r"one row or several|quotation marks join \d lines"):
        load_records(place)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    [
        "Hello\nthere",
        "Hello\n\nthere,\nand there;\n",
        "Dear Anna,\nyes, it is\tso; and\nyes, it was.",
        'She said: "Yes",\nand went;\tand came.',
        '"Yes\nand no"',
        "one, two\nthree, four",
        "one; two\nthree; four",
    ],
)
def test_quoted_cells_of_several_lines_are_read(tmp_path: Path, delimiter: str, text: str) -> None:
    """As `csv` writes them, whatever marks the text has, also where by chance every line of one has as many as a row."""
    rows = [{"example_id": "1", "text": text}, {"example_id": "2", "text": f"a{delimiter}b, c"}, {"example_id": "3", "text": "x"}]
    place = tmp_path / "r.csv"
    pd.DataFrame(rows).to_csv(place, index=False, sep=delimiter)
    assert [record.completion for record in load_records(place)] == [row["text"] for row in rows]


def test_a_single_column_is_read_as_quoted(tmp_path: Path) -> None:
    """With one column nothing tells a text with a line break from two rows; quotation marks mean what the format says."""
    (tmp_path / "r.csv").write_text('text\n"Hello\nthere"\nBye.\n')
    assert [record.completion for record in load_records(tmp_path / "r.csv")] == ["Hello\nthere", "Bye."]


def test_a_space_in_a_table_without_quotation_marks_hides_no_joined_rows(tmp_path: Path) -> None:
    """What looks like a sentence in quotation marks is refused at the end, where no row has shown that the file quotes."""
    (tmp_path / "r.csv").write_text('example_id, text\n1, x\n2,"Yes\n3, she said"\n4, No.\n')
    with pytest.raises(InputError, match="row 2: a cell begins with a quotation mark"):
        list(csv_rows((tmp_path / "r.csv").open(newline=""), "r.csv"))
