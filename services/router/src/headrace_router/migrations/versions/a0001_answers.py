"""Stored answers, how many each tenant has, what was forgotten, and the consumed offsets."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables."""
    op.execute(
        """
        CREATE TABLE answers.answers (
            tenant      text NOT NULL,
            digest      bytea NOT NULL,
            task_id     text NOT NULL,
            answered_at bigint NOT NULL,
            bytes       bigint NOT NULL CHECK (bytes > 0),
            value       bytea NOT NULL,
            PRIMARY KEY (tenant, digest)
        )
        """
    )
    # By age, for retention; by age within a tenant, for its bound; by task, for what must be forgotten.
    op.execute("CREATE INDEX answers_by_age ON answers.answers (answered_at)")
    op.execute("CREATE INDEX answers_of_tenant_by_age ON answers.answers (tenant, answered_at)")
    op.execute("CREATE INDEX answers_by_task ON answers.answers (task_id)")
    op.execute(
        """
        CREATE TABLE answers.totals (
            tenant text PRIMARY KEY,
            rows   bigint NOT NULL,
            bytes  bigint NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE answers.forgotten (
            tenant       text NOT NULL,
            task_id      text NOT NULL,
            forgotten_at bigint NOT NULL,
            PRIMARY KEY (tenant, task_id)
        )
        """
    )
    op.execute("CREATE INDEX forgotten_by_age ON answers.forgotten (forgotten_at)")
    op.execute(
        """
        CREATE TABLE answers.positions (
            topic       text NOT NULL,
            partition   integer NOT NULL,
            next_offset bigint NOT NULL,
            topic_id    text,
            PRIMARY KEY (topic, partition)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE answers.answers IS "
        "'Answers that serve equal tasks of the same tenant, rules and privacy level; never sensitive ones. value is a "
        "TaskCompleted as in tasks.completed. Everything here can be deleted at any time: it costs calls of models.'"
    )


def downgrade() -> None:
    """Drop all: the answers are asked for anew."""
    for table in ("positions", "forgotten", "totals", "answers"):
        op.execute(f"DROP TABLE answers.{table}")
