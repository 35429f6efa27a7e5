"""The identity of the log that a position belongs to."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. It is empty in existing rows, and in new ones of older releases, which do not fill it."""
    op.execute("ALTER TABLE ledger.positions ADD COLUMN topic_id text")


def downgrade() -> None:
    """Drop the column; positions stay."""
    op.execute("ALTER TABLE ledger.positions DROP COLUMN topic_id")
