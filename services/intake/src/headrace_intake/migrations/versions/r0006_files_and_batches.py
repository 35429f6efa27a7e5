"""Files of callers, and batches of requests that come in them."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables."""
    op.execute(
        """
        CREATE TABLE intake.files (
            file_id    text PRIMARY KEY,
            tenant     text NOT NULL,
            purpose    text NOT NULL,
            filename   text NOT NULL,
            bytes      bigint NOT NULL,
            complete   boolean NOT NULL DEFAULT false,
            created_at bigint NOT NULL,
            expires_at bigint NOT NULL
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.files IS "
        "'Times are milliseconds since the epoch. `bytes` of a file that is not complete is what it may become.'"
    )
    op.execute("CREATE INDEX files_by_time ON intake.files (tenant, created_at, file_id)")
    op.execute("CREATE INDEX files_by_expiry ON intake.files (expires_at)")
    op.execute(
        """
        CREATE TABLE intake.file_chunks (
            file_id text NOT NULL REFERENCES intake.files ON DELETE CASCADE,
            number  integer NOT NULL,
            cipher  text NOT NULL,
            data    bytea NOT NULL,
            PRIMARY KEY (file_id, number)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE intake.batches (
            batch_id        text PRIMARY KEY,
            tenant          text NOT NULL,
            key_id          text NOT NULL,
            by_admin        boolean NOT NULL,
            idempotency_key text,
            digest          text NOT NULL,
            endpoint        text NOT NULL,
            input_file_id   text NOT NULL,
            headers         text NOT NULL,
            metadata        text,
            output_seconds  bigint,
            status          text NOT NULL,
            ending          text,
            created_at      bigint NOT NULL,
            expires_at      bigint NOT NULL,
            in_progress_at  bigint,
            finalizing_at   bigint,
            completed_at    bigint,
            failed_at       bigint,
            expired_at      bigint,
            cancelling_at   bigint,
            cancelled_at    bigint,
            errors          text,
            total           integer NOT NULL DEFAULT 0,
            completed       integer NOT NULL DEFAULT 0,
            failed          integer NOT NULL DEFAULT 0,
            usage           text,
            output_file_id  text,
            error_file_id   text,
            due_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
            fence           bigint NOT NULL DEFAULT 0,
            UNIQUE (tenant, idempotency_key)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.batches IS "
        "'A process works on a batch until `due_at`, under the number in `fence`; then any process may take it.'"
    )
    op.execute("CREATE INDEX batches_by_time ON intake.batches (tenant, created_at, batch_id)")
    op.execute(
        "CREATE INDEX batches_due ON intake.batches (due_at) "
        "WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
    )
    op.execute(
        """
        CREATE TABLE intake.batch_lines (
            batch_id     text NOT NULL REFERENCES intake.batches ON DELETE CASCADE,
            line         integer NOT NULL,
            custom_id    text NOT NULL,
            start        bigint NOT NULL,
            size         integer NOT NULL,
            state        text NOT NULL DEFAULT 'waiting',
            round        integer NOT NULL DEFAULT 0,
            task_id      text,
            submitted_at bigint,
            cancel_asked boolean NOT NULL DEFAULT false,
            refusal      text,
            PRIMARY KEY (batch_id, line)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.batch_lines IS "
        "'The requests of batches that have not ended; those of the others are in their files.'"
    )
    op.execute("CREATE INDEX batch_lines_waiting ON intake.batch_lines (batch_id, line) WHERE state = 'waiting'")
    op.execute(
        "CREATE INDEX batch_lines_live ON intake.batch_lines (batch_id, line) "
        "WHERE state IN ('submitting', 'submitted')"
    )


def downgrade() -> None:
    """Drop the tables with what they hold."""
    for table in ("batch_lines", "batches", "file_chunks", "files"):
        op.execute(f"DROP TABLE intake.{table}")
