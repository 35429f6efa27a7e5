"""A partition of `skills.catalog` read whole."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import SkillPublished
from headrace_runtime.logging import get_logger
from headrace_streams.ports import Log
from headrace_streams.records import TopicPartition

from headrace_skill_broadcaster.decide.catalog import supersedes
from headrace_skill_broadcaster.measures import Measures

_POLL = 1000
_PATIENCE_SECONDS = 5.0

_log = get_logger("headrace.skills.catalog")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a partition held.

    Attributes:
        entries: Every skill as it stands, by key.
        overtaken: Keys whose last record is not the one that stands: a writer that had lost the partition appended it
            late, and compaction would keep it instead.
        end: Offset that the next record will get.
    """

    entries: dict[str, SkillPublished]
    overtaken: frozenset[str]
    end: int


async def read_partition(log: Log, codec: Codec, partition: TopicPartition, measures: Measures) -> Contents:
    """Everything in the partition at the time of the call. Raises TryAgain, RegistryUnavailable."""
    reader = log.reader()
    entries: dict[str, SkillPublished] = {}
    overtaken: set[str] = set()
    try:
        start, end = (await reader.bounds([partition]))[partition]
        await reader.assign({partition: start})
        next_offset = start
        while next_offset < end:
            records = await reader.poll(_POLL, _PATIENCE_SECONDS)
            if not records:
                _log.info("reading the catalog", partition=partition.partition, at=next_offset, end=end)
            for record in records:
                next_offset = record.offset + 1
                key = (record.key or b"").decode("utf-8", "replace")
                if record.value is None:
                    entries.pop(key, None)
                    overtaken.discard(key)
                    continue
                origin = Origin(record.topic, record.partition, record.offset)
                try:
                    entry = await codec.read(SkillPublished, record.value, origin)
                except UnreadableValue as error:
                    # Whoever wrote this had no business to; a service that stops here would stop for good.
                    measures.unreadable.labels(record.topic).inc()
                    _log.error("record in the catalog is passed over", reason=str(error))
                    continue
                if supersedes(entry, entries.get(key)):
                    entries[key] = entry
                    overtaken.discard(key)
                else:
                    overtaken.add(key)
    finally:
        await reader.close()
    return Contents(entries, frozenset(overtaken), end)
