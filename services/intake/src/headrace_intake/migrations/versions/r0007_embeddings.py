"""Answers that are vectors of texts."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Null serves existing rows, and older releases, which do not fill it."""
    op.execute("ALTER TABLE intake.tasks ADD COLUMN embeddings text")


def downgrade() -> None:
    """Drop the column with what it holds."""
    op.execute("ALTER TABLE intake.tasks DROP COLUMN embeddings")
