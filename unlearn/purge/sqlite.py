"""Residues in SQLite databases: deleted rows in free pages, page slack and the write-ahead log.

VACUUM rewrites the database with its live rows only (and may renumber rows in tables without an INTEGER PRIMARY KEY). A live row
belongs to its application: it is counted, never removed.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from unlearn.purge.content_search import ContentSearch
from unlearn.purge.residue import CannotCleanError

MAGIC = b"SQLite format 3\x00"
SIDES = ("-wal", "-journal", "-shm")
WAIT_SECONDS = 5.0


def database_of(path: Path) -> Path:
    """Return the database of a write-ahead log or journal; any other file itself."""
    side = next((side for side in SIDES if path.name.endswith(side)), None)
    database = path.with_name(path.name[: -len(side)]) if side else path
    return database if database.is_file() and not database.is_symlink() else path


def live_rows(path: Path, search: ContentSearch) -> int:
    """Count live rows that contain deleted text; the database is only read.

    Raises:
        CannotCleanError: the database is damaged or locked.
    """
    # Without a write-ahead log the file is opened as immutable, which leaves not even a lock file.
    unchanging = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    try:
        with closing(_open(f"{path.as_uri()}?mode=ro{unchanging}")) as connection:
            connection.text_factory = bytes
            names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
            return sum(_rows_that_hold(connection, bytes(name).decode(), search) for (name,) in names.fetchall())
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise CannotCleanError(_refusal(error)) from None


def vacuum(path: Path, search: ContentSearch) -> None:
    """Rewrite the database without its free pages, and empty its write-ahead log.

    Raises:
        CannotCleanError: live rows contain deleted text, or the database is in use or damaged.
    """
    if live := live_rows(path, search):
        raise CannotCleanError(live_reason(live))
    try:
        with closing(_open(f"{path.as_uri()}?mode=rw")) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            if mode == "wal":
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            else:
                connection.execute("PRAGMA journal_mode=DELETE").fetchone()  # a journal kept for reuse keeps old pages
            connection.execute("VACUUM")
            if mode == "wal":
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise CannotCleanError(_refusal(error)) from None


def live_reason(rows: int) -> str:
    """Return the message for live rows that contain deleted text."""
    return f"{rows} live rows contain it; delete them through the application that owns the database, then purge again"


def _open(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
    connection.execute("PRAGMA trusted_schema=OFF")  # a foreign schema must not call functions
    return connection


def _rows_that_hold(connection: sqlite3.Connection, table: str, search: ContentSearch) -> int:
    quoted = table.replace('"', '""')
    rows = connection.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 - quoted; a name cannot be a parameter
    return sum(search.holds(b"\x00".join(value for value in row if isinstance(value, bytes))) for row in rows)


def _refusal(error: Exception) -> str:
    busy = isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "busy" in str(error))
    return "the database is in use; stop its program, then purge again" if busy else "the database is damaged; repair or remove it"
