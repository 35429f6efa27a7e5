"""Turns of conversations, the conversations themselves, and what must be forgotten."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables. They are filled from tasks.submitted and history.changed."""
    op.execute(
        """
        CREATE TABLE intake.turns (
            task_id          text PRIMARY KEY,
            tenant           text NOT NULL,
            conversation     text,
            previous_task_id text,
            submitted_at     bigint NOT NULL,
            said             text NOT NULL
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.turns IS "
        "'What tasks said that can be continued, each without what was said before; and what was added to a "
        "conversation without a task.'"
    )
    op.execute(
        "CREATE INDEX turns_by_conversation ON intake.turns (tenant, conversation, submitted_at, task_id) "
        "WHERE conversation IS NOT NULL"
    )
    op.execute("CREATE INDEX turns_by_age ON intake.turns USING brin (submitted_at)")
    op.execute(
        """
        CREATE TABLE intake.conversations (
            tenant       text NOT NULL,
            conversation text NOT NULL,
            labels       jsonb NOT NULL,
            created_at   bigint NOT NULL,
            changed_at   bigint NOT NULL,
            deleted      boolean NOT NULL,
            PRIMARY KEY (tenant, conversation)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE intake.forgotten (
            tenant       text NOT NULL,
            task_id      text NOT NULL,
            forgotten_at bigint NOT NULL,
            PRIMARY KEY (task_id, tenant)
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE intake.forgotten IS "
        "'Tasks whose content the view must not hold, also when it reads their events later or once more.'"
    )


def downgrade() -> None:
    """Drop the tables with their data."""
    for table in ("forgotten", "conversations", "turns"):
        op.execute(f"DROP TABLE intake.{table}")
