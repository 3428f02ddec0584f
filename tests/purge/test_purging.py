"""What is left of deleted records is found wherever it lies, and removed or explained; nothing else is touched."""

import base64
import gzip
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import nbformat
import planted_residues as planted
import pyarrow.parquet as pq
import pytest

from unlearn.purge.content_search import ContentSearch, NotingSearch
from unlearn.purge.find import Residue, find_residues, remove
from unlearn.purge.unpack import UnreadableError, holds
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records

DELETED = load_records(planted.FORGET)
KEPT = load_records(planted.RETAIN)
SEARCH = ContentSearch(DELETED, KEPT)


def find(root: Path, **options: object) -> list[Residue]:
    given = {"records": DELETED, "key": RecordKey.load(), "affected": [], "retained": KEPT, **options}
    return find_residues([root], **given)  # type: ignore[arg-type]


def left_in(root: Path) -> set[str]:
    """Files in which a passage still stands, by a search of its own."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and holds(path, SEARCH)}


def names(root: Path, residues: list[Residue]) -> set[str]:
    return {residue.place.relative_to(root).as_posix() for residue in residues}


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")  # SQLite's locks
    }


def innocent_files(folder: Path) -> None:
    """Files of the same kinds without deleted text, prompts and turns of phrase included."""
    folder.mkdir()
    (folder / "train.jsonl").write_text(planted.json_lines(planted.RETAIN))
    (folder / "run.log").write_text("What do you know about oranges?\nno name, no number\n" * 50)
    planted.write_csv(folder / "table.csv", planted.RETAIN)
    (folder / "run.log.gz").write_bytes(gzip.compress(b"nothing in it\n" * 99))
    with closing(sqlite3.connect(folder / "innocent.db")) as database, database:
        database.execute("CREATE TABLE t (text)")
        database.execute("INSERT INTO t VALUES ('oranges')")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """Every kind that is found by content, beside innocent files."""
    root = tmp_path.resolve() / "world"
    root.mkdir()
    innocent_files(root / "innocent")
    made = {
        "data": planted.plant_training_data(root / "data"),
        "dumps": planted.plant_dumps(root / "dumps"),
        "logs": planted.plant_logs(root / "logs"),
        "packed": planted.plant_packed(root / "packed"),
        "notebooks": planted.plant_notebooks(root / "notebooks"),
        "trackers": planted.plant_trackers(root / "trackers"),
    }
    with planted.planted_databases(root / "databases") as made["databases"]:
        yield root, made


def test_every_kind_is_found_and_removed_or_explained(world: tuple[Path, dict[str, list[str]]]) -> None:
    """All planted files are found; afterwards passages stand only where the list says so, with reasons; the innocent are whole."""
    root, made = world
    planted_names = {f"{folder}/{name}" for folder, own in made.items() for name in own}
    before = digests(root)
    found = find(root, rewrite_data=True)
    assert names(root, found) == planted_names
    assert digests(root) == before, "looking changed something"
    stay = remove(found)
    assert all(residue.reason and not residue.removable for residue in stay)
    assert left_in(root) - {"databases/live.db"} == names(root, stay) - {"databases/live.db"}
    assert names(root, stay) == {
        *(f"packed/{name}" for name in made["packed"]),
        "notebooks/prose.ipynb",
        "databases/live.db",
    }
    after = digests(root)
    assert {name: digest for name, digest in before.items() if name.startswith("innocent")} == {
        name: digest for name, digest in after.items() if name.startswith("innocent")
    }
    assert not (root / "packed" / "executed").exists(), "a pickle was executed"
    again = find(root, rewrite_data=True)
    assert names(root, again) == names(root, stay)
    assert names(root, remove(again)) == names(root, stay)


def test_everything_else_in_a_mended_file_stays(world: tuple[Path, dict[str, list[str]]]) -> None:
    """Other people's rows, lines, events, outputs and columns are there as before."""
    root, _ = world
    remove(find(root, rewrite_data=True))
    assert [row["example_id"] for row in map(json.loads, (root / "data/train.jsonl").open())] == [f"r{n}" for n in range(6)]
    assert (root / "data/train.jsonl").read_text() == planted.json_lines(planted.RETAIN)
    assert [row["example_id"] for row in json.loads((root / "data/list.json").read_text())] == [f"r{n}" for n in range(6)]
    assert load_records(root / "data/train.csv") == KEPT
    assert pq.read_table(root / "data/train.parquet").to_pylist() == planted.RETAIN
    assert (root / "data/corpus.txt").read_text().splitlines() == [row["completion"] for row in planted.RETAIN]
    outputs = json.loads((root / "dumps/generations.json").read_text())["outputs"]
    assert [text == "[deleted]" for text in outputs] == [row in planted.FORGET for row in planted.ROWS]
    assert pq.read_table(root / "dumps/generations.parquet").num_rows == len(KEPT)
    assert len(gzip.decompress((root / "logs/train.log.2.gz").read_bytes()).splitlines()) == len(KEPT)
    events = (root / "trackers/tb/events.out.tfevents.1700000000.host.1.0").read_bytes()
    kept = (b"\x1a\x0dbrain.Event:2", *(planted.text_event(row["completion"]) for row in planted.RETAIN))
    assert events == b"".join(map(planted.event_record, kept))
    notebook = nbformat.read(root / "notebooks/look.ipynb", 4)
    assert [len(cell.outputs) for cell in notebook.cells] == [0, 0, 1]
    summary = json.loads((root / "trackers/wandb/run-20261001_120000-abc/files/wandb-summary.json").read_text())
    assert summary == {"loss": 1.5, "sample": "[deleted]"}
    with closing(sqlite3.connect(root / "databases/free.db")) as database:
        assert database.execute("SELECT count(*) FROM outputs").fetchone() == (len(KEPT) * 40,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_training_data_only_when_asked(world: tuple[Path, dict[str, list[str]]]) -> None:
    """Without rewrite_data, the training data stay byte by byte and are listed with the reason."""
    root, made = world
    before = digests(root / "data")
    stay = remove(find(root))
    listed = [residue for residue in stay if residue.kind == "training data"]
    assert names(root, listed) == {f"data/{name}" for name in made["data"]}
    assert all("--rewrite-data" in residue.reason for residue in listed)
    assert digests(root / "data") == before


@pytest.mark.parametrize(
    ("made", "renamed"),
    [
        ("data/train.csv", "PEOPLE.CSV"),
        ("data/train.jsonl", "people.JsonL"),
        ("data/train.parquet", "PEOPLE.PARQUET"),
        ("data/list.json", "PEOPLE.JSON"),
        ("data/corpus.txt", "CORPUS.TXT"),
        ("logs/train.log.2.gz", "TRAIN.LOG.2.GZ"),
        ("notebooks/look.ipynb", "LOOK.IPYNB"),
    ],
)
def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path: Path, made: str, renamed: str) -> None:
    """Windows and old exports write them so; the file is of the same kind and is cleaned like any other."""
    folder, name = made.split("/")
    plant = {"data": planted.plant_training_data, "logs": planted.plant_logs, "notebooks": planted.plant_notebooks}[folder]
    plant(tmp_path / folder)
    (tmp_path / "alone").mkdir()
    (tmp_path / folder / name).rename(tmp_path / "alone" / name)
    (plain,) = find(tmp_path / "alone", rewrite_data=True)
    (tmp_path / "alone" / name).rename(tmp_path / "alone" / renamed)
    (found,) = find(tmp_path / "alone", rewrite_data=True)
    assert (found.kind, found.removable) == (plain.kind, True)
    assert [one.kind for one in find(tmp_path / "alone")] == [plain.kind], "nothing in capitals is passed over without the flag"
    assert remove([found]) == []
    assert (tmp_path / "alone" / renamed).exists()
    assert find(tmp_path / "alone", rewrite_data=True) == []


