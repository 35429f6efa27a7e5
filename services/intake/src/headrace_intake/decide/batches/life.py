"""The life of a batch, as a table of transitions, and of each of its lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

from headrace_intake.decide.refusals import Refusal

WINDOW: Final = "24h"
"""The only completion window, as with OpenAI."""
WINDOW_MS: Final = 86_400_000


class BatchStatus(StrEnum):
    """OpenAI's statuses of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class BatchEvent(StrEnum):
    """What can happen to a batch."""

    FILE_VALID = "the file is valid"
    FILE_INVALID = "the file is invalid"
    CANCEL_REQUESTED = "somebody asks to cancel it"
    ALL_LINES_ENDED = "every line has ended"
    WINDOW_CLOSED = "its time is over"
    RESULTS_WRITTEN = "the files of results are written"
    RESULTS_OF_EXPIRED_WRITTEN = "the files of results are written, and its time was over"


class LineState(StrEnum):
    """Where a line is on its way to its one end."""

    WAITING = "waiting"
    SUBMITTING = "submitting"
    """It has a task id and a time, and is perhaps in Kafka."""
    SUBMITTED = "submitted"
    ANSWERED = "answered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


_S, _E = BatchStatus, BatchEvent

LIVE: Final = frozenset({_S.VALIDATING, _S.IN_PROGRESS, _S.FINALIZING, _S.CANCELLING})
"""Statuses of batches that there is still work on."""

TRANSITIONS: Final[Mapping[tuple[BatchStatus, BatchEvent], BatchStatus]] = {
    (_S.VALIDATING, _E.FILE_VALID): _S.IN_PROGRESS,
    (_S.VALIDATING, _E.FILE_INVALID): _S.FAILED,
    (_S.VALIDATING, _E.CANCEL_REQUESTED): _S.CANCELLING,
    (_S.IN_PROGRESS, _E.CANCEL_REQUESTED): _S.CANCELLING,
    (_S.IN_PROGRESS, _E.ALL_LINES_ENDED): _S.FINALIZING,
    (_S.IN_PROGRESS, _E.WINDOW_CLOSED): _S.FINALIZING,
    (_S.FINALIZING, _E.RESULTS_WRITTEN): _S.COMPLETED,
    (_S.FINALIZING, _E.RESULTS_OF_EXPIRED_WRITTEN): _S.EXPIRED,
    (_S.CANCELLING, _E.CANCEL_REQUESTED): _S.CANCELLING,
    (_S.CANCELLING, _E.ALL_LINES_ENDED): _S.CANCELLING,
    (_S.CANCELLING, _E.WINDOW_CLOSED): _S.CANCELLING,
    (_S.CANCELLING, _E.RESULTS_WRITTEN): _S.CANCELLED,
}
"""What follows from what; every other pair is a mistake."""


class NoSuchTransition(Exception):
    """The event cannot happen to a batch in this status."""


def after(status: BatchStatus, event: BatchEvent) -> BatchStatus:
    """The status after an event. Raises NoSuchTransition."""
    following = TRANSITIONS.get((status, event))
    if following is None:
        raise NoSuchTransition(f"{event} while it is {status}")
    return following


def cancelled(status: BatchStatus) -> BatchStatus:
    """The status after a request to cancel. Raises Refusal 409 for a batch that cannot be cancelled any more."""
    try:
        return after(status, BatchEvent.CANCEL_REQUESTED)
    except NoSuchTransition:
        why = f"Cannot cancel a batch with status '{status}'."
        raise Refusal(409, "batch-not-cancellable", why) from None


def task_id_of(batch_id: str, line: int, round_: int, created_at: int) -> str:
    """The task id of a line, the same whoever computes it: a UUIDv7 with the time of the batch.

    Args:
        round_: How often the line had to be submitted anew, since the tenant had too many live tasks.
        created_at: When the batch was created, in milliseconds since the epoch.
    """
    drawn = int.from_bytes(hashlib.sha256(f"{batch_id}/{line}/{round_}".encode()).digest()[:10], "big")
    bits = (created_at & (1 << 48) - 1) << 80 | drawn
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=bits & ~(0x3 << 62) | 0x2 << 62))
