"""A cleaning of Chroma that is killed loses no row: the collection is always whole, and the next cleaning ends the work."""

import itertools
import os
import sqlite3
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from planted_residues import FORGET, RETAIN, ROWS

from unlearn.purge import chroma
from unlearn.purge.chroma import BEING_REMOVED, BEING_WRITTEN, DATABASE, clean_chroma, clean_collections, clear_unused
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.residue import CannotCleanError
from verify.data.sources import load_records

SEARCH = ContentSearch(load_records(FORGET), load_records(RETAIN))
KEPT = [f"p{number}" for number, row in enumerate(ROWS) if row not in FORGET]
EVERYBODY = [f"p{number}" for number in range(len(ROWS))]


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


class Collection:
    """The part of a collection of Chroma that a cleaning uses, over the store's own table of collections."""

    metadata = None
    configuration_json: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, store: "Store", own: str) -> None:
        self.store, self.id = store, own
        self.name = store.sql("SELECT name FROM collections WHERE id = ?", own)[0][0]

    def count(self) -> int:
        return len(self.store.rows(self.id))

    def get(self, include: list[str], limit: int = 512, offset: int = 0, ids: list[str] | None = None) -> dict[str, Any]:
        rows = self.store.rows(self.id)[offset : offset + limit]
        rows = rows if ids is None else [row for row in self.store.rows(self.id) if row[0] in ids]
        return {"ids": [name for name, _ in rows], "documents": [text for _, text in rows], "embeddings": [[0.0]] * len(rows)}

    def add(self, ids: list[str], documents: list[str], embeddings: Any) -> None:
        for name, text in zip(ids, documents, strict=True):
            self.store.change("INSERT INTO rows VALUES (?, ?, ?)", self.id, name, text)


class Store:
    """A store with Chroma's table of collections, and a client of it that is killed before its `kill`-th change."""

    def __init__(self, folder: Path, kill: int | None = None) -> None:
        self.folder, self.left = folder, kill
        if not (folder / DATABASE).exists():
            self.sql("CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT UNIQUE, config_json_str TEXT)")
            self.sql("CREATE TABLE rows (collection TEXT, name TEXT, text TEXT)")

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.folder / DATABASE)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def change(self, statement: str, *values: Any) -> None:
        if self.left == 0:
            raise KilledError
        self.left = None if self.left is None else self.left - 1
        self.sql(statement, *values)

    def rows(self, own: str) -> list[Any]:
        return self.sql("SELECT name, text FROM rows WHERE collection = ? ORDER BY rowid", own)

    def named(self, name: str) -> list[str]:
        (own,) = self.sql("SELECT id FROM collections WHERE name = ?", name)[0]
        return [row for row, _ in self.rows(own)]

    def list_collections(self) -> list[Collection]:
        return [Collection(self, own) for (own,) in self.sql("SELECT id FROM collections ORDER BY rowid")]

    def get_collection(self, name: str, embedding_function: None) -> Collection:
        return Collection(self, self.sql("SELECT id FROM collections WHERE name = ?", name)[0][0])

    def create_collection(self, name: str, metadata: Any = None, configuration: Any = None, embedding_function: None = None) -> Any:
        own = str(uuid.uuid4())
        self.change("INSERT INTO collections VALUES (?, ?, 'fresh')", own, name)
        return Collection(self, own)

    def delete_collection(self, name: str) -> None:
        (own,) = self.sql("SELECT id FROM collections WHERE name = ?", name)[0]
        self.change("DELETE FROM rows WHERE collection = ?", own)
        self.change("DELETE FROM collections WHERE id = ?", own)


def planted_store(folder: Path) -> Store:
    """Two collections of everybody, and one of nobody."""
    folder.mkdir()
    store = Store(folder)
    for name, rows in (("people", ROWS), ("other", [{"completion": "Nothing about anybody."}]), ("again", ROWS)):
        made = store.create_collection(name)
        store.sql("UPDATE collections SET config_json_str = ? WHERE name = ?", f"of {name}", name)
        made.add([f"p{number}" for number in range(len(rows))], [row["completion"] for row in rows], None)
    return store


@pytest.fixture
def exchanging(monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], None]:
    """Let the exchange of names count as one change, which it is, being one transaction."""
    whole = chroma._exchange

    def install(store: Store) -> None:
        def counted(*given: Any) -> None:
            store.change("SELECT 1")
            whole(*given)

        monkeypatch.setattr(chroma, "_exchange", counted)

    return install


