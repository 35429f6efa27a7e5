"""Executions that were lost, which their provider may have billed."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = {"entries": ("nanodollars",), "balances": ("executions", "nanodollars")}


def upgrade() -> None:
    """Add the columns. The default serves existing rows, and older releases, which do not fill them."""
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.execute(
                f"ALTER TABLE ledger.{table} ADD COLUMN possibly_billed_{column} bigint NOT NULL DEFAULT 0 "
                f"CHECK (possibly_billed_{column} >= 0)"
            )
    # Few rows, and every batch asks for some.
    op.execute("CREATE INDEX entries_lost ON ledger.entries (event_id) WHERE outcome = 'lost'")
    op.execute(
        "COMMENT ON TABLE ledger.entries IS "
        "'One row for each execution of an attempt. Money in nano-dollars, times in milliseconds since the epoch. "
        "Rows are added, never changed, but for unpriced ones that get a price (see repricings), and for those of the "
        "outcome lost, which is superseded once there is a row of what the execution consumed.'"
    )


def downgrade() -> None:
    """Drop the columns with what may have been billed."""
    op.execute("DROP INDEX ledger.entries_lost")
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE ledger.{table} DROP COLUMN possibly_billed_{column}")
