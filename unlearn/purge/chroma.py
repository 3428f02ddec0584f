"""Cleaning of Chroma's persistent stores, with the library `chromadb`.

Chroma marks a deleted vector in its index and keeps the row in its queue, where both stay. So a collection with deleted text is
written again without these rows, under its own name and configuration, and what remains of the old one is removed.
"""

import shutil
import sqlite3
from collections.abc import Collection, Iterator
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
"""Name of a collection until it takes the place of the old one; an interrupted cleaning leaves it, and the next one removes it."""
_PARTS = ("documents", "metadatas", "uris")


def is_store(folder: Path) -> bool:
    """Return whether a folder is a persistent store of Chroma."""
    return (folder / DATABASE).is_file()


def missing() -> str:
    """Return why stores cannot be cleaned here; "" where they can."""
    return "" if find_spec("chromadb") else "it is a Chroma store; to clean it: pip install chromadb"


def chroma_holds(files: Collection[Path], search: ContentSearch) -> bool:
    """Return whether any file of a store contains deleted text."""
    return any(holds(path, search) for path in sorted(files))


def clean_chroma(folder: Path, search: ContentSearch) -> None:
    """Write the collections with deleted text again without it, and remove what is left of the old ones.

    Raises:
        CannotCleanError: chromadb cannot open the store, or something of the text is left.
    """
    import chromadb
    from chromadb.api.client import SharedSystemClient
    from chromadb.config import Settings

    try:
        client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
        try:
            for name in [collection.name for collection in client.list_collections()]:
                _rewrite(client, folder, name, search)
        finally:
            client._system.stop()
            SharedSystemClient.clear_system_cache()
    except CannotCleanError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged store may fail in any way in a foreign library
        raise CannotCleanError(f"the Chroma store cannot be written again ({type(error).__name__}); delete its rows") from None
    _remove_rest(folder)
    sqlite.vacuum(folder / DATABASE, search)
    if chroma_holds([path for path in folder.rglob("*") if path.is_file()], search):
        raise CannotCleanError("it still contains a passage after its collections were written again; remove it by hand")


def _rewrite(client: Any, folder: Path, name: str, search: ContentSearch) -> None:
    """Replace one collection by one without the rows that contain deleted text, if there are any."""
    if name == BEING_WRITTEN:
        client.delete_collection(name)
        return
    old = client.get_collection(name, embedding_function=None)
    if all(_keeps(row, search) for page in _pages(old, ()) for row in page):
        return
    settings = (old.configuration_json.get("hnsw") or {}) if isinstance(old.configuration_json, dict) else {}
    configuration = {"hnsw": {key: value for key, value in settings.items() if value is not None}} if settings else None
    new = client.create_collection(BEING_WRITTEN, metadata=old.metadata, configuration=configuration, embedding_function=None)
    for page in _pages(old, ("embeddings",)):
        for rows in _alike([row for row in page if _keeps(row, search)]):
            given = {part: [row[part] for row in rows] for part in ("embeddings", *_PARTS) if rows[0][part] is not None}
            new.add(ids=[row["ids"] for row in rows], **given)
    stored = _configuration(folder, name)
    client.delete_collection(name)
    new.modify(name=name)
    _configure(folder, name, stored)


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
    """Group rows that have the same parts: Chroma takes a part for all rows of a call or for none."""
    groups: dict[tuple[bool, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[part] is None for part in _PARTS), []).append(row)
    yield from groups.values()


def _configuration(folder: Path, name: str) -> dict[str, str | None]:
    """Return what the store has written down about a collection beside its rows, such as its embedding function."""
    with closing(sqlite3.connect(folder / DATABASE, timeout=sqlite.WAIT_SECONDS)) as connection:
        columns = [str(row[1]) for row in connection.execute("PRAGMA table_info(collections)")]
        kept = [column for column in ("config_json_str", "schema_str") if column in columns]
        if not kept:
            return {}
        row = connection.execute(f"SELECT {', '.join(kept)} FROM collections WHERE name = ?", (name,)).fetchone()  # noqa: S608 - of two names
    return dict(zip(kept, row, strict=True))


def _configure(folder: Path, name: str, stored: dict[str, str | None]) -> None:
    with closing(sqlite3.connect(folder / DATABASE, timeout=sqlite.WAIT_SECONDS)) as connection, connection:
        for column, value in stored.items():
            connection.execute(f"UPDATE collections SET {column} = ? WHERE name = ?", (value, name))  # noqa: S608 - as above


def _remove_rest(folder: Path) -> None:
    """Remove the index folders of collections that are gone, and merge the full-text index, which keeps deleted words."""
    with closing(sqlite3.connect(folder / DATABASE, timeout=sqlite.WAIT_SECONDS)) as connection, connection:
        living = {str(row[0]) for row in connection.execute("SELECT id FROM segments")}
        connection.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('optimize')")
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and (path / "header.bin").is_file() and path.name not in living:
            shutil.rmtree(path)
