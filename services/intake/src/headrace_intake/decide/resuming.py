"""Where a caller resumes in the events of a task, and how long a young task may be missing from the view."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from headrace_intake.decide.refusals import Refusal, bad_request

FINISHED_ID: Final = "finished"
"""Event id of an end read from the view, where it has no offset in a topic."""

_PLACE: Final = re.compile(r"(\d{1,9}):(\d{1,18})")
_UUID7: Final = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_YOUNG_MS: Final = 10_000
_PATIENCE_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ReplyPosition:
    """A record of tasks.replies."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class AtTheEnd:
    """The caller has had the last event."""


def parse_place(text: str | None) -> ReplyPosition | AtTheEnd | None:
    """Parse a Last-Event-ID; None if there is none. Raises Refusal for one that was not issued."""
    if text is None:
        return None
    if text == FINISHED_ID:
        return AtTheEnd()
    match = _PLACE.fullmatch(text)
    if match is None:
        raise not_given_out()
    return ReplyPosition(int(match[1]), int(match[2]))


def not_given_out() -> Refusal:
    """400 for a Last-Event-ID that no event can have had."""
    return bad_request(
        "Last-Event-ID was not issued by this stream: omit it to start from the beginning.",
        "Last-Event-ID",
        "bad-last-event-id",
    )


def unknown_until(task_id: str, now_ms: int) -> int:
    """Until when a task missing from the view may still appear; `now_ms` when it should be there already.

    The id holds its creation time; only an id a few seconds old may be missing.
    """
    match = _UUID7.fullmatch(task_id)
    if match is None:
        return now_ms
    made_ms = int(match[1] + match[2], 16)
    return now_ms + _PATIENCE_MS if abs(now_ms - made_ms) <= _YOUNG_MS else now_ms
