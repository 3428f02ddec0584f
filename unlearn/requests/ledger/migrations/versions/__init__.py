"""Alembic revisions, in order. A revision is never edited after a release: databases that it made are in use."""
