"""Parses times as users type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from headrace.cli.running import USAGE, fail

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST_SECONDS: Final = 3650 * 86_400.0


def parse_time_or_age(text: str, now: datetime) -> datetime:
    """A time in RFC 3339 (without a zone: the user's), or an age such as 30m before `now`.

    Raises ValueError for anything else.
    """
    age = _AGE.fullmatch(text.strip())
    try:
        if age:
            return now - timedelta(**{_UNITS[age[2]]: float(age[1])})
        return datetime.fromisoformat(text.strip().upper().replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a time (2027-01-01T12:00:00Z) nor an age (45s, 30m, 2h, 7d)") from None


def time_before(text: str | None) -> datetime | None:
    """Like `parse_time_or_age`, for an option that may be missing, with the current time."""
    if text is None:
        return None
    try:
        return parse_time_or_age(text, datetime.now(UTC))
    except ValueError as error:
        raise fail(str(error), USAGE) from None


def duration_option(text: str | None) -> float | None:
    """Seconds of a duration such as 30m, for an option that may be missing."""
    if text is None:
        return None
    found = _AGE.fullmatch(text.strip())
    seconds = float(found[1]) * timedelta(**{_UNITS[found[2]]: 1}).total_seconds() if found else 0.0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise fail(f"{text!r} is not a time of up to ten years (45s, 30m, 2h, 7d)", USAGE)
    return seconds