@pytest.mark.slow
def test_a_kill_before_any_change_loses_nothing(tmp_path: Path, exchanging: Callable[[Store], None]) -> None:
    """Whichever change comes no more: each collection is there under its name, with all rows to keep; the next run finishes."""
    for kill in itertools.count():
        folder = tmp_path / str(kill)
        planted_store(folder)
        killed = Store(folder, kill)
        exchanging(killed)
        try:
            clean_collections(killed, folder, SEARCH)
            break
        except KilledError:
            pass
        after = Store(folder)
        for name in ("people", "again"):
            assert after.named(name) in (KEPT, EVERYBODY), (kill, name)
        exchanging(after)
        clean_collections(after, folder, SEARCH)
        assert sorted(one.name for one in after.list_collections()) == ["again", "other", "people"]
        assert (after.named("people"), after.named("again"), after.named("other")) == (KEPT, KEPT, ["p0"])
        described = dict(after.sql("SELECT name, config_json_str FROM collections"))
        assert described == {name: f"of {name}" for name in ("people", "other", "again")}
    assert kill == 2 * (1 + len(KEPT) + 1 + 2), "every change of a whole cleaning was killed once"


@pytest.mark.slow
def test_two_kills_in_a_row(tmp_path: Path, exchanging: Callable[[Store], None]) -> None:
    """A cleaning that is killed while it removes what another one left is taken up as well."""
    for first, second in itertools.product(range(1, 12), range(4)):
        folder = tmp_path / f"{first}-{second}"
        planted_store(folder)
        for kill in (first, second, None):
            store = Store(folder, kill)
            exchanging(store)
            try:
                clean_collections(store, folder, SEARCH)
            except KilledError:
                assert store.named("people") in (KEPT, EVERYBODY)
        assert (store.named("people"), len(store.list_collections())) == (KEPT, 3)


def test_a_row_that_comes_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that writes during a cleaning is noticed before the exchange; the next cleaning takes its row along."""
    folder, whole = tmp_path / "store", Collection.add
    store = planted_store(folder)

    def beside(self: Collection, *given: Any, **named: Any) -> None:
        whole(self, *given, **named)
        monkeypatch.setattr(Collection, "add", whole)
        store.sql("INSERT INTO rows VALUES (?, 'late', 'Nothing about anybody.')", store.get_collection("people", None).id)

    monkeypatch.setattr(Collection, "add", beside)
    with pytest.raises(CannotCleanError, match="stop the programs"):
        clean_collections(store, folder, SEARCH)
    assert store.named("people") == [*EVERYBODY, "late"]
    clean_collections(store, folder, SEARCH)
    assert store.named("people") == [*KEPT, "late"]


def test_what_an_earlier_version_left_of_a_collection_is_not_removed(tmp_path: Path) -> None:
    """It removed the old collection before the new one had its name: killed in between, it left the only copy of the rows under the
    other name. That copy is found even where no deleted text is left, reported, kept, and cleaned once it has its name again."""
    folder = tmp_path / "store"
    store = planted_store(folder)
    for name in ("again", "other"):
        store.delete_collection(name)
    assert chroma.chroma_holds([folder / DATABASE], SEARCH)
    clean_collections(store, folder, SEARCH)
    store.sql("VACUUM")
    assert not chroma.chroma_holds([folder / DATABASE], SEARCH)
    store.create_collection("other").add(KEPT, ["Other texts under the same names."] * len(KEPT), None)
    store.sql("UPDATE collections SET name = ? WHERE name = 'people'", BEING_WRITTEN)
    assert chroma.chroma_holds([folder / DATABASE], SEARCH), "a collection is missing"
    with pytest.raises(CannotCleanError, match=f"{len(KEPT)} rows that no other one has.*modify"):
        clean_collections(store, folder, SEARCH)
    assert store.named(BEING_WRITTEN) == KEPT
    store.sql("UPDATE collections SET name = 'people' WHERE name = ?", BEING_WRITTEN)
    clean_collections(store, folder, SEARCH)
    assert (store.named("people"), store.named("other")) == (KEPT, KEPT)
    store.create_collection(BEING_WRITTEN)
    clean_collections(store, folder, SEARCH)
    assert sorted(one.name for one in store.list_collections()) == ["other", "people"], "one without rows is nobody's"


def test_a_store_of_another_layout_is_not_changed(tmp_path: Path) -> None:
    """Where the names cannot be exchanged as a whole, none is."""
    store = planted_store(tmp_path / "store")
    store.create_collection(BEING_WRITTEN)
    before = store.sql("SELECT * FROM collections ORDER BY id")
    new = store.get_collection(BEING_WRITTEN, None).id
    for old, other in (("no id", new), (store.get_collection("people", None).id, "no id")):
        with pytest.raises(CannotCleanError, match="another way"):
            chroma._exchange(tmp_path / "store" / DATABASE, "people", old, other)
    assert store.sql("SELECT * FROM collections ORDER BY id") == before


def test_what_an_index_wrote_of_the_memory_is_overwritten(tmp_path: Path) -> None:
    """Places of elements to come are zeros afterwards, those in use stay; files of another layout are left as they are."""
    used, garbage = b"v" * 64, ROWS[1]["completion"].encode()[:80].ljust(160, b"x")
    for name, version, length in (("own", 1, 224), ("other", 2, 224), ("longer", 1, 225)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "header.bin").write_bytes(struct.pack("<iQQQQ", version, 0, 7, 2, 32) + b"more")
        (tmp_path / name / "data_level0.bin").write_bytes((used + garbage).ljust(length, b"x"))
        (tmp_path / name / "length.bin").write_bytes(b"lengths!" + b"x" * 20)
        clear_unused(tmp_path / name)
    assert (tmp_path / "own" / "data_level0.bin").read_bytes() == used + bytes(160)
    assert (tmp_path / "own" / "length.bin").read_bytes() == b"lengths!" + bytes(20)
    for name in ("other", "longer"):
        assert (tmp_path / name / "data_level0.bin").read_bytes().startswith(used + garbage)
    (tmp_path / "own" / "header.bin").write_bytes(b"")
    clear_unused(tmp_path / "own")


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_chroma_kills import SEARCH, chroma, clean_chroma

def kill_before(owner, name):
    setattr(owner, name, lambda *given, **named: os.kill(os.getpid(), 9))

def kill_after(owner, name):
    whole = getattr(owner, name)
    def last(*given, **named):
        whole(*given, **named)
        os.kill(os.getpid(), 9)
    setattr(owner, name, last)

from chromadb.api.client import Client
{kill}
clean_chroma(Path({store!r}), SEARCH)
"""


