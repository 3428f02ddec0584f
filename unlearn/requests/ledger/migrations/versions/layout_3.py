"""Layout 3: requests are found by the sender's id without reading them all."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

EXTERNAL_ID = {"sqlite": "json_extract(details, '$.external_id')", "postgresql": "details::jsonb ->> 'external_id'"}


def upgrade() -> None:
    """Index the sender's id in the first event of each request."""
    indexed = EXTERNAL_ID[op.get_bind().dialect.name]
    op.execute(sa.text(f"CREATE INDEX IF NOT EXISTS events_external_id ON events (({indexed})) WHERE state = 'received'"))
