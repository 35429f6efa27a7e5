"""Taking a partition over: rebuild its tasks from the journal, and carry out again what may not have been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from headrace_contracts.codec import Codec
from headrace_contracts.events import Command, CommandKind, JournalEntry, TaskPhase
from headrace_contracts.headers import header
from headrace_contracts.topics import TASKS_COMPLETED
from headrace_runtime.logging import get_logger
from headrace_streams.errors import OffsetGone
from headrace_streams.journal import Journal, Placed, Recovered
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.records import TopicPartition

from headrace_router.decide.publications import publication
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.partition import PartitionRouter, Surroundings

_READ_AT_ONCE = 1000
_READ_SECONDS = 1.0
_REPEAT_AT_ONCE = 500

_log = get_logger("headrace.router.recovery")


async def recover(
    *,
    partition: int,
    owner: str,
    log: Log,
    codec: Codec,
    surroundings: Surroundings,
    remembered: int,
    largest_entry: int,
    broken: Callable[[BaseException], None],
) -> tuple[PartitionRouter, Mapping[str, int]]:
    """Become the router of a partition.

    Returns it, not yet moving by itself (`PartitionRouter.resume` is called here), and where to begin in the input
    topics. Raises what `Journal.take_over` raises, and the errors of appending when a command could not be repeated.
    """
    began = surroundings.monotonic()
    world = surroundings.world
    tasks = PartitionTasks(world.policy.cache, remembered)

    def fold(entry: JournalEntry) -> None:
        if entry.state is not None:
            tasks.apply(entry.task_id, entry.state)

    reader = log.reader()
    try:
        journal, recovered = await Journal.take_over(
            publisher=surroundings.publisher,
            reader=reader,
            codec=codec,
            partition=partition,
            owner=owner,
            now_ms=world.clock(),
            fold=fold,
            limit=largest_entry,
        )
        repeated = await _repeat(recovered, journal, tasks, partition, reader, codec.topic_prefix, surroundings)
        journal.settled(await _end_of_completed(reader, codec.topic_prefix, partition))
    finally:
        await reader.close()
    positions = {topic: offset for (topic, number), offset in recovered.positions.items() if number == partition}
    router = PartitionRouter(
        partition=partition,
        journal=journal,
        tasks=tasks,
        positions=positions,
        surroundings=surroundings,
        broken=broken,
    )
    router.resume(recovered.shadowed)
    took = surroundings.monotonic() - began
    surroundings.metrics.recovered(took)
    _log.info(
        "partition taken over",
        partition=partition,
        generation=journal.generation,
        entries=recovered.entries,
        tasks=len(tasks),
        repeated=repeated,
        seconds=round(took, 3),
    )
    return router, positions


async def _repeat(
    recovered: Recovered,
    journal: Journal,
    tasks: PartitionTasks,
    partition: int,
    reader: PartitionReader,
    topic_prefix: str,
    surroundings: Surroundings,
) -> int:
    """Produce the commands of unacted entries that are still due; how many they were.

    Everybody recognises a repeat by its id. Only the terminal states are looked up first, since other teams read them
    and expect each once. As always, what is produced follows an acknowledgement of the journal: a process that stood
    still meanwhile learns from it that somebody else has taken over.
    """
    written: Collection[str] = ()
    if any(c.kind is CommandKind.COMPLETE for placed in recovered.unacted for c in placed.entry.commands):
        begin = recovered.completed_offset or 0
        written = await _ids_since(reader, TopicPartition(topic_prefix + TASKS_COMPLETED.name, partition), begin)
    due = [
        (placed.entry, command)
        for placed in recovered.unacted
        for command in placed.entry.commands
        if _is_due(placed, command, tasks, written)
    ]
    for first in range(0, len(due), _REPEAT_AT_ONCE):
        asked = surroundings.monotonic()
        await journal.watermark((), surroundings.world.clock())
        if surroundings.monotonic() - asked > surroundings.act_within:
            raise journal.fence("the journal answered too late to repeat commands")
        sent = [surroundings.publisher.send(publication(*item)) for item in due[first : first + _REPEAT_AT_ONCE]]
        for result in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
    return len(due)


def _is_due(placed: Placed, command: Command, tasks: PartitionTasks, written: Collection[str]) -> bool:
    if command.kind is CommandKind.COMPLETE:
        return command.event_id not in written
    if command.kind is CommandKind.AUDIT or not command.attempt:
        return True
    # Nobody needs an attempt any more whose task has gone on since.
    state = tasks.get(placed.entry.task_id)
    return state is not None and state.phase is TaskPhase.RUNNING and len(state.attempts) == command.attempt


async def _ids_since(reader: PartitionReader, where: TopicPartition, begin: int) -> Collection[str]:
    """The event ids of a partition's records from an offset on."""
    ids: set[str] = set()
    while True:
        first, end = (await reader.bounds([where]))[where]
        position = max(first, begin)
        await reader.assign({where: position})
        try:
            while position < end:
                for record in await reader.poll(_READ_AT_ONCE, _READ_SECONDS):
                    position = record.offset + 1
                    if (event_id := header(record.headers, "ce_id")) is not None:
                        ids.add(event_id)
            return ids
        except OffsetGone:
            # Retention has moved the start of the log meanwhile.
            continue


async def _end_of_completed(reader: PartitionReader, topic_prefix: str, partition: int) -> int:
    where = TopicPartition(topic_prefix + TASKS_COMPLETED.name, partition)
    return (await reader.bounds([where]))[where][1]
