"""Connection to the ledger's database: SQLite with full durability, or PostgreSQL; its errors with a next step."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from verify.errors import RunError

_FULL = ("no space left for the ledger, or its disk fails.", "Free some space, then run the same command again.")
_CLOSED = (
    "the ledger's file cannot be written, or the folder around it, and even a list of requests has to.",
    "Use --ledger with a file in a folder that you may write to.",
)
_HELD = (
    "another program has held the ledger for half a minute.",
    "Wait until it has ended, then run the same command again.",
)
UNUSABLE = {
    "full": _FULL,
    "disk I/O": _FULL,
    "unable to open": _CLOSED,
    "readonly": _CLOSED,
    "locked": _HELD,
}
"""Texts of SQLite's errors that the user can do something about: what is wrong, and what to do."""


@contextmanager
def database_errors() -> Iterator[None]:
    """Translate database errors into a message with a next step; the driver's own message may repeat values and is not shown."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        if (why := unusable_file(error)) is not None:
            raise RunError(f"{why[0]} Nothing in it is lost, and this step was not recorded. {why[1]}") from None
        kind = type(error.__cause__ or error).__name__
        raise RunError(
            f"the ledger's database reported an error ({kind}), and this step was not recorded. Check that it is a ledger of this "
            "version, writable and not locked by another program; then run the same command again."
        ) from None


def unusable_file(error: BaseException) -> tuple[str, str] | None:
    """Return why SQLite cannot use a ledger's file, and what to do; None for other errors."""
    cause = str(error.__cause__) if isinstance(error.__cause__, sqlite3.Error) else ""
    return next((said for text, said in UNUSABLE.items() if text in cause), None)


def open_engine(url: str) -> sa.Engine:
    """Return the engine of a database, which is opened at its first use; a SQLite file is made for its owner alone."""
    # pool_pre_ping: the database server may restart while the service keeps running.
    engine = sa.create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {}, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        Path(engine.url.database or "").parent.mkdir(parents=True, exist_ok=True)
        if engine.url.database and not Path(engine.url.database).exists():
            Path(engine.url.database).touch(mode=0o600)  # SQLite gives its write-ahead log the same mode

        @sa.event.listens_for(engine, "connect")
        def _prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions begin in `_lock`, so that they take the write lock at once
            for pragma in ("journal_mode=WAL", "secure_delete=ON", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}")

        @sa.event.listens_for(engine, "begin")
        def _lock(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
