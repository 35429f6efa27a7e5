"""Reads a whole partition of `skills.catalog`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.events import SkillPublished
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described
from headrace_streams.ports import Log
from headrace_streams.reading import up_to
from headrace_streams.records import TopicPartition

from headrace_skill_broadcaster.adapters.catalog_records import is_late
from headrace_skill_broadcaster.decide.catalog import position_in, supersedes
from headrace_skill_broadcaster.metrics import SkillMetrics

_POLL = 1000
_POLL_SECONDS = 1.0

_log = get_logger("headrace.skills.catalog")


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a partition.

    Attributes:
        entries: The valid state of every skill, by key.
        overtaken: Keys whose last record is not the valid one: a writer that had lost the partition appended it late,
            and compaction would retain it instead.
        newest: Records in order, including versions that have been replaced: those whose position is beyond `beyond`,
            or without it the last `keep_newest`.
        end: Offset of the next record.
    """

    entries: dict[str, SkillPublished]
    overtaken: frozenset[str]
    newest: tuple[SkillPublished, ...]
    end: int


async def read_partition(
    log: Log, codec: Codec, partition: TopicPartition, measures: SkillMetrics, *, beyond: int | None, keep_newest: int
) -> Contents:
    """Read everything in the partition at the time of the call. Raises TransientError, OffsetOutOfRange,
    RegistryUnavailable."""
    reader = log.reader()
    entries: dict[str, SkillPublished] = {}
    overtaken: set[str] = set()
    newest: deque[SkillPublished] = deque(maxlen=keep_newest if beyond is None else None)
    try:
        start, end = (await reader.bounds([partition]))[partition]
        await reader.assign({partition: start})
        async for records in up_to(reader, {partition: end}, most=_POLL, poll_seconds=_POLL_SECONDS):
            for record in records:
                key = (record.key or b"").decode("utf-8", "replace")
                if record.value is None:
                    if is_late(record, entries.get(key)):
                        overtaken.add(key)
                    else:
                        entries.pop(key, None)
                        overtaken.discard(key)
                    continue
                origin = Origin(record.topic, record.partition, record.offset)
                try:
                    entry = await codec.read(SkillPublished, record.value, origin)
                    position, is_newest = position_in(entry), supersedes(entry, entries.get(key))
                except RegistryUnavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
                    # A foreign or faulty writer: stopping the service here would stop it permanently.
                    measures.unreadable.labels(record.topic).inc()
                    _log.error("skipping a record in the catalog", origin=str(origin), reason=described(error))
                    continue
                if beyond is None or position > beyond:
                    newest.append(entry)
                if is_newest:
                    entries[key] = entry
                    overtaken.discard(key)
                else:
                    overtaken.add(key)
    finally:
        await reader.close()
    return Contents(entries, frozenset(overtaken), tuple(newest), end)
