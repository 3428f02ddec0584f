"""Tables of the ledger's database, as its newest layout has them."""

import sqlalchemy as sa

METADATA = sa.MetaData()
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request", sa.Text, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sqlite_strict=True,
)
KEY_CHECK = sa.Table(
    "key_check",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_strict=True,
)
CALLBACKS = sa.Table(
    "callbacks",
    METADATA,
    sa.Column("request", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, primary_key=True),
    sa.Column("told", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default=""),
    sqlite_strict=True,
)
EXTERNAL_ID = {"sqlite": "json_extract(details, '$.external_id')", "postgresql": "details::jsonb ->> 'external_id'"}
"""The sender's id of a request, as an expression over an event; there is an index on it."""
