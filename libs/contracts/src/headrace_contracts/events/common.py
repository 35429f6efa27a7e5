"""Events of the domain common.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Text or bytes that a person wrote or a model made.

    Attributes:
        cipher: How data is sealed: "none" for plain UTF-8, else the id of the data key.
        data: The text in UTF-8, or the bytes of a file, sealed as cipher says.
    """

    FULL_NAME: ClassVar[str] = "headrace.common.Content"

    cipher: str = 'none'
    data: bytes

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "cipher": self.cipher,
            "data": self.data,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Content:
        return cls(
            cipher=data["cipher"],
            data=data["data"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something did not succeed.

    Attributes:
        code: Stable, machine-readable reason, such as no_local_capacity or provider_overloaded.
        message: What went wrong, in words, without any content of the task.
        retry_after_ms: How long the provider asked to wait, in milliseconds.
    """

    FULL_NAME: ClassVar[str] = "headrace.common.Failure"

    code: str
    message: str = ''
    retry_after_ms: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "retry_after_ms": self.retry_after_ms,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Failure:
        return cls(
            code=data["code"],
            message=data["message"],
            retry_after_ms=data["retry_after_ms"],
        )


class Lane(StrEnum):
    """Priority lane: interactive work goes before batch work, without starving it."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Mode(StrEnum):
    """Where a tenant or user wants work to run: on own nodes, at cloud providers, or on either."""

    LOCAL = "local"
    CLOUD = "cloud"
    HYBRID = "hybrid"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Next offset to consume of one partition.

    Attributes:
        topic: Topic name without the prefix.
        partition: Partition number.
        next_offset: Offset of the next record to consume.
        topic_id: The cluster's id of the topic that the offset belongs to. A topic that was deleted and created
            again has another one, in which the offset means nothing. Null if unknown.
    """

    FULL_NAME: ClassVar[str] = "headrace.common.Position"

    topic: str
    partition: int
    next_offset: int
    topic_id: str | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partition": self.partition,
            "next_offset": self.next_offset,
            "topic_id": self.topic_id,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Position:
        return cls(
            topic=data["topic"],
            partition=data["partition"],
            next_offset=data["next_offset"],
            topic_id=data["topic_id"],
        )


class Privacy(StrEnum):
    """How far the content of a task may travel. An unknown level reads as the strictest."""

    SENSITIVE = "sensitive"
    INTERNAL = "internal"
    PUBLIC = "public"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one or several executions consumed.

    Attributes:
        input_tokens: Tokens read by the model, those included that came from the provider's prompt cache or
            were written to it.
        output_tokens: Tokens written by the model.
        cached_input_tokens: Those of input_tokens that the provider served from its prompt cache.
        searches: Web searches made.
        cache_write_5m_tokens: Those of input_tokens that were written to the provider's prompt cache, to be
            kept for 5 minutes.
        cache_write_1h_tokens: Those of input_tokens that were written to the provider's prompt cache, to be
            kept for 1 hour.
        reasoning_tokens: Those of output_tokens that were hidden thinking.
        image_tokens: Those of input_tokens that stand for images.
        audio_tokens: Those of input_tokens and output_tokens that stand for audio.
    """

    FULL_NAME: ClassVar[str] = "headrace.common.Usage"

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    searches: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "searches": self.searches,
            "cache_write_5m_tokens": self.cache_write_5m_tokens,
            "cache_write_1h_tokens": self.cache_write_1h_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "image_tokens": self.image_tokens,
            "audio_tokens": self.audio_tokens,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Usage:
        return cls(
            input_tokens=data["input_tokens"],
            output_tokens=data["output_tokens"],
            cached_input_tokens=data["cached_input_tokens"],
            searches=data["searches"],
            cache_write_5m_tokens=data["cache_write_5m_tokens"],
            cache_write_1h_tokens=data["cache_write_1h_tokens"],
            reasoning_tokens=data["reasoning_tokens"],
            image_tokens=data["image_tokens"],
            audio_tokens=data["audio_tokens"],
        )