@pytest.mark.parametrize(
    "kill",
    [
        "kill_after(Client, 'create_collection')",
        "kill_before(chroma, '_exchange')",
        "kill_after(chroma, '_exchange')",
        "kill_after(Client, 'delete_collection')",
        "kill_before(chroma, '_remove_rest')",
        "kill_before(chroma.sqlite, 'vacuum')",
    ],
)
def test_a_real_store_survives_kill_9(tmp_path: Path, kill: str) -> None:
    """Chroma itself opens what a killed cleaning left, with all rows to keep, and the next cleaning ends it."""
    chromadb = pytest.importorskip("chromadb", reason="chromadb is not installed")
    from chromadb.api.client import SharedSystemClient

    def ids() -> tuple[list[str], list[str]]:
        client = chromadb.PersistentClient(str(tmp_path / "store"), settings=chromadb.Settings(anonymized_telemetry=False))
        found = sorted(client.get_collection("people", embedding_function=None).get()["ids"])
        names = sorted(one.name for one in client.list_collections())
        client._system.stop()
        SharedSystemClient.clear_system_cache()
        return found, names

    client = chromadb.PersistentClient(str(tmp_path / "store"), settings=chromadb.Settings(anonymized_telemetry=False))
    people = client.create_collection("people", embedding_function=None)
    vectors = [[float(number), 1.0] for number in range(len(ROWS))]
    people.add(ids=EVERYBODY, embeddings=vectors, documents=[row["completion"] for row in ROWS])
    client._system.stop()
    SharedSystemClient.clear_system_cache()
    paths = [str(Path(__file__).parent), *sys.path]
    program = KILLED.format(path=paths, kill=kill, store=str(tmp_path / "store"))
    assert subprocess.run([sys.executable, "-c", program], env=os.environ, check=False).returncode == -9
    found, names = ids()
    assert found in (sorted(KEPT), sorted(EVERYBODY))
    assert set(names) <= {"people", BEING_WRITTEN, BEING_REMOVED}
    clean_chroma(tmp_path / "store", SEARCH)
    # Before the library opens the store again: its index may write what was in this process's memory.
    assert not any(SEARCH.holds(path.read_bytes()) for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert ids() == (sorted(KEPT), ["people"])


def test_a_real_store_keeps_what_an_earlier_version_left(tmp_path: Path) -> None:
    """With Chroma itself: the only copy of the rows stays under the other name until it has its own again."""
    chromadb = pytest.importorskip("chromadb", reason="chromadb is not installed")
    from chromadb.api.client import SharedSystemClient

    def with_store(work: Callable[[Any], Any]) -> Any:
        client = chromadb.PersistentClient(str(tmp_path / "store"), settings=chromadb.Settings(anonymized_telemetry=False))
        found = work(client)
        client._system.stop()
        SharedSystemClient.clear_system_cache()
        return found

    def killed(client: Any) -> None:
        for name, rows in (("people", ROWS), (BEING_WRITTEN, RETAIN)):
            vectors = [[float(number), 1.0] for number in range(len(rows))]
            ids = [f"{row['example_id']}" for row in rows]
            texts = [row["completion"] for row in rows]
            made = client.create_collection(name, embedding_function=None)
            made.add(ids=ids, embeddings=vectors, documents=texts, metadatas=[{"number": 1}] * len(rows))
        client.delete_collection("people")

    with_store(killed)
    with pytest.raises(CannotCleanError, match=f"{len(RETAIN)} rows that no other one has"):
        clean_chroma(tmp_path / "store", SEARCH)
    with_store(lambda client: client.get_collection(BEING_WRITTEN, embedding_function=None).modify(name="people"))
    clean_chroma(tmp_path / "store", SEARCH)
    assert with_store(lambda client: client.get_collection("people", embedding_function=None).count()) == len(RETAIN)
    assert not any(SEARCH.holds(path.read_bytes()) for path in (tmp_path / "store").rglob("*") if path.is_file())
