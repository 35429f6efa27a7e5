"""Entries that were priced after they had been booked."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """
        CREATE TABLE ledger.repricings (
            event_id              text PRIMARY KEY REFERENCES ledger.entries (event_id),
            run_id                text NOT NULL,
            price_version_before  text NOT NULL,
            price_version         text NOT NULL,
            cost_nanodollars      bigint NOT NULL CHECK (cost_nanodollars >= 0),
            repriced_by           text NOT NULL,
            repriced_at           bigint NOT NULL
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE ledger.repricings IS "
        "'Entries that were booked at 0 for want of a price and have got one since: when, by whom, and from which "
        "price books. Added in the transaction that changes the entry and its balance; an entry is repriced once.'"
    )
    op.execute("CREATE INDEX repricings_by_run ON ledger.repricings (run_id)")
    op.execute(
        "COMMENT ON TABLE ledger.entries IS "
        "'One row for each execution of an attempt. Money in nano-dollars, times in milliseconds since the epoch. "
        "Rows are added, never changed, but for unpriced ones that get a price (see repricings).'"
    )


def downgrade() -> None:
    """Drop the table; the prices remain."""
    op.execute("DROP TABLE ledger.repricings")
