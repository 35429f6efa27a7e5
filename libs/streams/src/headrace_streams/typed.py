"""Typed events out of records."""

from __future__ import annotations

from headrace_contracts.codec import Codec, E
from headrace_contracts.errors import Origin

from headrace_streams.records import Record


def origin_of(record: Record) -> Origin:
    """Where a record stands, as the contracts' errors name it."""
    return Origin(record.topic, record.partition, record.offset)


async def decode(codec: Codec, event: type[E], record: Record) -> E:
    """The event in a record, given its class. Raises UnreadableValue, RegistryUnavailable."""
    return await codec.read(event, record.value, origin_of(record))
