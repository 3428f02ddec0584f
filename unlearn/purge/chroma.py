"""Cleaning of Chroma's persistent stores, with the library `chromadb`.

Chroma marks a deleted vector in its index and keeps the row in its queue, where both stay. So a collection with deleted text is
rewritten without these rows, under its own name and configuration, and what remains of the old one is removed:

    name               old rows   old rows    kept rows   kept rows
    BEING_WRITTEN      -          kept rows   -           -
    BEING_REMOVED      -          -           old rows    -

Both names change hands in one SQLite transaction. So at every moment `name` is a whole collection and the other two are redundant:
a killed cleaning has lost nothing, and the next one removes them and begins again. An earlier version removed the old collection
first, and a kill before the new one had its name left nothing else of it; so BEING_WRITTEN is removed only where another collection
has all of its rows.
"""

import os
import shutil
import sqlite3
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unlearn.purge import sqlite
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.redact import strings_in
from unlearn.purge.residue import CannotCleanError
from unlearn.purge.unpack import holds

DATABASE = "chroma.sqlite3"
ROWS = 512
BEING_WRITTEN = "being-written-without-deleted-rows"
"""Name of a collection until it takes the place of the old one."""
BEING_REMOVED = "being-removed-with-deleted-rows"
"""Name of the old collection after that."""
LENGTH_BYTES = 4
_HEADER = struct.Struct("<iQQQQ")
"""Start of an index's header: version, an offset, room for elements, elements used, bytes of one."""
_PARTS = ("documents", "metadatas", "uris")


def is_store(folder: Path) -> bool:
    """Return whether a folder is a persistent store of Chroma."""
    return (folder / DATABASE).is_file()


def missing() -> str:
    """Return why stores cannot be cleaned here; "" where they can."""
    return "" if find_spec("chromadb") else "it is a Chroma store; to clean it: pip install chromadb"


def chroma_holds(files: Collection[Path], search: ContentSearch) -> bool:
    """Return whether any file of a store contains deleted text, or a killed cleaning has left a collection in it."""
    return any(holds(path, search) for path in sorted(files)) or any(_was_killed(path) for path in files if path.name == DATABASE)


def _was_killed(database: Path) -> bool:
    query = "SELECT 1 FROM collections WHERE name IN (?, ?)"
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query, (BEING_WRITTEN, BEING_REMOVED)).fetchone() is not None
    except sqlite3.Error:  # no store, or one of another layout
        return False


def clean_chroma(folder: Path, search: ContentSearch) -> None:
    """Rewrite the collections with deleted text without it, and remove what is left of the old ones.

    Raises:
        CannotCleanError: chromadb cannot open the store, or something of the text is left.
    """
    import chromadb
    from chromadb.api.client import SharedSystemClient
    from chromadb.config import Settings

    try:
        client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
        try:
            clean_collections(client, folder, search)
        finally:
            client._system.stop()
            SharedSystemClient.clear_system_cache()
    except CannotCleanError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged store may fail in any way in a foreign library
        raise CannotCleanError(f"the Chroma store cannot be written again ({type(error).__name__}); delete its rows") from None
    _remove_rest(folder)
    for index in folder.glob("*/header.bin"):
        clear_unused(index.parent)
    sqlite.vacuum(folder / DATABASE, search)
    if chroma_holds([path for path in folder.rglob("*") if path.is_file()], search):
        raise CannotCleanError("it still contains a passage after its collections were written again; remove it by hand")


def clean_collections(client: Any, folder: Path, search: ContentSearch) -> None:
    """Replace every collection that contains deleted text by one without these rows, and remove what a killed cleaning has left.

    Args:
        client: a client of the store.
        folder: the store.
        search: the search for the deleted records.

    Raises:
        CannotCleanError: the store is laid out in another way, another program writes into it, or what was left has rows that are
            nowhere else. Nothing is changed then.
    """
    names = [collection.name for collection in client.list_collections()]
    if BEING_WRITTEN in names:
        _require_redundant(client, [name for name in names if name != BEING_WRITTEN])
    for name in (BEING_WRITTEN, BEING_REMOVED):
        if name in names:
            client.delete_collection(name)
    for name in names:
        if name not in (BEING_WRITTEN, BEING_REMOVED):
            _rewrite(client, folder, name, search)


def _require_redundant(client: Any, others: Sequence[str]) -> None:
    """Check that one of the other collections has all rows of the one that a killed cleaning was writing.

    Raises:
        CannotCleanError: no other collection has them.
    """
    left = client.get_collection(BEING_WRITTEN, embedding_function=None)
    for name in others:
        other = client.get_collection(name, embedding_function=None)
        if all(_has_all(other, page) for page in _pages(left, ())):
            return
    if left.count():
        raise CannotCleanError(
            f"the collection {BEING_WRITTEN} has {left.count()} rows that no other one has: a cleaning by an earlier version was "
            "killed after it had removed the collection that this one was to replace. Give it that one's name "
            f'(client.get_collection("{BEING_WRITTEN}").modify(name=...)), or delete it if nothing is missing; then purge again'
        )


