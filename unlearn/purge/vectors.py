"""Vector indexes that hold deleted texts: LanceDB tables, FAISS indexes with their rows, Chroma stores, local Qdrant collections.

A text can be guessed from its vector, so row and vector are removed together. Indexes that nothing here can read (a FAISS index
whose rows are not beside it, the storage of a Qdrant server, a library that is missing) are listed as not searched.
"""

import fcntl
import sqlite3
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unlearn.purge import chroma, sqlite
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.formats import UnreadableError
from unlearn.purge.redact import strings_in
from unlearn.purge.residue import CannotCleanError
from unlearn.purge.unpack import holds
from verify.io.extras import install
from verify.io.files import atomic_file

KIND = "vector index"
INSTALL = install("vectors")
ROWS = 1024
QDRANT_FILE = "storage.sqlite"
_FAISS_SUFFIXES = (".faiss", ".index")
_FAISS_STARTS = (b"Ix", b"Iw", b"IH", b"IB")
"""How the four-letter codes of FAISS indexes begin."""


@dataclass(frozen=True)
class Store:
    """A vector index that lies in more than one file.

    Attributes:
        place: the folder of a table, or the file of an index.
        files: the files that are searched and cleaned as a whole.
        holds: returns whether it contains deleted text; raises UnreadableError where that cannot be known.
        clean: removes rows with deleted text, and their vectors.
        missing: why it cannot be cleaned here, such as a library that is missing; "" where it can.
        rows: a file of its rows that other programs can read as well, and that may be training data; None where there is none.
    """

    place: Path
    files: frozenset[Path]
    holds: Callable[[ContentSearch], bool]
    clean: Callable[[Path, ContentSearch], None]
    missing: str = ""
    rows: Path | None = None


def stores(folders: Sequence[Path], files: Collection[Path]) -> Iterator[Store]:
    """Yield the vector indexes among some folders and files."""
    for folder in folders:
        if folder.suffix.lower() == ".lance" and (folder / "_versions").is_dir():
            inside = _inside(folder, files)
            yield Store(folder, inside, partial(_lance_holds, folder, inside), _clean_lance)
        elif chroma.is_store(folder):
            inside = _inside(folder, files)
            yield Store(folder, inside, partial(chroma.chroma_holds, inside), chroma.clean_chroma, chroma.missing())
        elif (folder / "raft_state.json").is_file() and (folder / "collections").is_dir():
            yield Store(folder, _inside(folder, files), _qdrant_server, _nothing)
    for path in sorted(files):
        if path.suffix.lower() in _FAISS_SUFFIXES and _begins(path, _FAISS_STARTS):
            rows = path.with_suffix(".jsonl")
            beside = frozenset({path, rows} if rows in files else {path})
            missing = "" if find_spec("faiss") else f"it is a FAISS index; to clean it: {INSTALL}"
            yield Store(path, beside, partial(_faiss_holds, rows), _clean_faiss, missing, rows if rows in files else None)


def _inside(folder: Path, files: Collection[Path]) -> frozenset[Path]:
    return frozenset(path for path in files if path.is_relative_to(folder))


def _begins(path: Path, starts: tuple[bytes, ...]) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(starts)
    except OSError:  # listed as unreadable by the search of its content
        return False


def _nothing(_: Path, __: ContentSearch) -> None:
    raise CannotCleanError("it is not changed here; delete the rows through its own program")


def _qdrant_server(_: ContentSearch) -> bool:
    raise UnreadableError("is the storage of a Qdrant server, which packs its rows; delete the points through its API")


def is_qdrant_collection(path: Path) -> bool:
    """Return whether a SQLite file is a collection of Qdrant's local mode."""
    return path.name == QDRANT_FILE and path.parent.parent.name == "collection" and (path.parents[2] / "meta.json").is_file()


