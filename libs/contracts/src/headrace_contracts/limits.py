"""What a task may hold, the same for both ways in: HTTP and the topic tasks.submitted.

Lengths are in characters. Whoever takes a task from outside checks it against these once, so that everything behind may
rely on them: keys, headers, index entries and records have a known size, and times can be read by everyone.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST_NAME: Final = 200
"""Names that callers choose (user, kind, role, model, session, subject, …), and ids."""
TENANT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Tenants appear in record keys before a slash, in group names and in metric labels, so they are short and plain."""
NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f]+$"
"""A name is not empty, and has no control characters: it appears in keys, indexes and logs."""
OPTIONAL_NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f]*$"
TEXT_PATTERN: Final = r"^[^\x00]*$"
"""Databases cannot hold NUL."""
TASK_ID_PATTERN: Final = r"^[!-.0-~]{1,200}$"
"""A UUIDv7 is recommended. The slash separates a task's id from what is derived from it, such as attempt ids."""

LONGEST_TEXT: Final = 1000
"""A label's value, a reason."""
MOST_LABELS: Final = 32
LONGEST_STOP: Final = 200
MOST_STOPS: Final = 16
MOST_MESSAGES: Final = 2_048
"""As many as OpenAI takes. Each costs time in all services, however short it is."""
MOST_PARTS: Final = 1_024
"""Parts of one message."""
MOST_MESSAGES_AND_PARTS: Final = 4_096
"""Messages of a task and the parts of all of them. A part may become 20 values, and the journal entry of
such a task stays within what is decoded (`decoding_limits.MAX_VALUES`): one beyond would be accepted and never read."""
SPEAKERS: Final = ("system", "developer", "user", "assistant", "tool")
"""Roles of messages; `developer` is another word for `system`."""
DEFAULT_REQUEST_BYTES: Final = 1_048_576
"""Largest body of an HTTP request unless an operator allows more, in bytes."""
MOST_REQUEST_BYTES: Final = 8 * 1_048_576
"""The most that an operator can allow, in bytes: a task of this size is held by every service on its way."""
LARGEST_KEY: Final = 1024
"""Largest record key, in bytes; it is repeated in all records of a task."""
LONGEST_EVENT_ID: Final = 512

MOST_OUTPUT_TOKENS: Final = 10_000_000
HIGHEST_TEMPERATURE: Final = 2.0
MOST_BUDGET_DOLLARS: Final = 1_000_000
NANODOLLARS_IN_A_DOLLAR: Final = 1_000_000_000
MOST_PARTITIONS: Final = 100_000

EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01: an earlier time was not meant as milliseconds since the epoch."""
AHEAD_MS: Final = 86_400_000
"""How far the clock of whoever stamped a time may be ahead of ours."""
LONGEST_DEADLINE_SECONDS: Final = 30 * 86_400


def record_bytes(request_bytes: int) -> int:
    """Largest record that requests of this size lead to, in bytes: a record of the journal holds a whole task, its
    answer, which is taken to be as large at most, and the state of both."""
    return 2 * request_bytes + 2 * 1_048_576


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches."""
    return re.fullmatch(pattern, text) is not None


def is_name(text: str, longest: int = LONGEST_NAME) -> bool:
    """Whether the text can be a name."""
    return len(text) <= longest and matches(NAME_PATTERN, text)


def is_text(text: str, longest: int = LONGEST_TEXT) -> bool:
    """Whether the text can be free text beside the conversation."""
    return len(text) <= longest and "\x00" not in text


def is_tenant(text: str) -> bool:
    """Whether the text can be a tenant."""
    return len(text) <= LONGEST_NAME and matches(TENANT_PATTERN, text)


def is_task_id(text: str) -> bool:
    """Whether the text can be the id of a task."""
    return len(text) <= LONGEST_NAME and matches(TASK_ID_PATTERN, text)


def is_time(ms: int, now_ms: int) -> bool:
    """Whether this can be the time of something that has happened, in milliseconds since the epoch."""
    return EARLIEST_MS <= ms <= now_ms + AHEAD_MS


def is_deadline(ms: int, now_ms: int) -> bool:
    """Whether this can be a deadline; one that has passed can."""
    return EARLIEST_MS <= ms <= now_ms + AHEAD_MS + LONGEST_DEADLINE_SECONDS * 1000
