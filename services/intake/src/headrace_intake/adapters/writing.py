"""Writes events and waits for Kafka's acknowledgement, up to the longest wait a caller can be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace_contracts.errors import UnencodableEvent
from headrace_contracts.topics import TopicSpec
from headrace_runtime import tracing
from headrace_runtime.logging import get_logger
from headrace_streams.errors import AppendUncertain, Overloaded, RecordRefused, TransientError
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata

_log = get_logger("headrace.intake.writing")


class NotWritten(Exception):
    """Kafka certainly does not have the event: try again later."""


class WriteUncertain(Exception):
    """Kafka may have the event, or may still receive it: count on neither."""


class NeverWritable(Exception):
    """Kafka refuses this event (too large, not authorised, no such topic): do not retry."""


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
        return await self._acknowledged(lambda: self._publisher.send(publication))

    async def remove(self, spec: TopicSpec, key: str) -> RecordMetadata:
        """Write a tombstone for a key of a compacted topic. As `write`."""
        return await self._acknowledged(lambda: self._publisher.send_tombstone(spec, key.encode()))

    async def _acknowledged(self, send: Callable[[], asyncio.Future[RecordMetadata]]) -> RecordMetadata:
        try:
            future = send()
        except Overloaded as error:
            raise NotWritten(f"the producer's queue is full: {error}") from error
        except UnencodableEvent as error:
            raise NeverWritable(str(error)) from error
        # Not wait_for: the record cannot be recalled, so its future must not be cancelled.
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
        _log.warning("acknowledged after its caller got an error", topic=appended.topic, offset=appended.offset)
    else:
        _log.warning("never acknowledged; its caller got an uncertain answer", reason=str(error))
