"""Hostile and damaged files: looking at them ends, executes nothing, leads nowhere, and says what could not be read."""

import gzip
import os
import sqlite3
import tracemalloc
import zipfile
from contextlib import closing
from pathlib import Path

import planted_residues as planted
import pyarrow.parquet as pq
import pytest

from unlearn.purge.content_search import ContentSearch
from unlearn.purge.find import Residue, find_residues, remove
from unlearn.purge.unpack import SMALLEST_LIMIT, UnreadableError, holds
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError

DELETED = load_records(planted.FORGET)
KEPT = load_records(planted.RETAIN)
SEARCH = ContentSearch(DELETED, KEPT)


def find(root: Path, rewrite_data: bool = True) -> list[Residue]:
    return find_residues([root], records=DELETED, key=RecordKey.load(), affected=[], retained=KEPT, rewrite_data=rewrite_data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "root"
    folder.mkdir()
    return folder


def test_links(root: Path) -> None:
    """Links are followed nowhere: not in loops, not to files and folders outside; what they lead to stays."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "mine.log").write_text(planted.CANARIES[0])
    (root / "loop").symlink_to(root)
    (root / "folder").symlink_to(outside)
    (root / "file.log").symlink_to(outside / "mine.log")
    (root / "nowhere").symlink_to(root / "absent")
    assert find(root) == []
    assert (outside / "mine.log").read_text() == planted.CANARIES[0]


def test_a_link_that_comes_in_later(root: Path) -> None:
    """Between looking and removing, a folder is exchanged for a link: nothing is removed behind it."""
    outside = root.parent / "outside"
    for folder in (root / "logs", outside):
        folder.mkdir()
        (folder / "a.log").write_text(planted.CANARIES[0])
    found = find(root)
    (root / "logs").rename(root / "moved")
    (root / "logs").symlink_to(outside)
    (stay,) = remove(found)
    assert "symbolic link" in stay.reason
    assert (outside / "a.log").read_text() == planted.CANARIES[0]


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    """A named pipe that nobody writes to is passed over."""
    os.mkfifo(root / "pipe.log")
    assert find(root) == []


@pytest.mark.slow
def test_bombs(root: Path) -> None:
    """Archives that unpack to far more than they weigh are given up on, in little memory, and listed."""
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(SMALLEST_LIMIT + (8 << 20)))
    packed = b"core"
    for _ in range(6):
        packed = gzip.compress(packed)
    (root / "deep.gz").write_bytes(packed)
    tracemalloc.start()
    found = find(root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {residue.place.name: residue.kind for residue in found} == {"bomb.zip": "unreadable", "deep.gz": "unreadable"}
    assert peak < SMALLEST_LIMIT / 2
    assert [residue.removable for residue in remove(found)] == [False, False]


def damaged(folder: Path) -> list[str]:
    """Files that were cut off or overwritten in the middle."""
    pq.write_table(pq.read_table(folder / "whole.parquet"), folder / "cut.parquet")
    (folder / "cut.parquet").write_bytes((folder / "whole.parquet").read_bytes()[:-30])
    (folder / "cut.gz").write_bytes(gzip.compress(os.urandom(100_000))[:50_000])
    (folder / "fake.zip").write_bytes(b"PK\x03\x04" + bytes(range(200)))
    (folder / "fake.xz").write_bytes(b"\xfd7zXZ\x00" + bytes(range(200)))
    (folder / "fake.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(range(200)))
    (folder / "fake.arrow").write_bytes(b"\xff\xff\xff\xff" + b"\x00" * 4 + b"\xfe" * 200)
    with zipfile.ZipFile(folder / "locked.zip", "w") as archive:
        archive.writestr("a", "b")
    locked = bytearray((folder / "locked.zip").read_bytes())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        locked[locked.index(start) + (6 if start == b"PK\x03\x04" else 8)] |= 1  # the flag of encryption
    (folder / "locked.zip").write_bytes(locked)
    return ["cut.parquet", "cut.gz", "fake.zip", "fake.xz", "fake.zst", "fake.arrow", "locked.zip"]


def test_damaged_files_are_not_called_clean(root: Path) -> None:
    """Whatever cannot be read to its end is listed as unknown, and everything else is still searched."""
    planted.write_csv(root / "innocent.csv", planted.RETAIN)
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(planted.RETAIN), root / "whole.parquet")
    expected = damaged(root)
    (root / "zz.log").write_text(planted.CANARIES[0])
    found = find(root)
    unknown = {residue.place.name for residue in found if residue.kind == "unreadable"}
    assert unknown == set(expected)
    assert {residue.place.name for residue in found} - unknown == {"zz.log"}
    assert all("not known" in residue.reason for residue in found if residue.kind == "unreadable")


def test_a_file_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused permission is a reason, not the end of the search."""
    (root / "secret.log").write_text("x")
    (root / "zz.log").write_text(planted.CANARIES[0])
    whole = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "secret.log":
            raise PermissionError
        return whole(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    found = find(root)
    assert {residue.place.name: residue.removable for residue in found} == {"secret.log": False, "zz.log": True}


def test_a_folder_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed folder is listed as unknown: nothing is called clean that was not looked at."""
    (root / "closed").mkdir()
    scan = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr("os.scandir", refuse)
    (stay,) = remove(find(root))
    assert stay.place == root / "closed"


def test_what_a_killed_purge_leaves(root: Path) -> None:
    """The half-written file of a purge that was killed goes with the next one."""
    (root / ".train.log.ab12cd_9.part").write_text(planted.CANARIES[0])
    assert remove(find(root)) == []
    assert list(root.iterdir()) == []


def test_a_damaged_database(root: Path) -> None:
    """A SQLite file that was cut off, with a text in it, is listed and left as it is."""
    with closing(sqlite3.connect(root / "a.db")) as database, database:
        database.execute("CREATE TABLE t (text)")
        database.executemany("INSERT INTO t VALUES (?)", [(text,) for text in planted.TEXTS * 50])
    content = (root / "a.db").read_bytes()
    (root / "a.db").write_bytes(content[: len(content) // 2])
    (stay,) = remove(find(root))
    assert "damaged" in stay.reason
    assert (root / "a.db").read_bytes() == content[: len(content) // 2]


def test_a_database_in_use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection writes: the database stays, with what to do."""
    monkeypatch.setattr("unlearn.purge.sqlite.WAIT_SECONDS", 0.01)
    with planted.planted_databases(root / "databases"):
        found = [residue for residue in find(root) if residue.place.name == "free.db"]
        with closing(sqlite3.connect(root / "databases" / "free.db", isolation_level=None)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            (stay,) = remove(found)
        assert "in use" in stay.reason
        assert remove(found) == []


def test_inches_are_no_quotation_marks(root: Path) -> None:
    """A CSV file whose quotation marks do not pair is left alone: rows of others would go with the one."""
    rows = f'name,size\npipe,5" wide\n{planted.CANARIES[1].splitlines()[0]},1\nother,7" wide\n'
    (root / "dump.csv").write_text(rows)
    (stay,) = remove(find(root))
    assert "quotation marks" in stay.reason
    assert (root / "dump.csv").read_text() == rows


def test_changed_while_it_was_removed(root: Path) -> None:
    """A file that is gone by the time it is to be mended is no failure."""
    (root / "a.log").write_text(planted.CANARIES[0])
    found = find(root)
    (root / "a.log").unlink()
    assert remove(found) == []


def test_a_full_disk_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new file cannot be written, the old one stays whole, no temporary file is left, and the reason is given."""
    (root / "a.log").write_text(f"before\n{planted.CANARIES[0]}\nafter\n")
    found = find(root)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (stay,) = remove(found)
    monkeypatch.undo()
    assert "no space left" in stay.reason
    assert [path.name for path in root.iterdir()] == ["a.log"]
    assert (root / "a.log").read_text().startswith("before\n")


def test_no_folder(root: Path) -> None:
    """A root that is no folder is a clear error."""
    with pytest.raises(InputError, match="--search"):
        find(root / "absent")


def test_long_lines_and_wide_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line too long to hold in memory and a log in UTF-16 are listed, not broken."""
    monkeypatch.setattr("unlearn.purge.redact.LARGEST_ROW", 1000)
    (root / "long.log").write_text("x" * 2000 + planted.CANARIES[0])
    (root / "wide.log").write_bytes(planted.CANARIES[0].encode("utf-16"))
    before = {path: path.read_bytes() for path in root.iterdir()}
    stay = remove(find(root))
    assert len(stay) == 2
    assert {path: path.read_bytes() for path in root.iterdir()} == before


def test_reading_stops_at_the_first_find(root: Path) -> None:
    """A text before the damage is found; a whole file is not called unreadable for what comes after."""
    (root / "a.gz").write_bytes(gzip.compress(planted.CANARIES[0].encode()) + b"\x1f\x8bgarbage")
    assert holds(root / "a.gz", SEARCH)
    (root / "b.gz").write_bytes(gzip.compress(b"nothing") + b"\x1f\x8bgarbage")
    with pytest.raises(UnreadableError):
        holds(root / "b.gz", SEARCH)
