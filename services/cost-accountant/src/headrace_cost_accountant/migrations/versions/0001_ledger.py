"""Entries, daily balances, and the consumed offsets."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the three tables."""
    op.execute(
        """
        CREATE TABLE ledger.entries (
            event_id                   text PRIMARY KEY,
            tenant                     text NOT NULL,
            user_name                  text NOT NULL,
            task_id                    text NOT NULL,
            attempt_id                 text NOT NULL,
            execution_id               text NOT NULL,
            kind                       text NOT NULL,
            role                       text,
            session                    text,
            subject                    text,
            provider                   text NOT NULL,
            model                      text NOT NULL,
            node                       text,
            simulated                  boolean NOT NULL,
            outcome                    text NOT NULL,
            input_tokens               bigint NOT NULL,
            output_tokens              bigint NOT NULL,
            cached_input_tokens        bigint NOT NULL,
            searches                   bigint NOT NULL,
            model_ms                   double precision NOT NULL,
            cost_nanodollars           bigint NOT NULL CHECK (cost_nanodollars >= 0),
            internal_value_nanodollars bigint NOT NULL,
            price_basis                text NOT NULL CHECK (price_basis IN ('model', 'provider', 'unpriced')),
            price_version              text NOT NULL,
            recorded_at                bigint NOT NULL
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE ledger.entries IS "
        "'One row for each execution of an attempt. Money in nano-dollars, times in milliseconds since the epoch. "
        "Rows are added, never changed.'"
    )
    op.execute("CREATE INDEX entries_by_time ON ledger.entries (tenant, recorded_at)")
    op.execute("CREATE INDEX entries_of_task ON ledger.entries (task_id)")
    # Few rows, for repricing.
    op.execute("CREATE INDEX entries_unpriced ON ledger.entries (provider, model) WHERE price_basis = 'unpriced'")
    op.execute(
        """
        CREATE TABLE ledger.balances (
            tenant                     text NOT NULL,
            day                        date NOT NULL,
            provider                   text NOT NULL,
            model                      text NOT NULL,
            simulated                  boolean NOT NULL,
            executions                 bigint NOT NULL,
            input_tokens               bigint NOT NULL,
            output_tokens              bigint NOT NULL,
            cached_input_tokens        bigint NOT NULL,
            searches                   bigint NOT NULL,
            cost_nanodollars           bigint NOT NULL,
            internal_value_nanodollars bigint NOT NULL,
            unpriced_executions        bigint NOT NULL,
            PRIMARY KEY (tenant, day, provider, model, simulated)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE ledger.balances IS "
        "'Running sums of the entries for each UTC day; changed in the transaction that adds the entries.'"
    )
    op.execute(
        """
        CREATE TABLE ledger.positions (
            topic       text NOT NULL,
            partition   integer NOT NULL,
            next_offset bigint NOT NULL,
            PRIMARY KEY (topic, partition)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE ledger.positions IS "
        "'How far each partition is in the ledger; moved in the transaction that adds the entries.'"
    )


def downgrade() -> None:
    """Drop the tables with their data. The topic has the last 30 days; older entries are lost."""
    op.execute("DROP TABLE ledger.positions")
    op.execute("DROP TABLE ledger.balances")
    op.execute("DROP TABLE ledger.entries")
