"""Whether an execution was part of a batch at its provider, which has prices of its own."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. The default serves existing rows, and older releases, which do not fill it."""
    op.execute("ALTER TABLE ledger.entries ADD COLUMN batch boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    """Drop the column. Costs remain as they were booked."""
    op.execute("ALTER TABLE ledger.entries DROP COLUMN batch")
