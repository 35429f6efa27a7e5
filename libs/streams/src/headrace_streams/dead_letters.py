"""Keeps what cannot be read or handled, whole and with its reason, beside the topic it came from."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from typing import Final, Protocol

from headrace_contracts.codec import spec_of
from headrace_contracts.events import DeadLetter
from headrace_contracts.events.deadletters import Header
from headrace_contracts.headers import header
from headrace_contracts.ids import dead_letter_id
from headrace_contracts.topics import dead_letters_of

from headrace_streams.errors import RecordRefused
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record

_OWN_MODULES: Final = "headrace"
_LONGEST_MESSAGE: Final = 2_000
_LARGE_BYTES: Final = 64 * 1024
"""From this size on a value may be why the cluster refuses a dead letter."""


class DeadLetterSink(Protocol):
    """Where records go that can never be handled."""

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        """Keep a record with its reason; returns when it is on disk.

        Raises TransientError, AppendUncertain and Overloaded when it may be kept later: a record kept twice is better
        than one kept nowhere. Raises RecordRefused when the dead-letter topic does not take it.
        """
        ...


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
        """Append the record with the error's type and `message_of`; returns when it is on disk.

        A record given up twice has the same event id. Where the record with all that is said about it is larger than
        the cluster takes, its value is left out and its size is noted: it still stands in its own topic, and must not
        hold up what comes after it. Raises what `Producer.send` raises, and KeyError for a topic that has no dead
        letters.
        """
        now = self._clock()
        letter = DeadLetter(
            service=self._service,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp_ms,
            key=record.key,
            value=record.value,
            headers=tuple(Header(name=name, value=value) for name, value in record.headers),
            error_type=type(error).__name__,
            error_message=message_of(error),
            attempts=attempts,
            failed_at=now,
        )
        try:
            await self._append(record, letter, now)
        except RecordRefused:
            size = len(record.value or b"")
            if size < _LARGE_BYTES:
                raise
            await self._append(record, replace(letter, value=None, omitted_bytes=size), now)

    async def _append(self, record: Record, letter: DeadLetter, now: int) -> None:
        await self._publisher.send(
            Publication(
                spec=dead_letters_of(spec_of(record.topic, self._topic_prefix)),
                event=letter,
                event_id=dead_letter_id(record.topic, record.partition, record.offset),
                key=record.key,
                tenant=header(record.headers, "ce_tenant") or "",
                time_ms=now,
                traceparent=header(record.headers, "traceparent"),
            )
        )


def message_of(error: BaseException) -> str:
    """An error in words that hold nothing of the record's content.

    Headrace's own errors say what is wrong without it. Of other errors only the place is told: their words may quote
    what they stumbled over.
    """
    if type(error).__module__.partition(".")[0].startswith(_OWN_MODULES):
        text = str(error)
        return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {frames[-1].name} ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
