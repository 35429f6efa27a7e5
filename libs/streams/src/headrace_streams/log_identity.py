"""Whether a stored position still means the log it was taken from, and where to go on if it does not.

An offset says nothing without its log. A topic may be deleted and created again, restored from a backup, cut short by
the loss of its only replica, or cleaned by retention before it was read. So positions are stored with the id of their
topic, and compared with the log before they are used, and now and then while they are in use.

Where to go on:

- Recreated (another topic id, or a position beyond the end whose id is not known): at the first record. Nothing of
  this log was ever read.
- Truncated (the same topic, and a position beyond its end): what remains was read before; what was appended since
  stands at the end, and cannot be told from what remains. Readers to whom repeats are harmless start at the first
  record and miss nothing. Others, for which a repeat costs money, start at the end.
- Data lost (a position before the first record): at the first record.

A log that was cut short and has grown beyond the position before anybody looked cannot be told from the one that was
read. A client that runs meanwhile learns of it from the new leader's epoch, and delivers again from the first record.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace_streams.records import TopicPartition

FINGERPRINT_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """Where to go on, and in which log.

    Attributes:
        next_offset: Everything below it is done.
        topic_id: Id (or fingerprint) of the topic; None if it was stored by a version that did not know it.
    """

    next_offset: int
    topic_id: str | None = None


@dataclass(frozen=True, slots=True)
class LogState:
    """A partition's log as it is now.

    Attributes:
        topic_id: In the same form as in the stored positions; None while unknown.
        first: First offset in the log.
        end: The offset of the next record.
    """

    topic_id: str | None
    first: int
    end: int


class Discontinuity(StrEnum):
    """Why a position is not one of this log."""

    RECREATED = "recreated"
    TRUNCATED = "truncated"
    DATA_LOST = "data_lost"


@dataclass(frozen=True, slots=True)
class Continue:
    """The position is valid."""

    offset: int

    @property
    def start_at(self) -> int:
        return self.offset


@dataclass(frozen=True, slots=True)
class Recreated:
    """It is another log: nothing of it was read."""

    start_at: int
    kind: Discontinuity = Discontinuity.RECREATED


@dataclass(frozen=True, slots=True)
class Truncated:
    """The log has lost records at its end that had been read."""

    start_at: int
    kind: Discontinuity = Discontinuity.TRUNCATED


@dataclass(frozen=True, slots=True)
class DataLost:
    """Records were deleted before they were read: at most `lost` of them, as some offsets may never have had one."""

    start_at: int
    lost: int
    kind: Discontinuity = Discontinuity.DATA_LOST


Broken = Recreated | Truncated | DataLost
Verdict = Continue | Broken


def judge(stored: StoredPosition, log: LogState, *, repeats_are_harmless: bool) -> Verdict:
    """Where to go on.

    Args:
        repeats_are_harmless: Whether a reader may read again what remains of a truncated log.
    """
    known = stored.topic_id is not None and log.topic_id is not None
    if known and stored.topic_id != log.topic_id:
        return Recreated(log.first)
    if stored.next_offset > log.end:
        if not known:
            return Recreated(log.first)
        return Truncated(log.first if repeats_are_harmless else log.end)
    if stored.next_offset < log.first:
        return DataLost(log.first, log.first - stored.next_offset)
    return Continue(stored.next_offset)


def explained(reader: str, partition: TopicPartition, stored: StoredPosition, verdict: Broken) -> str:
    """What happened, where the reader goes on, and what the operator has to do."""
    match verdict:
        case Recreated(start_at=start_at):
            return (
                f"{reader}: {partition} is not the log that was read up to {stored.next_offset}: its topic was deleted "
                f"and created again, or restored. Going on at its first record, {start_at}. What had not been read of "
                f"the former log is lost; if this was not intended, restore the topic."
            )
        case Truncated(start_at=start_at):
            return (
                f"{reader}: {partition} was read up to {stored.next_offset} and now ends before: it has lost records, "
                f"as when its only replica was lost. Going on at {start_at}. Look for a broker that lost its disk, and "
                f"give the topic three replicas."
            )
        case DataLost(start_at=start_at, lost=lost):
            return (
                f"{reader}: {partition} was read up to {stored.next_offset}, but begins at {start_at}: up to {lost} "
                f"records were deleted before they were read, and are lost here. Going on at {start_at}. Let the "
                f"topic keep records for longer than its readers may stand still (retention.ms, retention.bytes)."
            )


def fingerprint(topic_id: str) -> str:
    """A topic's id in few characters, for commit metadata."""
    return base64.urlsafe_b64encode(hashlib.sha256(topic_id.encode()).digest()[:6]).decode()
