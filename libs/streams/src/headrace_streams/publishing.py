"""Turns typed events into records with CloudEvents headers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import SchemaIdsLost
from headrace_contracts.headers import UNORDERED, WEIGHT, Headers, cloud_event
from headrace_contracts.record_mac import RecordSigner
from headrace_contracts.topics import TopicSpec

from headrace_streams.errors import TransientError
from headrace_streams.ports import Producer
from headrace_streams.records import ProducerRecord, RecordMetadata

_UNORDERED: Final = (UNORDERED, b"1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """An event to be published to a topic.

    Attributes:
        spec: The topic.
        event: The event, of the class that the topic holds.
        event_id: Becomes ce_id; a repeat of the same event has the same id.
        key: Record key; for task events the bytes of the submitted task's key.
        partition: Explicit partition, for everything that must stay in a task's home partition.
        time_ms: When it happened.
        tenant, subject, traceparent: For the headers.
        ordered: Whether it keeps its order with other records of its key; if not, a header says so.
        weight: Its tenant's share of what is short; a header says so if it is not 1.
    """

    spec: TopicSpec
    event: Any
    event_id: str
    key: bytes | None
    tenant: str
    time_ms: int
    partition: int | None = None
    subject: str | None = None
    traceparent: str | None = None
    ordered: bool = True
    weight: int = 1

    def marks(self) -> Headers:
        """The headers that say how to treat it, if not as any other."""
        unordered = () if self.ordered else (_UNORDERED,)
        return unordered if self.weight == 1 else (*unordered, (WEIGHT, str(self.weight).encode()))


class Publisher:
    """Encodes events and passes them to a producer.

    Args:
        source: ce_source of all events, for example headrace/router/pod-1.
        signer: Signs the records of topics that hold signed ones.
    """

    def __init__(self, producer: Producer, codec: Codec, source: str, signer: RecordSigner | None = None) -> None:
        self._producer = producer
        self._signer = signer
        self._codec = codec
        self._source = source

    def topic(self, name: str) -> str:
        """A topic's name with the prefix."""
        return self._codec.topic_prefix + name

    def record_of(self, publication: Publication) -> ProducerRecord:
        """The record of an event.

        Raises UnencodableEvent, and TransientError while the registry has lost its schema.
        """
        try:
            value = self._codec.encode(publication.spec, publication.event)
        except SchemaIdsLost as error:
            raise TransientError(str(error)) from error
        headers = cloud_event(
            event_id=publication.event_id,
            event_type=publication.event.FULL_NAME,
            source=self._source,
            time_ms=publication.time_ms,
            tenant=publication.tenant,
            subject=publication.subject,
            traceparent=publication.traceparent,
        )
        return self._signed(publication.spec, ProducerRecord(
            topic=self._codec.topic_prefix + publication.spec.name,
            value=value,
            key=publication.key,
            partition=publication.partition,
            headers=(*headers, *publication.marks()),
        ))  # fmt: skip

    def _signed(self, spec: TopicSpec, record: ProducerRecord) -> ProducerRecord:
        if self._signer is None or not (spec.signed or spec.scope):
            return record
        signature = self._signer.header(record.topic, record.key, record.value)
        return replace(record, headers=(*record.headers, signature))

    def send(self, publication: Publication) -> asyncio.Future[RecordMetadata]:
        """Queue an event; see `Producer.send` for ordering and errors.

        The future fails with TransientError, and nothing is queued, while the registry has lost the event's schema.
        """
        try:
            record = self.record_of(publication)
        except TransientError as error:
            refused: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused
        return self.send_record(record)

    def send_record(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        """Queue a record made by `record_of`."""
        return self._producer.send(record)

    def send_tombstone(self, spec: TopicSpec, key: bytes) -> asyncio.Future[RecordMetadata]:
        """Queue a tombstone for a key of a compacted topic."""
        record = ProducerRecord(topic=self._codec.topic_prefix + spec.name, value=None, key=key)
        return self._producer.send(self._signed(spec, record))

    async def flush(self) -> None:
        """Wait until every queued event is appended or has failed."""
        await self._producer.flush()
