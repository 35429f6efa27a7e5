"""Keeps what cannot be read or handled, whole and with its reason, beside the topic it came from."""

from __future__ import annotations

from collections.abc import Callable

from headrace_contracts.codec import spec_of
from headrace_contracts.events import DeadLetter
from headrace_contracts.events.deadletters import Header
from headrace_contracts.headers import header
from headrace_contracts.topics import dead_letters_of

from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record


class DeadLetters:
    """Writes to `<topic>.dlq`.

    Args:
        service: Who gives up.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, publisher: Publisher, service: str, topic_prefix: str, clock: Callable[[], int]) -> None:
        self._publisher = publisher
        self._service = service
        self._topic_prefix = topic_prefix
        self._clock = clock

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        """Append the record with the error's type and message; returns when it is on disk.

        A record given up twice has the same event id. Raises what `Producer.send` raises, and KeyError for a topic
        that has no dead letters.
        """
        now = self._clock()
        await self._publisher.send(
            Publication(
                spec=dead_letters_of(spec_of(record.topic, self._topic_prefix)),
                event=DeadLetter(
                    service=self._service,
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    timestamp=record.timestamp_ms,
                    key=record.key,
                    value=record.value,
                    headers=tuple(Header(name=name, value=value) for name, value in record.headers),
                    error_type=type(error).__name__,
                    error_message=str(error),
                    attempts=attempts,
                    failed_at=now,
                ),
                event_id=f"{record.topic}/{record.partition}/{record.offset}",
                key=record.key,
                tenant=header(record.headers, "ce_tenant") or "",
                time_ms=now,
                traceparent=header(record.headers, "traceparent"),
            )
        )
