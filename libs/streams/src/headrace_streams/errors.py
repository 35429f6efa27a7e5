"""Errors of the streams library, named by what their receiver must do."""

from __future__ import annotations


class StreamsError(Exception):
    """Base of all errors of this package."""


class TransientError(StreamsError):
    """The operation surely had no effect, and may succeed later."""


class AppendUncertain(StreamsError):
    """Read the log before going on: the record may or may not have been appended."""


class RecordRefused(StreamsError):
    """Do not retry: the cluster refuses this record or topic (too large, not authorised, no such topic)."""


class Overloaded(StreamsError):
    """Slow down: the producer's queue is full."""


class LeaveGroup(StreamsError):
    """Close this consumer and start anew: the cluster no longer accepts it (fenced, not authorised, broken)."""


class PartitionsLost(StreamsError):
    """Drop what is in hand: the partitions belong to another member of the group by now."""


class OffsetOutOfRange(StreamsError):
    """Choose another offset: the one asked for is no longer, or not yet, in the log."""


class TopicMissing(StreamsError):
    """Provision first: the topic does not exist."""


class BatchRefused(StreamsError):
    """Take the batch apart: the store will never take something in it, and has taken nothing of it."""


class Fenced(StreamsError):
    """Stop acting on this journal partition: a newer owner has written to it."""


class HandlerError(StreamsError):
    """Base of what a handler of the parallel engine raises on purpose."""


class RetryRecord(HandlerError):
    """Try this record again after a delay; its key waits, others go on."""

    def __init__(self, message: str, delay_seconds: float) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class SendToDeadLetters(HandlerError):
    """This record can never be handled: keep it, with this reason, in the dead-letter topic."""
