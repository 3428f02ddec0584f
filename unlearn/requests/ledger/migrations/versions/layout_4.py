"""Layout 4: status callbacks that callers asked for."""

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    """Create the table of callbacks, whose rows, unlike events, are changed and removed."""
    op.create_table(
        "callbacks",
        sa.Column("request", sa.Text, primary_key=True),
        sa.Column("url", sa.Text, primary_key=True),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.Text, nullable=False),
        sqlite_strict=True,
    )
