"""Errors of the streams library, each named after what the caller must do."""

from __future__ import annotations


class StreamsError(Exception):
    """Base of all errors of this package."""


class TransientError(StreamsError):
    """The operation certainly had no effect, and may succeed later."""


class AppendUncertain(StreamsError):
    """Read the log before going on: the record may or may not have been appended."""


class RecordRefused(StreamsError):
    """Do not retry: the cluster refuses this record or topic (too large, not authorised, no such topic)."""


class RecordTooLarge(RecordRefused):
    """Send a smaller record: this one is larger than its topic takes. Every other RecordRefused is not the record's own
    fault; whoever runs the cluster can mend it."""


class Overloaded(StreamsError):
    """Slow down: the producer's queue is full."""


class LeaveGroup(StreamsError):
    """Close this consumer and create a new one: the cluster no longer accepts it (fenced, not authorised, broken)."""


class PartitionsLost(StreamsError):
    """Discard work in progress: another member of the group owns the partitions now."""


class OffsetOutOfRange(StreamsError):
    """Choose another offset: the requested one is no longer, or not yet, in the log."""


class TopicMissing(StreamsError):
    """Provision first: the topic does not exist."""


class BatchRefused(StreamsError):
    """Split the batch: the store will never accept something in it, and has stored none of it."""


class Fenced(StreamsError):
    """Stop writing to this journal partition: a newer owner has written to it."""


class HandlerError(StreamsError):
    """Base of what a handler of the parallel engine raises deliberately."""


class RetryRecord(HandlerError):
    """Retry this record after a delay; its key waits, other keys go on."""

    def __init__(self, message: str, delay_seconds: float) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class SendToDeadLetters(HandlerError):
    """This record can never be handled: write it to the dead-letter topic, with this reason."""
