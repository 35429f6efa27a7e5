"""Reads recorded tasks: each with what the journal says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

from headrace.connecting import Cluster
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import TaskPhase, TaskSubmitted
from headrace_contracts.topics import TASKS_JOURNAL, TASKS_SUBMITTED
from headrace_streams.journal_reading import JournaledDecision, read_journal
from headrace_streams.ports import PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import Record, TopicPartition

from headrace_devstack.replay.recorded import PastDecisions, Recorded

_BATCH = 1_000
_POLL_SECONDS = 1.0


class Span(NamedTuple):
    """Tasks that were submitted from one time up to another, in milliseconds since the epoch."""

    since: int
    until: int


async def recorded_tasks(
    cluster: Cluster, span: Span, *, tenant: str | None = None, advance: Callable[[int], object] = lambda _done: None
) -> AsyncGenerator[Recorded, None]:
    """The tasks of a span that can be read, partition by partition.

    Args:
        tenant: Only its tasks.
        advance: Called with the number of tasks read since the last call.

    Raises JournalUnreadable, TransientError, RegistryUnavailable, TopicMissing.
    """
    reader = cluster.log.reader()
    try:
        for submitted in sorted(await reader.partitions_of(cluster.topic(TASKS_SUBMITTED))):
            journal = await _past_decisions(reader, cluster, submitted.partition, span)
            async with aclosing(_records(reader, submitted, span)) as batches:
                async for records in batches:
                    for record in records:
                        task = await _task(cluster, record)
                        if task is None or (tenant is not None and task.tenant != tenant):
                            continue
                        if span.since <= task.submitted_at < span.until:
                            yield journal.about(task, record.key or b"", submitted.partition)
                    advance(len(records))
                    await asyncio.sleep(0)
    finally:
        await reader.close()


async def count_tasks(cluster: Cluster, span: Span) -> int:
    """About how many records of tasks a span has, for a bar. Raises TransientError, TopicMissing."""
    reader = cluster.log.reader()
    try:
        partitions = await reader.partitions_of(cluster.topic(TASKS_SUBMITTED))
        first, last = await reader.offsets_at(partitions, span.since), await reader.offsets_at(partitions, span.until)
        return sum(last[each] - first[each] for each in partitions)
    finally:
        await reader.close()


async def _past_decisions(reader: PartitionReader, cluster: Cluster, partition: int, span: Span) -> PastDecisions:
    """What a partition of the journal says of the tasks of a span. They may have ended at any time since."""
    journal, where = PastDecisions(), TopicPartition(cluster.topic(TASKS_JOURNAL), partition)
    first, end = (await reader.bounds([where]))[where]

    def fold(decision: JournaledDecision) -> None:
        if decision.timestamp_ms < span.since:
            return
        if decision.cause == "submitted" or decision.phase is TaskPhase.FINISHED:
            journal.take(decision.entry(), decision.cause)

    if end > first:
        await read_journal(reader, cluster.codec, where, end - 1, fold)
    return journal


async def _records(reader: PartitionReader, where: TopicPartition, span: Span) -> AsyncGenerator[list[Record], None]:
    start = (await reader.offsets_at([where], span.since))[where]
    end = (await reader.offsets_at([where], span.until))[where]
    if start >= end:
        return
    await reader.assign({where: start})
    async for records in up_to(reader, {where: end}, most=_BATCH, poll_seconds=_POLL_SECONDS):
        yield [record for record in records if record.offset < end]


async def _task(cluster: Cluster, record: Record) -> TaskSubmitted | None:
    """The task in a record; None if there is none that can be read, as for the router."""
    try:
        return await cluster.codec.read(
            TaskSubmitted, record.value, Origin(record.topic, record.partition, record.offset)
        )
    except UnreadableValue:
        return None
