"""Layout of the ledger's database: created or upgraded when it is opened, and guarded against changes of what is written.

The table `ledger_layout` says which layout a database has; databases from before it are recognized by their tables. An upgrade runs
the missing migrations in one transaction together with that table's row, so a kill leaves the old layout. Migrations only add
tables, columns and indexes: no event is rewritten, and the chain stays what it was.
"""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from unlearn.requests.ledger.tables import EVENTS
from verify.errors import InputError

LAYOUT = "5"
"""The newest layout, which this version reads and writes."""
VERSION_TABLE = "ledger_layout"
"""Not Alembic's default name: on PostgreSQL another application may keep its own version in the same database."""
MIGRATIONS = Path(__file__).parent / "migrations"
_SETUP_LOCK = 0x756E6C65
"""PostgreSQL advisory lock id that no other application should use; "unle" in ASCII."""
_GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for table in ("events", "key_check")
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION events_append_only() RETURNS trigger AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$ LANGUAGE plpgsql",
        *(
            f"CREATE OR REPLACE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION events_append_only()"
            for table in ("events", "key_check")
        ),
    ],
}


def prepare(connection: Connection) -> None:
    """Create the database's tables, or upgrade those of an earlier layout; call it inside a transaction.

    Raises:
        InputError: the database was written by a newer version.
        sqlalchemy.exc.SQLAlchemyError, KeyError: it is not a ledger, or neither SQLite nor PostgreSQL.
    """
    guards = _GUARDS[connection.dialect.name]
    if connection.dialect.name == "postgresql":
        # Two processes replacing the same trigger function at once fail with "tuple concurrently updated".
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_SETUP_LOCK})"))
    found = _recorded(connection)
    if found is not None and found not in map(str, range(1, int(LAYOUT) + 1)):
        raise InputError(
            f"the ledger was written by a newer version of unlearn-verify; this one reads layouts 1 to {LAYOUT}. Update it, then "
            "run the same command again."
        )
    if found != LAYOUT:
        _migrate(connection, _recognized(connection) if found is None else found, recorded=found is not None)
    for statement in guards:
        connection.execute(sa.text(statement))
    connection.execute(sa.select(EVENTS).limit(0))  # fails if a foreign table of that name has other columns


def _recorded(connection: Connection) -> str | None:
    """Return the layout that the database says it has, or None."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def _recognized(connection: Connection) -> str | None:
    """Return the layout of a database from before layouts were recorded, by its tables; None for one without a ledger."""
    inspector = sa.inspect(connection)
    if not inspector.has_table("events"):
        return None
    if not inspector.has_table("key_check"):
        return "1"
    query = {
        "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = 'events_external_id'",
        "postgresql": "SELECT 1 FROM pg_indexes WHERE schemaname = current_schema() AND indexname = 'events_external_id'",
    }[connection.dialect.name]  # SQLAlchemy does not reflect indexes on expressions in SQLite
    return "2" if connection.execute(sa.text(query)).first() is None else "3"


def _migrate(connection: Connection, found: str | None, recorded: bool) -> None:
    """Run the migrations from the found layout to the newest, and record it."""
    # Imported here: a ledger of the newest layout, which is nearly every one, is opened without them.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(MIGRATIONS))
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if found is not None and not recorded:
        context.stamp(scripts, found)
    with Operations.context(context):
        for script in reversed(list(scripts.iterate_revisions(LAYOUT, found or "base"))):
            script.module.upgrade()
            context.stamp(scripts, script.revision)
