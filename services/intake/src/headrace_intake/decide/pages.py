"""Which tasks a list shows: filters and the page cursor."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import TaskStatus

from headrace_intake.decide.options import is_unicode, parse_time
from headrace_intake.decide.refusals import bad_request
from headrace_intake.decide.views import ACCEPTED

DEFAULT_LIMIT: Final = 50
LARGEST_LIMIT: Final = 200

STATUSES: Final = (ACCEPTED, *(str(status) for status in TaskStatus))
_EXACT: Final = ("role", "kind", "session", "user")
_KNOWN: Final = frozenset({"status", "since", "until", "limit", "cursor", *_EXACT})
_LATEST_MS: Final = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class After:
    """The last task of the previous page."""

    submitted_at: int
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to list; None does not restrict. Times are milliseconds since the epoch; `until` is exclusive."""

    status: str | None = None
    role: str | None = None
    kind: str | None = None
    session: str | None = None
    user: str | None = None
    since: int | None = None
    until: int | None = None
    limit: int = DEFAULT_LIMIT
    after: After | None = None


def parse_filter(query: Mapping[str, str]) -> Filter:
    """Parse the filter from a query string. Raises Refusal."""
    unknown = sorted(query.keys() - _KNOWN)
    if unknown:
        raise bad_request(f"There is no filter {unknown[0]}; there are {', '.join(sorted(_KNOWN))}.", unknown[0])
    status = query.get("status") or None
    if status is not None and status not in STATUSES:
        raise bad_request(f"status must be one of {', '.join(STATUSES)}.", "status")
    for name in _EXACT:
        if "\0" in query.get(name, ""):
            raise bad_request(f"{name} cannot hold a null character.", name)
    return Filter(
        status=status,
        role=query.get("role") or None,
        kind=query.get("kind") or None,
        session=query.get("session") or None,
        user=query.get("user"),
        since=_time("since", query.get("since")),
        until=_time("until", query.get("until")),
        limit=_limit(query.get("limit")),
        after=parse_cursor(query["cursor"]) if query.get("cursor") else None,
    )


def _limit(text: str | None) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= LARGEST_LIMIT):
        raise bad_request(f"limit must be a whole number from 1 to {LARGEST_LIMIT}.", "limit")
    return int(text)


def _time(name: str, text: str | None) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(int(text[:18]), _LATEST_MS)
    try:
        # An unescaped "+" in the query arrives as a space.
        return parse_time(text.replace(" ", "+"))
    except ValueError as error:
        raise bad_request(f"{name} {error}, or milliseconds since the epoch.", name) from None


def cursor(after: After) -> str:
    """The cursor of the page that follows a task."""
    return base64.urlsafe_b64encode(json.dumps([after.submitted_at, after.task_id]).encode()).decode().rstrip("=")


def parse_cursor(text: str) -> After:
    """Parse a cursor. Raises Refusal for one that was not issued here."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    match found:
        case [int(submitted_at), str(task_id)] if (
            0 <= submitted_at <= _LATEST_MS and "\0" not in task_id and is_unicode(task_id)
        ):
            return After(submitted_at, task_id)
        case _:
            raise bad_request("This cursor was not issued here: use `next` of the previous page.", "cursor")
