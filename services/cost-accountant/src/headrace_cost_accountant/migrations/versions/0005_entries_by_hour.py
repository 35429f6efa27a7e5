"""An index for sums over all tenants in a period: forecasts of demand."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index. Rows come in the order of time, so one that holds ranges is small and quick to make."""
    op.execute("CREATE INDEX entries_by_hour ON ledger.entries USING brin (recorded_at)")


def downgrade() -> None:
    """Drop the index."""
    op.execute("DROP INDEX ledger.entries_by_hour")
