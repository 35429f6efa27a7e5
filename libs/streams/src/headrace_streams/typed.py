"""Decodes records into typed events."""

from __future__ import annotations

from headrace_contracts.codec import Codec, E
from headrace_contracts.errors import Origin

from headrace_streams.records import Record


def origin_of(record: Record) -> Origin:
    """Topic, partition and offset of a record, as the errors of headrace_contracts name them."""
    return Origin(record.topic, record.partition, record.offset)


async def decode(codec: Codec, event: type[E], record: Record) -> E:
    """Decode a record as the given event class. Raises UnreadableValue, RegistryUnavailable."""
    return await codec.read(event, record.value, origin_of(record))
