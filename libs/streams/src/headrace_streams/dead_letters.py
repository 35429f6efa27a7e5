"""Writes records that cannot be decoded or handled to their topic's dead-letter topic, with the reason."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final, Protocol

from headrace_contracts.codec import spec_of
from headrace_contracts.events import DeadLetter
from headrace_contracts.events.deadletters import Header
from headrace_contracts.headers import header, traceparent
from headrace_contracts.ids import dead_letter_id
from headrace_contracts.topics import dead_letters_of

from headrace_streams.errors import RecordRefused
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record

_OWN_MODULES: Final = "headrace"
_LONGEST_MESSAGE: Final = 2_000
_LONGEST_LAST_MESSAGE: Final = 200
_LONGEST_TENANT: Final = 200
_LARGE_BYTES: Final = 1024
"""A record of at least this many bytes may be the reason why the cluster refuses its dead letter."""


class DeadLetterSink(Protocol):
    """Destination of records that can never be handled."""

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        """Write a record and its reason to the dead-letter topic; returns once it is durably appended.

        Raises TransientError, AppendUncertain and Overloaded when the caller must try again: a duplicate is better than
        a lost record. Raises RecordRefused when the dead-letter topic does not accept the record.
        """
        ...


class DeadLetters:
    """Writes to `<topic>.dlq`.

    Args:
        service: Name of the service that writes the dead letters.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, publisher: Publisher, service: str, topic_prefix: str, clock: Callable[[], int]) -> None:
        self._publisher = publisher
        self._service = service
        self._topic_prefix = topic_prefix
        self._clock = clock

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        """Append the record with the error's type and `message_of`; returns once it is durably appended.

        The event id follows from the record's offset, so a repeat has the same one. If the dead letter is larger than
        the cluster accepts, the value is left out, and if that is not enough, key, headers and a long reason as well;
        their sizes are recorded. The record itself is still in its own topic, and must not block those behind it.

        Raises what `Producer.send` raises, and KeyError for a topic that has no dead-letter topic. RecordRefused then
        means that the cluster accepts no dead letters for the topic at all.
        """
        now = self._clock()
        headers = record.headers
        letter = DeadLetter(
            service=self._service,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp_ms,
            key=record.key,
            value=record.value,
            headers=tuple(Header(name=name, value=value) for name, value in headers),
            error_type=type(error).__name__,
            error_message=message_of(error),
            attempts=attempts,
            failed_at=now,
        )
        spec = dead_letters_of(spec_of(record.topic, self._topic_prefix))
        whole = Publication(
            spec=spec,
            event=letter,
            event_id=dead_letter_id(record.topic, record.partition, record.offset),
            key=record.key,
            tenant=header(headers, "ce_tenant") or "",
            time_ms=now,
            traceparent=traceparent(headers),
        )
        sizes = _Sizes.of(record)
        *larger, last = _ever_smaller(whole, letter, sizes)
        for publication in larger:
            try:
                await self._publisher.send(publication)
                return
            except RecordRefused:
                if sizes.total < _LARGE_BYTES:
                    raise
        await self._publisher.send(last)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of a record's parts."""

    value: int
    key: int
    headers: int

    @classmethod
    def of(cls, record: Record) -> _Sizes:
        headers = sum(len(name.encode("utf-8", "replace")) + len(value or b"") for name, value in record.headers)
        return cls(len(record.value or b""), len(record.key or b""), headers)

    @property
    def total(self) -> int:
        return self.value + self.key + self.headers


def _ever_smaller(whole: Publication, letter: DeadLetter, sizes: _Sizes) -> list[Publication]:
    """The dead letter, and what to send in its place if the cluster refuses it."""
    shorter = letter if letter.value is None else replace(letter, value=None, omitted_bytes=sizes.value)
    # Nothing in this one has a size of the record's choosing, so it always fits.
    last = replace(
        shorter,
        key=None,
        headers=(),
        error_message=letter.error_message[:_LONGEST_LAST_MESSAGE],
        omitted_key_bytes=None if letter.key is None else sizes.key,
        omitted_header_bytes=sizes.headers if letter.headers else None,
    )
    return [
        whole,
        *([replace(whole, event=shorter)] if sizes.value else []),
        replace(whole, event=last, key=None, tenant=whole.tenant[:_LONGEST_TENANT], traceparent=None),
    ]


def described(error: BaseException) -> str:
    """Kind and text of an error for logs, without any content of a record."""
    text = message_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_own(error: BaseException) -> bool:
    """Whether the error is one of Headrace's, whose text we have written, without content."""
    return type(error).__module__.partition(".")[0].startswith(_OWN_MODULES)


def message_of(error: BaseException) -> str:
    """The text of an error, without any content of the record.

    Headrace's own errors contain none. Of other errors only the location is given, since their messages may quote
    the data.
    """
    if is_own(error):
        # Whatever it quotes, it must be possible to write it down.
        text = str(error).encode("utf-8", "replace").decode()
        return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {frames[-1].name} ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
