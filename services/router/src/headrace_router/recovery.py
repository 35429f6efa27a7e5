"""Taking over a partition: rebuild its tasks from the journal, and publish again what may not have been published.

The order matters:

1. Append the epoch start and read the journal. From here on a former owner's appends are invalid.
2. Wait for this process's own pending appends, and for what a former owner may still be publishing. Before that, a
   terminal state that is about to arrive in tasks.completed would look missing and be published twice.
3. Read which terminal states exist, and publish those that are due.
4. Only then create the router, which starts to decide, and publishes whatever else is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from headrace_contracts.codec import Codec
from headrace_contracts.events import Command, CommandKind, JournalEntry
from headrace_contracts.headers import header
from headrace_contracts.topics import TASKS_COMPLETED
from headrace_runtime.logging import get_logger
from headrace_streams.errors import OffsetOutOfRange, RecordRefused
from headrace_streams.journal import Journal, JournaledDecision, JournaledEntry, Recovered
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import TopicPartition

from headrace_router.decide.publications import publication
from headrace_router.decide.retry import running_numbers
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.input_logs import INPUTS, InputLogs
from headrace_router.limits import RouterLimits
from headrace_router.partition import PartitionRouter, RouterContext
from headrace_router.partition_state import PartitionState

_READ_AT_ONCE = 1000
_READ_SECONDS = 1.0
_REPEAT_AT_ONCE = 500

_Due = tuple[int, JournalEntry, tuple[Command, ...]]
"""An entry with its offset, and those of its commands that are due."""

_log = get_logger("headrace.router.recovery")


async def recover(
    *,
    partition: int,
    owner: str,
    log: Log,
    codec: Codec,
    router_context: RouterContext,
    limits: RouterLimits,
    input_logs: InputLogs,
    broken: Callable[[BaseException], None],
) -> PartitionRouter:
    """Become the router of a partition. It starts its timers itself, and knows where to start in its inputs.

    Raises what `Journal.take_over` raises, and the errors of appending if a command could not be published.
    """
    began = router_context.monotonic()
    view = router_context.view
    policy_version = view.policy_in_use
    state = PartitionState(view.policy.cache, limits, router_context.monotonic, view.sensitive_sessions)

    ours_since: list[float] = []

    def fold(recorded: JournaledDecision) -> None:
        if not ours_since:
            # The first entry is read after our epoch start was acknowledged.
            ours_since.append(router_context.monotonic())
        state.restore(recorded, view.clock())

    reader = log.reader()
    try:
        journal, recovered = await Journal.take_over(
            publisher=router_context.publisher,
            reader=reader,
            codec=codec,
            partition=partition,
            owner=owner,
            now_ms=view.clock(),
            fold=fold,
            limit=limits.largest_entry,
            policy_version=policy_version,
        )
        read = router_context.monotonic()
        await router_context.pending_appends.settled(partition)
        waited = router_context.monotonic() - ours_since[0] if ours_since else 0.0
        await asyncio.sleep(_time_left_to_others(recovered, owner, waited, router_context.settle_seconds))
        due = _due(recovered, state.tasks, await _written(recovered, reader, codec.topic_prefix, partition))
        repeated = sum(len(commands) for _, _, commands in due)
        due = await _repeat_ends(due, journal, partition, router_context, policy_version)
        end = await _end_of_completed(reader, codec.topic_prefix, partition)
        journal.settled(end, [offset for offset, _, _ in due])
        starts = await input_logs.starts(recovered, partition, reader)
    finally:
        await reader.close()
    router = PartitionRouter(
        partition=partition,
        journal=journal,
        state=state,
        positions=starts.offsets,
        topic_ids=starts.topic_ids,
        router_context=router_context,
        limits=limits,
        broken=broken,
        policy_version=policy_version,
    )
    # What the cluster has not said now is asked for soon, not only with the next look.
    router.doubtful = len(starts.topic_ids) < len(INPUTS)
    router.resume(recovered.shadowed, due)
    took = router_context.monotonic() - began
    router_context.metrics.recovered(took)
    _log.info(
        "partition taken over",
        partition=partition,
        epoch=journal.epoch,
        entries=recovered.entries,
        tasks=len(state.tasks),
        repeated=repeated,
        seconds=round(took, 3),
        reading=round(read - began, 3),
    )
    return router


def _time_left_to_others(recovered: Recovered, owner: str, waited: float, settle_seconds: float) -> float:
    """Seconds to wait before reading which terminal states exist.

    The former owner may have been suspended past its session, or put out of its group, and be about to publish a
    terminal state: of a task that it decided itself, or of an earlier owner's that it repeats. It began to do so after
    an entry that stands before our epoch start, and what it has not produced `settle_seconds` after that it never will.
    So that is how long we wait from our epoch start on (`waited` of it has passed), by our own monotonic clock: the
    times in entries are those of another host, whose clock may be off by more than the wait.

    A former owner that left in an orderly way has left nothing unpublished, so it costs no wait; one with our own name
    is our predecessor, which is gone.
    """
    last = recovered.last
    if last is None or last.owner == owner:
        return 0.0
    ends = any(c.kind is CommandKind.COMPLETE for placed in recovered.unpublished for c in placed.entry.commands)
    return max(0.0, settle_seconds - waited) if ends else 0.0


async def _written(recovered: Recovered, reader: PartitionReader, topic_prefix: str, partition: int) -> Collection[str]:
    """Ids of the terminal states that may be those of unpublished entries, and exist."""
    if not any(c.kind is CommandKind.COMPLETE for placed in recovered.unpublished for c in placed.entry.commands):
        return ()
    begin = recovered.completed_offset or 0
    return await _ids_since(reader, TopicPartition(topic_prefix + TASKS_COMPLETED.name, partition), begin)


def _due(recovered: Recovered, tasks: PartitionTasks, written: Collection[str]) -> list[_Due]:
    """The commands of unpublished entries that are still due."""
    # A terminal state that its topic refused is followed by a smaller one with the same id, which stands for both.
    newest = {
        command.event_id: placed.offset
        for placed in recovered.unpublished
        for command in placed.entry.commands
        if command.kind in (CommandKind.COMPLETE, CommandKind.REPLY)
    }
    found = []
    for placed in recovered.unpublished:
        commands = [
            command
            for command in placed.entry.commands
            if newest.get(command.event_id, placed.offset) == placed.offset and _is_due(placed, command, tasks, written)
        ]
        if commands:
            found.append((placed.offset, placed.entry, tuple(commands)))
    return found


async def _repeat_ends(
    due: list[_Due], journal: Journal, partition: int, router_context: RouterContext, policy_version: str
) -> list[_Due]:
    """Publish the terminal states; returns what is left to the router: everything else, and what was refused.

    Every consumer recognises a repeat by its id. Only terminal states are looked up first, because other teams read
    them and expect each once. As always, publishing follows an acknowledgement of the journal: if this process was
    suspended, the checkpoint tells it that another owner has taken over.
    """
    ends = [(entry, command) for _, entry, commands in due for command in commands if _is_end(command)]
    refused: set[str] = set()
    for first in range(0, len(ends), _REPEAT_AT_ONCE):
        asked = router_context.monotonic()
        await journal.checkpoint((), router_context.view.clock(), policy_version)
        if router_context.monotonic() - asked > router_context.publish_within:
            raise journal.fence("the journal answered too late to repeat commands")
        batch = ends[first : first + _REPEAT_AT_ONCE]
        sent = [router_context.publisher.send(publication(*item)) for item in batch]
        for future in sent:
            router_context.pending_appends.add(partition, future)
        # Not `gather`: when this takeover is cancelled, it would cancel the futures, and the process's next takeover,
        # which waits for pending appends, would no longer know that these are on their way.
        await asyncio.wait(sent)
        for (_, command), future in zip(batch, sent, strict=True):
            if isinstance(error := future.exception(), RecordRefused):
                refused.add(command.event_id)
            elif error is not None:
                raise error
    left = [
        (offset, entry, tuple(c for c in commands if not _is_end(c) or c.event_id in refused))
        for offset, entry, commands in due
    ]
    return [item for item in left if item[2]]


def _is_end(command: Command) -> bool:
    return command.kind is CommandKind.COMPLETE


def _is_due(placed: JournaledEntry, command: Command, tasks: PartitionTasks, written: Collection[str]) -> bool:
    if command.kind is CommandKind.COMPLETE:
        return command.event_id not in written
    if command.kind in (CommandKind.AUDIT, CommandKind.CANCEL) or not command.attempt:
        return True
    # An attempt is obsolete if its task has moved on since.
    state = tasks.get(placed.entry.task_id)
    return state is not None and command.attempt in running_numbers(state)


async def _ids_since(reader: PartitionReader, where: TopicPartition, begin: int) -> Collection[str]:
    """Event ids of a partition's records, from an offset on."""
    ids: set[str] = set()
    while True:
        first, end = (await reader.bounds([where]))[where]
        await reader.assign({where: max(first, begin)})
        try:
            async for records in up_to(reader, {where: end}, most=_READ_AT_ONCE, poll_seconds=_READ_SECONDS):
                for record in records:
                    if (event_id := header(record.headers, "ce_id")) is not None:
                        ids.add(event_id)
            return ids
        except OffsetOutOfRange:
            # Retention has moved the start of the log since.
            continue


async def _end_of_completed(reader: PartitionReader, topic_prefix: str, partition: int) -> int:
    where = TopicPartition(topic_prefix + TASKS_COMPLETED.name, partition)
    return (await reader.bounds([where]))[where][1]
