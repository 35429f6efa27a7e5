"""Tokens written to providers' prompt caches, which have prices of their own."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = ("entries", "balances")
_COLUMNS = ("cache_write_5m_tokens", "cache_write_1h_tokens")


def upgrade() -> None:
    """Add the columns. The default serves existing rows, and older releases, which do not fill them."""
    for table in _TABLES:
        for column in _COLUMNS:
            op.execute(f"ALTER TABLE ledger.{table} ADD COLUMN {column} bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drop the columns with their counts. Costs remain, these tokens included."""
    for table in _TABLES:
        for column in _COLUMNS:
            op.execute(f"ALTER TABLE ledger.{table} DROP COLUMN {column}")
