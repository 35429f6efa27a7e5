"""How several models have answered a task, as an ensemble or a cascade."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Null serves existing rows, and older releases, which do not fill them."""
    op.execute("ALTER TABLE intake.tasks ADD COLUMN ensemble text, ADD COLUMN cascade text")


def downgrade() -> None:
    """Drop the columns with what they hold."""
    op.execute("ALTER TABLE intake.tasks DROP COLUMN ensemble, DROP COLUMN cascade")
