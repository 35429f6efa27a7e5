"""The task view, its consumed offsets, and the idempotency keys."""

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
        CREATE TABLE intake.tasks (
            task_id             text PRIMARY KEY,
            tenant              text NOT NULL,
            route_key           bytea,
            home_partition      integer NOT NULL,
            reply_partition     integer,
            user_name           text NOT NULL,
            kind                text NOT NULL,
            role                text,
            requested_model     text,
            session             text,
            subject             text,
            labels              jsonb NOT NULL,
            privacy             text,
            lane                text,
            submitted_at        bigint NOT NULL,
            deadline_at         bigint,
            status              text NOT NULL DEFAULT 'accepted',
            completed_at        bigint,
            answer_cipher       text,
            answer              bytea,
            finish_reason       text,
            failure_code        text,
            failure_message     text,
            provider            text,
            model               text,
            node                text,
            simulated           boolean,
            served_from         text,
            source_task_id      text,
            input_tokens        bigint,
            output_tokens       bigint,
            cached_input_tokens bigint,
            searches            bigint,
            cost_nanodollars    bigint,
            attempts            integer,
            model_ms            double precision,
            trail               jsonb,
            policy_version      text
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.tasks IS "
        "'Tasks as callers see them, from tasks.submitted and tasks.completed. Times are milliseconds since the epoch. "
        "Can be emptied and rebuilt from the topics, as far back as these reach.'"
    )
    op.execute("CREATE INDEX tasks_by_time ON intake.tasks (tenant, submitted_at DESC, task_id DESC)")
    op.execute("CREATE INDEX tasks_by_status ON intake.tasks (tenant, status, submitted_at DESC, task_id DESC)")
    op.execute(
        "CREATE INDEX tasks_by_session ON intake.tasks (tenant, session, submitted_at DESC, task_id DESC) "
        "WHERE session IS NOT NULL"
    )
    # For retention only: rows arrive in order of time, so a few pages hold the whole index.
    op.execute("CREATE INDEX tasks_by_age ON intake.tasks USING brin (submitted_at)")
    op.execute(
        """
        CREATE TABLE intake.positions (
            topic       text NOT NULL,
            partition   integer NOT NULL,
            next_offset bigint NOT NULL,
            PRIMARY KEY (topic, partition)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.positions IS "
        "'How far each partition is in the view; moved in the transaction that writes the rows.'"
    )
    op.execute(
        """
        CREATE TABLE intake.idempotency_keys (
            tenant          text NOT NULL,
            key             text NOT NULL,
            task_id         text NOT NULL,
            digest          text NOT NULL,
            reply_partition integer NOT NULL,
            created_at      bigint NOT NULL,
            accepted        boolean NOT NULL DEFAULT false,
            PRIMARY KEY (tenant, key)
        )
        """
    )
    op.execute("CREATE INDEX idempotency_keys_by_age ON intake.idempotency_keys USING brin (created_at)")


def downgrade() -> None:
    """Drop the tables with their data."""
    op.execute("DROP TABLE intake.idempotency_keys")
    op.execute("DROP TABLE intake.positions")
    op.execute("DROP TABLE intake.tasks")
