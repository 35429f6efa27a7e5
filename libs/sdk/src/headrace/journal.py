"""The router's journal for operators: look at it, check it, and pass over a record that cannot be read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from headrace_contracts.events import EntryKind, JournalEntry
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_streams.journal_inspection import InspectedRecord, JournalVerdict, inspect_journal, verify_journal
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import TopicPartition

from headrace.connecting import Cluster
from headrace.errors import HeadraceError

_SOURCE = "headrace/operator"


class NothingToSkip(HeadraceError):
    """Check the offset: there is no record that could not be read."""


async def partitions(cluster: Cluster) -> Sequence[int]:
    """Numbers of the journal's partitions. Raises TopicMissing, TransientError."""
    reader = cluster.log.reader()
    try:
        return [name.partition for name in await reader.partitions_of(cluster.topic(TASKS_JOURNAL))]
    finally:
        await reader.close()


async def records(cluster: Cluster, partition: int) -> AsyncGenerator[InspectedRecord, None]:
    """The records of a partition, oldest first. Raises what `inspect_journal` raises."""
    reader = cluster.log.reader()
    try:
        async with aclosing(inspect_journal(reader, cluster.codec, _place(cluster, partition))) as found:
            async for each in found:
                yield each
    finally:
        await reader.close()


async def verify(cluster: Cluster, chosen: Collection[int] = ()) -> Sequence[JournalVerdict]:
    """Check these partitions, or all. Raises what `inspect_journal` raises."""
    reader = cluster.log.reader()
    try:
        return [
            await verify_journal(reader, cluster.codec, _place(cluster, number))
            for number in sorted(chosen or await partitions(cluster))
        ]
    finally:
        await reader.close()


async def skip(cluster: Cluster, partition: int, offset: int, *, reason: str, operator: str) -> int:
    """Let the router go on without a record that cannot be read; returns the offset of the skip.

    The skip is a record of the journal itself, with operator, reason and time: the journal is the audit trail. If the
    record was a decision, that decision is lost: its task may never end, or be worked on again.

    Raises NothingToSkip if the record can be read, is not there, or has been skipped, and what appending raises.
    """
    (verdict,) = await verify(cluster, [partition])
    if offset in verdict.skipped:
        former = verdict.skipped[offset]
        raise NothingToSkip(f"offset {offset} was skipped by {former.owner}: {former.note}")
    if offset not in verdict.unreadable:
        known = ", ".join(map(str, verdict.unreadable)) or "none"
        raise NothingToSkip(f"there is no unreadable record at offset {offset}; unreadable in this partition: {known}")
    await cluster.codec.prepare([TASKS_JOURNAL])
    now = time.time_ns() // 1_000_000
    entry = JournalEntry(kind=EntryKind.SKIP, owner=operator, skipped_offset=offset, note=reason, decided_at=now)
    producer = cluster.log.producer()
    try:
        appended = await Publisher(producer, cluster.codec, _SOURCE).send(
            Publication(
                spec=TASKS_JOURNAL,
                event=entry,
                event_id=f"skip/{partition}/{offset}",
                key=f"skip/{partition}/{offset}".encode(),
                tenant="",
                time_ms=now,
                partition=partition,
            )
        )
    finally:
        await producer.close()
    return appended.offset


def _place(cluster: Cluster, partition: int) -> TopicPartition:
    return TopicPartition(cluster.topic(TASKS_JOURNAL), partition)
