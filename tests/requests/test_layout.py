"""Ledgers of earlier layouts are upgraded when they are opened: the chain stays, and the database is that of a new ledger."""

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from ledger_walks import new, walk

from unlearn.requests.ledger import layout
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.tables import EVENTS, METADATA
from verify import InputError

EVENTS_TABLE = (
    "CREATE TABLE events (sequence INTEGER NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL, at TEXT NOT NULL, "
    "details TEXT NOT NULL, previous TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (sequence), UNIQUE (previous), "
    "UNIQUE (digest))"
)
CALLBACKS_TABLE = (
    "CREATE TABLE callbacks (request TEXT NOT NULL, url TEXT NOT NULL, told TEXT NOT NULL, attempts INTEGER NOT NULL, "
    "due TEXT NOT NULL, PRIMARY KEY (request, url))"
)
KEY_TABLE = "CREATE TABLE key_check (number INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (number))"
LAYOUT_TABLE = (
    "CREATE TABLE ledger_layout (version_num VARCHAR(32) NOT NULL, CONSTRAINT ledger_layout_pkc PRIMARY KEY (version_num))"
)
EXTERNAL_ID = {"sqlite": "json_extract(details, '$.external_id')", "postgresql": "details::jsonb ->> 'external_id'"}
KEY = "0123456789abcdef"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    return f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else request.getfixturevalue("empty_postgres")


def statements(layout: str, dialect: str) -> list[str]:
    """What the releases with this layout executed to make their tables."""
    strict = " STRICT" if dialect == "sqlite" else ""
    found = [EVENTS_TABLE + strict, "CREATE INDEX ix_events_request ON events (request)"]
    if layout >= "2":
        found.append(KEY_TABLE + strict)
    if layout >= "3":
        found.append(f"CREATE INDEX events_external_id ON events (({EXTERNAL_ID[dialect]})) WHERE state = 'received'")
    if layout.endswith("recorded"):
        found.append(f"{LAYOUT_TABLE}; INSERT INTO ledger_layout VALUES ('{layout[0]}')")
    if layout >= "4":
        found.append(CALLBACKS_TABLE + strict)
    return [statement for group in found for statement in group.split("; ")]


def schema(connection: sa.Connection) -> list[Any]:
    """Everything that a database has besides rows: tables, columns, indexes, triggers."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(sa.text("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")).all()
        return [(kind, name, re.sub(r"\W+", " ", sql or "").strip()) for kind, name, sql in rows]
    columns = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = 'public'"
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    triggers = "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"
    return [sorted(tuple(row) for row in connection.execute(sa.text(query))) for query in (columns, indexes, triggers)]


def emptied(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for table in ("events", "key_check", "callbacks", "ledger_layout"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {table}"))


def write_old(url: str, layout: str, tmp_path: Path) -> tuple[str, int, list[Any]]:
    """Write a ledger as a release with this layout left it: its head, its number of events, and the schema of a new one."""
    written = Ledger(tmp_path / "written.db")
    walk(written)
    written.add(new(external_id="e"))
    head, count = written.head(), written.verify()
    with written._engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.select(EVENTS))]
    written.close()
    Ledger(url).close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        fresh = schema(connection)
    emptied(engine)
    with engine.begin() as connection:
        for statement in statements(layout, engine.dialect.name):
            connection.execute(sa.text(statement))
        connection.execute(EVENTS.insert(), rows)
        if layout >= "2":
            connection.execute(sa.text("INSERT INTO key_check VALUES (1, :key)"), {"key": KEY})
    engine.dispose()
    return head, count, fresh


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["1", "2", "3", "3 recorded", "4 recorded"])
def test_an_earlier_layout_is_upgraded(url: str, layout: str, tmp_path: Path) -> None:
    """Events, chain and key stay, the database is that of a new ledger, guards included, and the ledger goes on."""
    head, count, fresh = write_old(url, layout, tmp_path)
    opened = Ledger(url)
    assert (opened.verify(head), opened.head()) == (count, head)
    assert opened.key_check() == (None if layout == "1" else KEY)
    with opened._engine.connect() as connection:
        assert schema(connection) == fresh
    with pytest.raises(sa.exc.SQLAlchemyError, match="append-only"), opened._engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM events"))
    found = opened.by_external_id("e")
    assert found is not None
    assert opened.advance(found.id, "identity_verified").state == "identity_verified"
    opened.close()
    again = Ledger(url)
    assert again.verify(head) > count
    again.close()


def test_an_upgrade_that_does_not_finish_changes_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails after the last migration takes all of them back; the next opening starts again."""
    head, count, fresh = write_old(url, "1", tmp_path)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        before = schema(connection)
    with monkeypatch.context() as patch:
        patch.setattr(layout, "_GUARDS", {engine.dialect.name: ["no statement"]})
        with pytest.raises(InputError, match="cannot be opened"):
            Ledger(url)
    with engine.connect() as connection:
        assert schema(connection) == before != fresh
    engine.dispose()
    opened = Ledger(url)
    assert opened.verify(head) == count
    opened.close()


def test_two_processes_upgrade_at_once(url: str, tmp_path: Path) -> None:
    """Both find the ledger whole: one migrates, the other waits for it."""
    head, count, _ = write_old(url, "1", tmp_path)
    start, found = threading.Barrier(4), []

    def operate() -> None:
        start.wait()
        own = Ledger(url)
        found.append(own.verify(head))
        own.close()

    threads = [threading.Thread(target=operate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [count] * 4


def test_a_newer_layout_is_refused(url: str) -> None:
    """Written by a later release, or by nobody knows what: a clear error, and nothing is changed."""
    Ledger(url).close()
    engine = sa.create_engine(url)
    for recorded in (str(int(layout.LAYOUT) + 1), "x"):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE ledger_layout SET version_num = :new"), {"new": recorded})
        with pytest.raises(InputError, match="newer version of unlearn-verify"):
            Ledger(url)
    engine.dispose()


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_migrations_make_the_tables_that_the_ledger_uses(tmp_path: Path) -> None:
    """The last migration is the newest layout, and Alembic finds no difference between theirs and the tables in the code."""
    assert ScriptDirectory(str(layout.MIGRATIONS)).get_current_head() == layout.LAYOUT
    opened = Ledger(tmp_path / "ledger.db")
    with opened._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": layout.VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []
    opened.close()