def test_what_cannot_be_read_as_rows_may_be_training_data(tmp_path: Path) -> None:
    """A table of another kind, one that was cut off and a packed one are not changed either without being asked."""
    root = tmp_path.resolve()
    planted.write_csv(root / "a.tsv", planted.ROWS)
    (root / "b.jsonl").write_text('{"cut off\n' + planted.json_lines(planted.ROWS))
    (root / "c.jsonl.gz").write_bytes(gzip.compress(planted.json_lines(planted.ROWS).encode()))
    before = digests(root)
    assert {residue.kind for residue in remove(find(root))} == {"training data"}
    assert digests(root) == before
    assert remove(find(root, rewrite_data=True)) == []
    assert gzip.decompress((root / "c.jsonl.gz").read_bytes()).decode() == planted.json_lines(planted.RETAIN)


def test_what_must_stay_stays(world: tuple[Path, dict[str, list[str]]]) -> None:
    """In a spared folder nothing is changed, and what lies there is listed with the reason."""
    root, _ = world
    before = digests(root / "logs")
    stay = remove(find(root, spare=[root / "logs"]))
    assert digests(root / "logs") == before
    assert {residue.reason for residue in stay if residue.kind == "log"} == {
        "it lies in a folder that must stay; remove it by hand"
    }


