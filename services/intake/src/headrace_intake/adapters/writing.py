"""Writes events and waits for Kafka's acknowledgement, for as long as a caller can be kept waiting."""

from __future__ import annotations

import asyncio

from headrace_contracts.errors import UnencodableEvent
from headrace_runtime import tracing
from headrace_runtime.logging import get_logger
from headrace_streams.errors import AppendUncertain, Overloaded, RecordRefused, TransientError
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata

_log = get_logger("headrace.intake.writing")


class NotWritten(Exception):
    """Try again later: Kafka surely does not have the event."""


class WriteUncertain(Exception):
    """Do not count on either: Kafka may have the event, or get it yet."""


class NeverWritable(Exception):
    """Do not try again: Kafka does not take this event (too large, not authorised, no such topic)."""


class Writer:
    """Hands events to the publisher.

    Args:
        ack_seconds: Longest wait for an acknowledgement.
    """

    def __init__(self, publisher: Publisher, ack_seconds: float) -> None:
        self._publisher = publisher
        self._ack_seconds = ack_seconds

    async def write(self, publication: Publication) -> RecordMetadata:
        """Returns when all in-sync replicas have the event. Raises NotWritten, WriteUncertain, NeverWritable."""
        try:
            future = self._publisher.send(publication)
        except Overloaded as error:
            raise NotWritten(f"the producer's queue is full: {error}") from error
        except UnencodableEvent as error:
            raise NeverWritable(str(error)) from error
        # Not wait_for: the event cannot be called back, so its future must not be cancelled.
        await asyncio.wait((future,), timeout=self._ack_seconds)
        if not future.done():
            future.add_done_callback(_late)
            raise WriteUncertain(f"no acknowledgement within {self._ack_seconds:g} s")
        try:
            return future.result()
        except TransientError as error:
            raise NotWritten(str(error)) from error
        except AppendUncertain as error:
            raise WriteUncertain(str(error)) from error
        except RecordRefused as error:
            raise NeverWritable(str(error)) from error


def traceparent() -> str | None:
    """The current trace, for the headers of an event."""
    return next((value.decode() for name, value in tracing.inject([]) if name == "traceparent"), None)


def _late(future: asyncio.Future[RecordMetadata]) -> None:
    if future.cancelled():
        return
    error = future.exception()
    if error is None:
        appended = future.result()
        _log.warning("acknowledged after its caller was sent away", topic=appended.topic, offset=appended.offset)
    else:
        _log.warning("not acknowledged, as its caller was told it might not be", reason=str(error))
