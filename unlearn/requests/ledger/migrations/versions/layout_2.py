"""Layout 2: the check value of the record key has a table of its own."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Create the table of the check value; the next command that uses the key fills it."""
    op.create_table(
        "key_check",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("value", sa.Text, nullable=False),
        sqlite_strict=True,
    )
