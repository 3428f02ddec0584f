"""Tables of PostgreSQL with vectors of the extension pgvector: rows with deleted text are removed together with their vectors.

A deleted row stays in the table's file, and its vector in the index, until the table is rewritten. So rows are deleted first,
with a mark in the table's comment, and the mark goes when VACUUM FULL has left them out: a kill in between is noticed by the next
search. VACUUM FULL copies deleted rows that a transaction begun before may still read, so the server is asked how many it copied.
The server's write-ahead log (until it is recycled), replicas, backups and tables without vectors are not reached. Vectors whose
texts are not in their row are listed as not searched (`unlearn.purge.pgvector_texts`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from unlearn.purge.content_search import ContentSearch
from unlearn.purge.find import UNSEARCHED
from unlearn.purge.pgvector_texts import bare, longest_text, texts_elsewhere
from unlearn.purge.residue import BY_CONTENT, CannotCleanError, FoundResidue, Residue
from unlearn.purge.vectors import KIND
from verify.errors import InputError
from verify.io.extras import missing

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

ROWS = 1024
WAIT = "30s"
"""How long a lock on a table is waited for."""
PENDING = "[rows deleted by unlearn purge; VACUUM FULL is still to come]"
"""Mark in the comment of a table whose rows are deleted, and whose file was not rewritten yet."""
_TABLES = """
WITH own AS (
    SELECT d.objid FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE e.extname = 'vector' AND d.classid = 'pg_type'::regclass
), vectors AS (
    SELECT oid FROM pg_type WHERE oid IN (TABLE own) OR typelem IN (TABLE own) OR typbasetype IN (TABLE own)
), columns AS (
    SELECT a.attrelid, a.attname, a.attnum, t.oid IN (TABLE vectors) AS vector,
        t.typcategory IN ('S', 'U', 'A', 'C') AND t.oid <> 'uuid'::regtype AS text
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attnum > 0 AND NOT a.attisdropped
)
SELECT n.nspname, c.relname, c.relkind::text, has_table_privilege(c.oid, 'SELECT'), pg_has_role(c.relowner, 'USAGE'),
    EXISTS (SELECT FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f'), obj_description(c.oid, 'pg_class'),
    ARRAY(SELECT attname::text FROM columns WHERE attrelid = c.oid AND NOT vector ORDER BY attnum),
    ARRAY(SELECT attname::text FROM columns WHERE attrelid = c.oid AND vector ORDER BY attnum),
    EXISTS (SELECT FROM columns WHERE attrelid = c.oid AND NOT vector AND text)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'f') AND (
    EXISTS (SELECT FROM columns WHERE attrelid = c.oid AND vector)
    OR EXISTS (SELECT FROM pg_index i JOIN pg_class own ON own.oid = i.indexrelid JOIN pg_am m ON m.oid = own.relam
        WHERE i.indrelid = c.oid AND m.amname IN ('hnsw', 'ivfflat'))
) ORDER BY 1, 2
"""
"""Every table with a column or an index of the extension. Text is also looked for in JSON, arrays and composite types."""


@dataclass(frozen=True)
class Table:
    """A table with vectors.

    Attributes:
        schema, name: its names, unquoted.
        kind: 'r' for a table, 'm' for a materialized view, 'f' for a foreign table.
        readable: whether this role may read it.
        owned: whether this role may rewrite it.
        referred: whether rows of any table refer to its rows.
        comment: its comment; None without one.
        columns: its columns other than vectors.
        vectors: its columns of vectors; none where only an index makes them of something else.
        has_texts: whether any of them may hold text.
    """

    schema: str
    name: str
    kind: str
    readable: bool
    owned: bool
    referred: bool
    comment: str | None
    columns: tuple[str, ...]
    vectors: tuple[str, ...]
    has_texts: bool

    @property
    def pending(self) -> bool:
        """Whether rows were deleted from it and its file was not rewritten."""
        return PENDING in (self.comment or "")


def find_rows(databases: Sequence[str], search: ContentSearch) -> list[Residue]:
    """Find the tables with vectors that contain deleted text, and those that cannot be searched. Changes nothing.

    Args:
        databases: URLs, such as `postgresql://user@host/database`, without passwords.
        search: the search for the deleted records.

    Raises:
        InputError: a database cannot be opened, has no pgvector, or its URL contains a password.
    """
    found: list[Residue] = []
    for url in databases:
        with _connected(url) as connection:
            for table in _tables(connection):
                found += _in_table(connection, url, table, search)
    return found


def remove_rows(found: Sequence[Residue]) -> list[Residue]:
    """Remove the rows with deleted text; return what remains, each with its reason.

    Args:
        found: from `find_rows`.
    """
    left = []
    for residue in found:
        if not isinstance(residue, FoundResidue):
            left.append(residue)
            continue
        try:
            residue.action()
        except (CannotCleanError, InputError) as error:
            left.append(residue.staying(str(error)))
    return left


@contextmanager
def _connected(url: str) -> "Iterator[Connection]":
    """Open a database, in which every statement is a transaction of its own.

    Raises:
        InputError: it cannot be opened, or the URL contains a password, which other users of this machine can read.
    """
    try:
        import psycopg
    except ImportError:
        raise missing("a PostgreSQL database", "postgres") from None
    try:
        # A database without an encoding (SQL_ASCII) would give bytes, also for names of tables.
        connection = psycopg.connect(_address(url), autocommit=True, connect_timeout=10, client_encoding="UTF8")
    except psycopg.Error as error:
        raise InputError(
            f"a database of --databases cannot be opened ({type(error).__name__}). Check its URL, such as "
            "postgresql://user@host/database, and that the server runs."
        ) from None
    with connection:
        connection.execute("SET search_path = pg_catalog")  # no function of the database's users is called by mistake
        connection.execute("SET row_security = off")  # a policy that would hide rows is an error
        connection.execute(f"SET lock_timeout = '{WAIT}'")
        yield connection


def _address(url: str) -> str:
    """Return a URL as the driver takes it."""
    refused = InputError("--databases takes URLs such as postgresql://user@host/database, with the password in ~/.pgpass.")
    address = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        parts = urlsplit(address)
    except ValueError:
        raise refused from None
    if parts.scheme != "postgresql" or parts.password is not None or "password=" in parts.query:
        raise refused
    return address


def _tables(connection: "Connection") -> list[Table]:
    """Return the tables with vectors.

    Raises:
        InputError: the database has no pgvector, or does not list its tables.
    """
    import psycopg

    try:
        if connection.execute("SELECT FROM pg_extension WHERE extname = 'vector'").fetchone() is None:
            raise InputError(
                "a database of --databases has no extension vector, so there are no vectors to search. Name another one."
            )
        return [
            Table(schema, name, kind, readable, owned, referred, comment, tuple(columns), tuple(vectors), has_texts)
            for schema, name, kind, readable, owned, referred, comment, columns, vectors, has_texts in connection.execute(_TABLES)
        ]
    except psycopg.Error as error:
        raise InputError(
            f"a database of --databases does not list its tables ({type(error).__name__}). Check that the server still runs, and "
            "that the names of its tables are UTF-8."
        ) from None


def _in_table(connection: "Connection", url: str, table: Table, search: ContentSearch) -> list[Residue]:
    """Return the residue of one table, if it has one, and another one for vectors of which nothing is known."""
    import psycopg

    parts = urlsplit(url)
    host = f"{parts.hostname}:{connection.info.port}" if parts.hostname else "postgresql"
    place = Path(host) / (parts.path.strip("/") or "default") / f"{table.schema}.{table.name}"
    if (unsearchable := _unsearchable(table)) is not None:
        return [Residue(place, KIND, UNSEARCHED, False, unsearchable)]
    try:
        with connection.transaction():
            holds, unknown = _read(connection, table, search)
    except psycopg.Error as error:
        return [Residue(place, KIND, UNSEARCHED, False, f"it cannot be read ({type(error).__name__}); delete its rows by hand")]
    found = [] if unknown is None else [Residue(place, KIND, UNSEARCHED, False, unknown)]
    if not holds:
        return found
    if (stays := _uncleanable(table)) is not None:
        return [Residue(place, KIND, BY_CONTENT, False, stays), *found]
    return [FoundResidue(place, KIND, BY_CONTENT, partial(_clean, url, table, search)), *found]


def _read(connection: "Connection", table: Table, search: ContentSearch) -> tuple[bool, str | None]:
    """Return whether a table holds deleted text, and why nothing is known of some of its vectors; None where that is not so."""
    holds, vectors, without = table.pending, 0, 0
    for _, values, vector in _rows(connection, table):
        holds = holds or search.holds(_joined(values))
        vectors += vector
        without += vector and not longest_text(values)
    if without:
        return holds, bare(without, vectors)
    return holds, texts_elsewhere(connection, table.schema, table.name, table.columns) if vectors else None


def _unsearchable(table: Table) -> str | None:
    if table.kind == "f":
        return "it is a foreign table; search the database in which its rows lie"
    if not table.readable:
        return "this role may not read it; purge as its owner"
    if not table.has_texts:
        return "it holds vectors without their texts; delete the rows through the application that owns it"
    return None


def _uncleanable(table: Table) -> str | None:
    if table.kind == "m":
        return "it is a materialized view; purge its tables, then REFRESH MATERIALIZED VIEW"
    if not table.owned:
        return "only its owner can remove the rows from its file; purge as its owner"
    if table.referred and not table.pending:
        return "rows of a table refer to its rows; delete them through the application that owns it, then purge again"
    return None


def _rows(connection: "Connection", table: Table) -> Iterator[tuple[str, list[str | None], bool]]:
    """Yield every row's place, its values as text, and whether it has a vector; the rows come through a cursor of the server.

    Call it inside a transaction.
    """
    from psycopg import sql

    columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.columns)
    vectors = sql.SQL(", ").join(map(sql.Identifier, table.vectors))
    has_vector = sql.SQL("num_nonnulls({}) > 0").format(vectors) if table.vectors else sql.SQL("true")
    query = sql.SQL("SELECT ctid::text, {}, {} FROM ONLY {}").format(has_vector, columns, _named(table))
    with connection.cursor(name="rows") as rows:
        rows.itersize = ROWS
        rows.execute(query)
        for place, vector, *values in rows:
            yield place, values, vector


def _joined(values: Sequence[str | None]) -> bytes:
    return b"\x00".join(str(value).encode() for value in values if value is not None)


def _named(table: Table) -> Any:
    from psycopg import sql

    return sql.Identifier(table.schema, table.name)


def _clean(url: str, table: Table, search: ContentSearch) -> None:
    """Delete the rows of a table that contain deleted text, and rewrite table, indexes and statistics without them.

    Raises:
        CannotCleanError: the table is in use, or the database refuses, or keeps the rows, also in the file alone.
        InputError: the database cannot be opened any more.
    """
    import psycopg

    with _connected(url) as connection:
        try:
            with connection.transaction():
                _delete(connection, table, search)
        except psycopg.errors.LockNotAvailable:
            raise CannotCleanError("it is in use; stop the programs that use it, then purge again") from None
        except psycopg.Error as error:
            raise CannotCleanError(f"its rows cannot be deleted ({type(error).__name__}); delete them by hand") from None
        try:
            _write_again(connection, table)
        except psycopg.Error as error:
            kind = type(error).__name__
            raise CannotCleanError(f"its rows are deleted, but its file still has them ({kind}); purge again") from None


def _delete(connection: "Connection", table: Table, search: ContentSearch) -> None:
    from psycopg import sql

    # Nobody else writes from now on, so a row stays in its place.
    connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(_named(table)))
    places = [place for place, values, _ in _rows(connection, table) if search.holds(_joined(values))]
    # A literal, no parameter: with parameters, a per cent sign in the table's name would count as one.
    query = sql.SQL("DELETE FROM ONLY {} WHERE ctid = ANY({}::tid[])").format(_named(table), sql.Literal(places))
    if connection.execute(query).rowcount != len(places):
        raise CannotCleanError(
            "a trigger or a rule keeps its rows; delete them through the application that owns it, then purge again"
        )
    if not table.pending:
        _comment(connection, table, f"{table.comment or ''}{PENDING}")


def _write_again(connection: "Connection", table: Table) -> None:
    from psycopg import sql

    details: list[str] = []
    connection.add_notice_handler(lambda notice: details.append(notice.message_detail or ""))
    connection.execute(sql.SQL("VACUUM (FULL, ANALYZE, VERBOSE) {}").format(_named(table)))
    # "0 dead row versions cannot be removed yet", in the server's language; without this line nobody knows.
    copied = [int(number[0]) for detail in details if (number := re.search("[0-9]+", detail)) is not None]
    if not copied or any(copied):
        raise CannotCleanError(
            "its rows are deleted, but its file may still have them for a transaction that was open before; end those of this "
            "database, prepared ones and those of replicas too, then purge again"
        )
    # Statistics hold samples of values, and their table old statistics. Only a superuser may do this; others are skipped with a
    # warning, and the old ones stay in that file until they are overwritten.
    connection.execute("VACUUM (FULL) pg_catalog.pg_statistic")
    _comment(connection, table, (table.comment or "").replace(PENDING, "") or None)


def _comment(connection: "Connection", table: Table, text: str | None) -> None:
    from psycopg import sql

    connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(_named(table), sql.Literal(text)))