def clean_qdrant(path: Path, search: ContentSearch) -> None:
    """Delete the points with deleted text from a local Qdrant collection, each with its vectors.

    The points are pickles: they are searched as bytes and never opened.

    Raises:
        CannotCleanError: the collection is in use, damaged, or laid out in another way.
    """
    with (path.parents[2] / ".lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotCleanError("the collection is in use; stop its program, then purge again") from None
        try:
            with closing(sqlite3.connect(path, timeout=sqlite.WAIT_SECONDS)) as connection, connection:
                rows = connection.execute("SELECT rowid, point FROM points")
                found = [number for number, point in rows if isinstance(point, bytes) and search.holds(point)]
                connection.executemany("DELETE FROM points WHERE rowid = ?", [(number,) for number in found])
        except sqlite3.Error as error:
            raise CannotCleanError(f"the collection cannot be changed ({type(error).__name__}); delete its points") from None
        sqlite.vacuum(path, search)


def _lance(folder: Path) -> Any:
    """Open a LanceDB table.

    Raises:
        UnreadableError: the library is missing, or the table is damaged.
    """
    try:
        import lancedb
    except ImportError:
        raise UnreadableError(f"is a LanceDB table; to search it: {INSTALL}") from None
    try:
        return lancedb.connect(folder.parent).open_table(folder.stem)
    except Exception as error:  # noqa: BLE001 - a damaged table may fail in any way in a foreign library
        raise UnreadableError(f"is a LanceDB table that cannot be opened ({type(error).__name__})") from None


def _lance_rows(table: Any) -> Iterator[Any]:
    """Yield the rows of the table's current version in batches, with all columns."""
    count = table.count_rows()
    if count:
        yield from table.search().limit(count).to_batches(batch_size=ROWS)


def _keeps(row: Any, search: ContentSearch) -> bool:
    return not search.holds("\x00".join(strings_in(row)))


def _lance_holds(folder: Path, files: Collection[Path], search: ContentSearch) -> bool:
    """Return whether any version of a table contains deleted text, or its files do where they are not packed."""
    table = _lance(folder)
    if any(holds(path, search) for path in sorted(files)):
        return True
    try:
        for version in table.list_versions():
            table.checkout(version["version"])
            if any(not _keeps(row, search) for batch in _lance_rows(table) for row in batch.to_pylist()):
                return True
    except Exception as error:  # noqa: BLE001 - as above
        raise UnreadableError(f"is a LanceDB table that cannot be read ({type(error).__name__})") from None
    return False


def _clean_lance(folder: Path, search: ContentSearch) -> None:
    """Rewrite a LanceDB table without the rows that contain deleted text, and remove its older versions.

    Deleting rows and compacting would leave them in files of which few rows were deleted.

    Raises:
        CannotCleanError: it has indexes, which would be lost.
    """
    import lancedb
    import pyarrow

    database = lancedb.connect(folder.parent)
    table = database.open_table(folder.stem)
    if table.list_indices():
        raise CannotCleanError("it has search indexes, which would be lost when it is written again; drop them, then purge again")
    schema = table.schema
    kept = [
        batch.filter(pyarrow.array([_keeps(row, search) for row in batch.to_pylist()], pyarrow.bool_())).select(schema.names)
        for batch in _lance_rows(table)
    ]
    written = database.create_table(folder.stem, data=pyarrow.Table.from_batches(kept, schema=schema), mode="overwrite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that older versions go is what is wanted
        written.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    if _lance_holds(folder, [path for path in folder.rglob("*") if path.is_file()], search):
        raise CannotCleanError("a version of it still contains a passage; remove the table by hand")


def _faiss_holds(rows: Path, search: ContentSearch) -> bool:
    """Return whether the rows of a FAISS index contain deleted text.

    Raises:
        UnreadableError: the rows are not beside it: vectors alone cannot be searched for texts.
    """
    if not rows.is_file():
        raise UnreadableError(
            "holds vectors without their texts; build it again without the records, or lay the rows beside it, one a line, as "
            f"{rows.name}"
        )
    return holds(rows, search)


def _clean_faiss(path: Path, search: ContentSearch) -> None:
    """Remove the rows with deleted text from a flat FAISS index and from the file of its rows.

    Raises:
        CannotCleanError: the index is damaged or not flat, or rows and vectors do not correspond. Nothing is changed then.
    """
    import faiss
    import numpy as np

    rows = path.with_suffix(".jsonl")
    lines = rows.read_bytes().splitlines(keepends=True)
    going = [number for number, line in enumerate(lines) if search.holds(line)]
    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        raise CannotCleanError("the index is damaged; build it again without the records") from None
    if not isinstance(index, faiss.IndexFlat):
        raise CannotCleanError("only a flat index can be cleaned; build it again without the records")
    if index.ntotal != len(lines):
        raise CannotCleanError(f"it has {index.ntotal} vectors and {len(lines)} rows; build it again without the records")
    if not going:
        raise CannotCleanError("the passage spans several rows; build it again without the records")
    gone = set(going)
    kept = [line for number, line in enumerate(lines) if number not in gone]
    if search.holds(b"".join(kept)):
        raise CannotCleanError("a passage spans several rows; build it again without the records")
    numbers: Any = np.array(going, dtype=np.int64)  # the stubs know only the selector that FAISS makes of it
    index.remove_ids(numbers)
    if index.ntotal != len(kept):
        raise CannotCleanError("rows and vectors would no longer correspond; build it again without the records")
    with atomic_file(path, path.stat().st_mode & 0o777) as target:
        target.write(faiss.serialize_index(index).tobytes())
    # A kill in between leaves fewer vectors than rows, which the next run reports.
    with atomic_file(rows, rows.stat().st_mode & 0o777) as target:
        target.writelines(kept)
