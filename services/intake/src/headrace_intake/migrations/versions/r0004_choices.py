"""Answers that are more than one text: tool calls, several answers, reasoning."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTS = ("reasoning_tokens", "image_tokens", "audio_tokens")


def upgrade() -> None:
    """Add the columns. Null and the default serve existing rows, and older releases, which do not fill them."""
    op.execute("ALTER TABLE intake.tasks ADD COLUMN choices text")
    for column in _COUNTS:
        op.execute(f"ALTER TABLE intake.tasks ADD COLUMN {column} bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drop the columns with what they hold."""
    op.execute("ALTER TABLE intake.tasks DROP COLUMN choices")
    for column in _COUNTS:
        op.execute(f"ALTER TABLE intake.tasks DROP COLUMN {column}")
