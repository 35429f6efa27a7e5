"""Times that others wrote, as far as they are times."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(ms: int) -> datetime | None:
    """A time in milliseconds since the epoch; None if no calendar has it, as when it is in microseconds."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def local_clock(ms: int) -> str:
    """The time of day in the user's zone, to the millisecond; what is no time as the number that it is."""
    at = utc(ms)
    try:
        return f"{ms} ms" if at is None else at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):  # the first and the last day that a calendar has, in a zone of another day
        return f"{ms} ms"


def local_iso(ms: int) -> str | None:
    """ISO 8601 in the user's zone; None for what is no time."""
    at = utc(ms)
    try:
        return None if at is None else at.astimezone().isoformat()
    except (ValueError, OverflowError):
        return None