def _has_all(collection: Any, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether a collection has these rows, with the same documents, metadata and addresses."""
    found = collection.get(ids=[row["ids"] for row in rows], include=list(_PARTS))
    there = {
        name: {part: found[part][number] if found.get(part) is not None else None for part in _PARTS}
        for number, name in enumerate(found["ids"])
    }
    return all(there.get(row["ids"]) == {part: row[part] for part in _PARTS} for row in rows)


def _rewrite(client: Any, folder: Path, name: str, search: ContentSearch) -> None:
    """Replace one collection by one without the rows that contain deleted text, if there are any."""
    old = client.get_collection(name, embedding_function=None)
    if all(_keeps(row, search) for page in _pages(old, ()) for row in page):
        return
    settings = (old.configuration_json.get("hnsw") or {}) if isinstance(old.configuration_json, dict) else {}
    configuration = {"hnsw": {key: value for key, value in settings.items() if value is not None}} if settings else None
    new = client.create_collection(BEING_WRITTEN, metadata=old.metadata, configuration=configuration, embedding_function=None)
    seen = kept = 0
    for page in _pages(old, ("embeddings",)):
        seen += len(page)
        for rows in _alike([row for row in page if _keeps(row, search)]):
            given = {part: [row[part] for row in rows] for part in ("embeddings", *_PARTS) if rows[0][part] is not None}
            new.add(ids=[row["ids"] for row in rows], **given)
            kept += len(rows)
    if (old.count(), new.count()) != (seen, kept):
        raise CannotCleanError("its rows changed while it was being written again; stop the programs that use it, then purge again")
    _exchange(folder / DATABASE, name, str(old.id), str(new.id))
    client.delete_collection(BEING_REMOVED)


def _exchange(database: Path, name: str, old: str, new: str) -> None:
    """Give the new collection the name of the old one, and what the store says about it, such as its embedding function.

    Raises:
        CannotCleanError: the store does not keep its collections as expected; nothing is changed then.
    """
    with closing(sqlite3.connect(database, timeout=sqlite.WAIT_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # closing without a commit takes it back
        there = [str(row[1]) for row in connection.execute("PRAGMA table_info(collections)")]
        described = [column for column in ("config_json_str", "schema_str") if column in there]
        taken = [f", {column} = (SELECT {column} FROM collections WHERE id = :old)" for column in described]  # noqa: S608 - of two names
        updates = (
            "UPDATE collections SET name = :removed WHERE id = :old AND name = :name",
            f"UPDATE collections SET name = :name{''.join(taken)} WHERE id = :new AND name = :written",  # noqa: S608 - as above
        )
        names = {"name": name, "old": old, "new": new, "written": BEING_WRITTEN, "removed": BEING_REMOVED}
        for update in updates:
            if connection.execute(update, names).rowcount != 1:
                raise CannotCleanError("the Chroma store keeps its collections in another way than is known here; delete its rows")
        connection.execute("COMMIT")


def _pages(collection: Any, more: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a collection in pages: id, document, metadata, address and, if asked for, vector."""
    for start in range(0, collection.count(), ROWS):
        found = collection.get(limit=ROWS, offset=start, include=[*_PARTS, *more])
        parts = {part: found[part] for part in (*_PARTS, *more) if found.get(part) is not None}
        yield [
            {"ids": name, **{part: parts[part][number] if part in parts else None for part in ("embeddings", *_PARTS)}}
            for number, name in enumerate(found["ids"])
        ]


def _keeps(row: dict[str, Any], search: ContentSearch) -> bool:
    return not search.holds("\x00".join(strings_in([row["ids"], *(row[part] for part in _PARTS)])))


def _alike(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Group rows that have the same parts: a call to Chroma has each part for all of its rows, or for none."""
    groups: dict[tuple[bool, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[part] is None for part in _PARTS), []).append(row)
    yield from groups.values()


def _remove_rest(folder: Path) -> None:
    """Remove the index folders of collections that are gone, and merge the full-text index, which keeps deleted words."""
    with closing(sqlite3.connect(folder / DATABASE, timeout=sqlite.WAIT_SECONDS)) as connection, connection:
        living = {str(row[0]) for row in connection.execute("SELECT id FROM segments")}
        connection.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('optimize')")
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and (path / "header.bin").is_file() and path.name not in living:
            shutil.rmtree(path)


def clear_unused(index: Path) -> None:
    """Overwrite the unused places of an index with zeros.

    The library allocates room for elements to come and writes it to disk as it found it, with whatever its process had in memory
    there: texts of rows, too. A file of another layout is left as it is.

    Args:
        index: the folder of an index.
    """
    head = (index / "header.bin").read_bytes()[: _HEADER.size]
    if len(head) < _HEADER.size:
        return
    version, _, room, used, size = _HEADER.unpack(head)
    for name, each in (("data_level0.bin", size), ("length.bin", LENGTH_BYTES)):
        path = index / name
        if version != 1 or used > room or path.is_symlink() or not path.is_file() or path.stat().st_size != room * each:
            continue
        with path.open("r+b") as stream:
            stream.seek(used * each)
            stream.write(bytes((room - used) * each))
            stream.flush()
            os.fsync(stream.fileno())
