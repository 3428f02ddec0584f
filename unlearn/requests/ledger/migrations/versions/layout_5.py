"""Layout 5: the status that the attempts of a callback were about, as each status has attempts of its own."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    """Add the column; "" stands for the status that an earlier version was sending."""
    op.add_column("callbacks", sa.Column("status", sa.Text, nullable=False, server_default=""))
