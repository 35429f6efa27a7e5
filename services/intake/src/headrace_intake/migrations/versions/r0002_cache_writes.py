"""Tokens written to providers' prompt caches, as the tasks' usage counts them."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = ("cache_write_5m_tokens", "cache_write_1h_tokens")


def upgrade() -> None:
    """Add the columns. The default serves existing rows, and older releases, which do not fill them."""
    for column in _COLUMNS:
        op.execute(f"ALTER TABLE intake.tasks ADD COLUMN {column} bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drop the columns with their counts."""
    for column in _COLUMNS:
        op.execute(f"ALTER TABLE intake.tasks DROP COLUMN {column}")