def test_nothing_of_the_texts_is_shown(world: tuple[Path, dict[str, list[str]]]) -> None:
    """No residue, as text or as a dictionary, and no reason holds a passage: the ledger may keep them."""
    root, _ = world
    found = find(root)
    stay = remove(found)
    shown = repr(found) + repr(stay) + json.dumps([{**asdict(residue), "place": ""} for residue in found], default=str)
    assert not SEARCH.holds(shown)
    assert not any(word in shown for word in ("Zebedee", "Quillfeather", "Perpetua", "Wallop", "heron"))
    assert repr(SEARCH).endswith("hidden>)")


def test_a_residue_from_elsewhere_is_not_removed(tmp_path: Path) -> None:
    """A residue that somebody wrote by hand names a place; it does not get the place removed."""
    (tmp_path / "precious.txt").write_text("mine")
    stay = remove([Residue(tmp_path / "precious.txt", "log", "says who", True, "")])
    assert [residue.removable for residue in stay] == [False]
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_text_of_many_is_nobodys(tmp_path: Path) -> None:
    """A sentence that a kept record holds too accuses no file; without the kept records, it does."""
    shared = "I am sorry, but I would rather not say anything about that person to anybody."
    (tmp_path / "chat.log").write_text(f"bot: {shared}\n")
    records, kept = [Record("a", completion=shared)], [Record("b", completion="Well. " + shared)]
    assert find(tmp_path, records=records, retained=kept) == []
    assert len(find(tmp_path, records=records, retained=[])) == 1


def test_short_records_are_counted(tmp_path: Path) -> None:
    """A name of a few letters is not searched for, and that is said."""
    search = ContentSearch([Record("a", prompt="Capital?", completion="Paris"), *DELETED])
    assert search.unsearched == 1
    assert not search.holds("Paris")
    assert (
        ContentSearch(DELETED, [*KEPT, Record("b", completion=planted.CANARIES[0] + planted.FORGET[0]["prompt"])]).unsearched == 1
    )
    assert not ContentSearch([Record("a", completion="-" * 80)]).holds("-" * 500)


def test_whose_texts_a_stream_holds() -> None:
    """Each record of which text is in it, in whatever encoding and at any cut of the stream; the first match ends nothing."""
    both = planted.CANARIES[1].encode() + b" and " + base64.b64encode(planted.CANARIES[0].encode()) + b" and nobody else"
    noting = NotingSearch(SEARCH)
    for cut in range(0, len(both), 5):
        noting.found.clear()
        assert not noting.found_in([both[:cut], both[cut:]])
        assert noting.found == {0, 1}, cut
    for content, whose in ((planted.CANARIES[0], {0}), (planted.CANARIES[1], {1}), (KEPT[0].completion, set())):
        noting.found.clear()
        assert (noting.holds(content), noting.found) == (False, whose)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_borders_of_chunks_hide_nothing(size: int) -> None:
    """Wherever a stream is cut into pieces, the same places are found, as by a plain search."""
    data = b"x" * 997 + planted.CANARIES[0].encode() + b"\x00" * 13 + json.dumps(planted.CANARIES[1]).encode() + b"y" * 200
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    whole = sorted(SEARCH.intervals([data]))
    assert sorted(SEARCH.intervals(pieces)) == whole
    for first, end in whole:
        assert any(
            data[first:end].decode(errors="replace")[:9] in text for text in (*planted.CANARIES, json.dumps(planted.CANARIES[1]))
        )
    first, end = data.index(planted.CANARIES[0].encode()), data.index(b"\x00")
    covered = {place for start, stop in whole for place in range(start, stop)}
    assert set(range(first, end)) <= covered


def test_a_passage_of_a_text_is_enough() -> None:
    """Any 71 characters of a long text are found, wherever they are taken from it."""
    text = " ".join(f"word{number}" for number in range(60))
    search = ContentSearch([Record("a", completion=text)])
    assert all(search.holds(f"... {text[start : start + 71]} ...") for start in range(len(text) - 71))


def test_unreadable(tmp_path: Path) -> None:
    """A gzip file that was cut off is no clean file: it is listed as unknown; the find before the cut counts."""
    noise = bytes(range(256)) * 3000
    (tmp_path / "cut.gz").write_bytes(gzip.compress(noise)[:1000])
    with pytest.raises(UnreadableError):
        holds(tmp_path / "cut.gz", SEARCH)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(planted.CANARIES[0].encode() + noise, compresslevel=0)[:90_000])
    assert holds(tmp_path / "cut.gz", SEARCH)
