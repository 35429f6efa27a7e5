"""Events of the domain deadletters.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One header of a record.

    Attributes:
        name: Its name.
        value: Its value.
    """

    FULL_NAME: ClassVar[str] = "headrace.deadletters.Header"

    name: str
    value: bytes | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Header:
        return cls(
            name=data["name"],
            value=data["value"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be decoded or handled, complete and with the reason.

    Attributes:
        service: Service that could not handle it.
        topic: Topic it came from, with the prefix.
        partition: Its partition.
        offset: Its offset.
        timestamp: Its timestamp. Milliseconds since the epoch, UTC.
        key: Its key, byte for byte; also null if it was too large to be included.
        value: Its value, byte for byte; also null if it was too large to be included.
        headers: Its headers; also empty if they were too large to be included.
        error_type: Kind of the error.
        error_message: The error in words, without content.
        attempts: Number of tries.
        failed_at: When the dead letter was written. Milliseconds since the epoch, UTC.
        omitted_bytes: Size of a value that was too large to be included: it can be read at the record's own
            offset, for as long as its topic retains it.
        omitted_key_bytes: Size of a key that was too large to be included; as omitted_bytes.
        omitted_header_bytes: Size of the names and values of the headers, if they were too large to be
            included; as omitted_bytes.
    """

    FULL_NAME: ClassVar[str] = "headrace.deadletters.DeadLetter"

    service: str
    topic: str
    partition: int
    offset: int
    timestamp: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()
    error_type: str
    error_message: str = ''
    attempts: int = 1
    failed_at: int
    omitted_bytes: int | None = None
    omitted_key_bytes: int | None = None
    omitted_header_bytes: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "service": self.service,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            "key": self.key,
            "value": self.value,
            "headers": [item.to_avro(named) for item in self.headers],
            "error_type": self.error_type,
            "error_message": self.error_message,
            "attempts": self.attempts,
            "failed_at": self.failed_at,
            "omitted_bytes": self.omitted_bytes,
            "omitted_key_bytes": self.omitted_key_bytes,
            "omitted_header_bytes": self.omitted_header_bytes,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> DeadLetter:
        return cls(
            service=data["service"],
            topic=data["topic"],
            partition=data["partition"],
            offset=data["offset"],
            timestamp=data["timestamp"],
            key=data["key"],
            value=data["value"],
            headers=tuple([Header.from_avro(item) for item in data["headers"]]),
            error_type=data["error_type"],
            error_message=data["error_message"],
            attempts=data["attempts"],
            failed_at=data["failed_at"],
            omitted_bytes=data["omitted_bytes"],
            omitted_key_bytes=data["omitted_key_bytes"],
            omitted_header_bytes=data["omitted_header_bytes"],
        )


class Handling(StrEnum):
    """What was done about a dead letter."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterHandled:
    """How an operator has handled the dead letters of one record.

    Attributes:
        topic: Topic that the record came from, with the prefix.
        partition: Its partition.
        offset: Its offset.
        handling: What was done about it.
        replays: Number of replays so far.
        replayed_offset: Offset of its last replay, in the same topic and partition.
        reason: Why, in the operator's words.
        handled_by: Who did it.
        handled_at: When. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.deadletters.DeadLetterHandled"

    topic: str
    partition: int
    offset: int
    handling: Handling
    replays: int = 0
    replayed_offset: int | None = None
    reason: str = ''
    handled_by: str = ''
    handled_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "handling": self.handling,
            "replays": self.replays,
            "replayed_offset": self.replayed_offset,
            "reason": self.reason,
            "handled_by": self.handled_by,
            "handled_at": self.handled_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> DeadLetterHandled:
        return cls(
            topic=data["topic"],
            partition=data["partition"],
            offset=data["offset"],
            handling=Handling(data["handling"]),
            replays=data["replays"],
            replayed_offset=data["replayed_offset"],
            reason=data["reason"],
            handled_by=data["handled_by"],
            handled_at=data["handled_at"],
        )
