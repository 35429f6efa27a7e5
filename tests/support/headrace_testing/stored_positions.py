"""Short forms of stored positions."""

from __future__ import annotations

from headrace_streams.log_identity import StoredPosition

at = StoredPosition


def moving(start: int | None, end: int, topic_id: str | None = None) -> tuple[StoredPosition | None, StoredPosition]:
    """How a position moves; from None if there is none yet."""
    return (None if start is None else at(start, topic_id), at(end, topic_id))
