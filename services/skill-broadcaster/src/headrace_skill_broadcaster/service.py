"""The catalog side of the service: submissions in, catalog and feed out.

Each batch from the group is split by partition and handled by the partition's keeper; then the offsets are committed.
A partition that is not done soon (it waits for the registry, or for its dead letters) is paused, and goes on alone. See
`keeper` for the handling of one partition.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from headrace_contracts.groups import SKILL_BROADCASTER
from headrace_contracts.topics import SKILLS_CATALOG, SKILLS_SUBMITTED
from headrace_runtime.health import Health
from headrace_runtime.logging import get_logger
from headrace_streams.errors import LeaveGroup, PartitionsLost, TransientError
from headrace_streams.ports import Consumer
from headrace_streams.provisioning import PartitionsDiffer
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

from headrace_skill_broadcaster.keeper import BATCH, PartitionKeeper, Tools

_POLL_SECONDS = 0.5
_SOON_SECONDS = 1.0
"""How long a batch of one partition may hold the others back."""
_WORTH_SAYING_SECONDS = 10.0
_IDLE_POLLS_BEFORE_CHECK = 20
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 15.0
_CHECK = "submissions"

_log = get_logger("headrace.skills.service")


class SubmissionService:
    """A member of the consumer group that maintains the catalog."""

    def __init__(self, tools: Tools, health: Health) -> None:
        self._tools = tools
        self._health = health
        prefix = tools.codec.topic_prefix
        self._submitted = prefix + SKILLS_SUBMITTED.name
        self._catalog = prefix + SKILLS_CATALOG.name
        self._group = prefix + SKILL_BROADCASTER.name
        self._keepers: dict[TopicPartition, PartitionKeeper] = {}
        self._consumer: Consumer | None = None
        self._late: dict[TopicPartition, asyncio.Task[tuple[TopicPartition, int | None]]] = {}
        # Since when, in the loop's time; what is here and not late any more is of no account.
        self._late_since: dict[TopicPartition, float] = {}
        health.add_degradation(_CHECK, self.waiting)
        self._at_work = asyncio.Lock()
        self._draining = asyncio.Event()
        self._drained = asyncio.Event()

    async def start(self) -> None:
        """Raises PartitionsDiffer, TransientError."""
        self._health.set(_CHECK, "has not joined its consumer group yet")
        counts = await self._tools.log.admin().partition_counts([self._submitted, self._catalog])
        if counts.get(self._submitted) != counts.get(self._catalog):
            raise PartitionsDiffer(
                f"{self._submitted} has {counts.get(self._submitted)} partitions and {self._catalog} "
                f"{counts.get(self._catalog)}: add partitions to the smaller one and restart"
            )

    def waiting(self) -> str | None:
        """The partitions that have waited alone for a while; None if there are none."""
        if not self._late:
            return None
        now = asyncio.get_running_loop().time()
        waited = {name: now - self._late_since[name] for name in self._late}
        long = {name.partition: seconds for name, seconds in waited.items() if seconds > _WORTH_SAYING_SECONDS}
        if not long:
            return None
        which = f"{'partition' if len(long) == 1 else 'partitions'} {', '.join(map(str, sorted(long)))}"
        reason = "the registry, the catalog or the dead letters do not take or answer what they are asked"
        return f"{which} of {self._submitted} wait for {max(long.values()):.0f} s: {reason}; the others go on"

    async def run(self) -> None:
        """Handle submissions until drained; rejoins after the group has removed this member."""
        loop = asyncio.get_running_loop()
        delay = _FIRST_DELAY_SECONDS
        try:
            while not self._draining.is_set():
                joined_at = loop.time()
                try:
                    await self._be_member()
                except (LeaveGroup, TransientError) as error:
                    if loop.time() - joined_at > _LONGEST_DELAY_SECONDS:
                        delay = _FIRST_DELAY_SECONDS
                    self._health.set(_CHECK, f"rejoins its consumer group in {delay:g} s: {error}")
                    _log.warning("restarting the consumer", reason=str(error), delay_seconds=delay)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        finally:
            self._drained.set()

    async def drain(self) -> None:
        """Finish the batch in flight and leave the group."""
        self._draining.set()
        await self._drained.wait()

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Take over assigned partitions: read their catalog, and seek to the offsets in it. Raises TransientError."""
        assert self._consumer is not None  # only the consumer calls this
        committed = await self._consumer.committed(partitions)
        keepers = {partition: PartitionKeeper(partition.partition, self._tools) for partition in partitions}

        async def load(partition: TopicPartition, keeper: PartitionKeeper) -> tuple[TopicPartition, int]:
            progress = committed.get(partition)
            return partition, await keeper.load(None if progress is None else progress.next_offset)

        starts = dict(await asyncio.gather(*(load(*item) for item in keepers.items())))
        self._keepers.update(keepers)
        _log.info(
            "partitions taken over",
            partitions=sorted(partition.partition for partition in partitions),
            skills=sum(map(len, keepers.values())),
        )
        return starts

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Finish what is in flight, then release the partitions."""
        async with self._at_work:
            await self._leave_late(partitions)
            for partition in partitions:
                self._keepers.pop(partition, None)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """Stop work on the partitions at once: they have another owner."""
        for partition in partitions:
            keeper = self._keepers.pop(partition, None)
            if keeper is not None:
                keeper.lose()
        await self._leave_late(partitions)
        _log.warning("partitions lost", partitions=sorted(partition.partition for partition in partitions))

    async def _be_member(self) -> None:
        consumer = self._consumer = self._tools.log.consumer(self._group)
        try:
            await consumer.subscribe([self._submitted], self)
            self._health.set(_CHECK, None)
            idle = 0
            while not self._draining.is_set():
                records = await consumer.poll(BATCH, _POLL_SECONDS)
                async with self._at_work:
                    if records:
                        idle = 0
                        await self._commit(consumer, await self._handle(consumer, records))
                    else:
                        idle += 1
                    await self._commit(consumer, self._caught_up(consumer))
                    await self._sweep()
                    if idle == _IDLE_POLLS_BEFORE_CHECK:
                        idle = 0
                        at_rest = [keeper for name, keeper in self._keepers.items() if name not in self._late]
                        await asyncio.gather(*map(self._check, at_rest))
        finally:
            await consumer.close()
            await self._leave_late(list(self._late))
            self._keepers.clear()

    async def _handle(self, consumer: Consumer, records: Sequence[Record]) -> dict[TopicPartition, OffsetAndMetadata]:
        batches: dict[TopicPartition, list[Record]] = defaultdict(list)
        for record in records:
            batches[record.topic_partition].append(record)
        running = {name: asyncio.create_task(self._after_late(name, batch)) for name, batch in batches.items()}
        done, late = await asyncio.wait(running.values(), timeout=_SOON_SECONDS)
        for name, task in running.items():
            if task in late:
                self._late_since[name] = asyncio.get_running_loop().time()
                self._late[name] = task
        if late:
            names = [name for name, task in running.items() if task in late]
            _log.warning("partitions wait alone", partitions=sorted(name.partition for name in names))
            consumer.pause([name for name in names if name in self._keepers])
        return _positions(task.result() for task in done)

    async def _after_late(
        self, partition: TopicPartition, records: Sequence[Record]
    ) -> tuple[TopicPartition, int | None]:
        # Records that were on their way when the partition was paused.
        before = self._late.get(partition)
        if before is not None:
            await asyncio.wait([before])
        return await self._handle_partition(partition, records)

    def _caught_up(self, consumer: Consumer) -> dict[TopicPartition, OffsetAndMetadata]:
        """Go on with partitions that have waited alone; returns what to commit."""
        done = {name: task for name, task in self._late.items() if task.done()}
        for name in done:
            del self._late[name]
        if done:
            consumer.resume([name for name in done if name in self._keepers])
        return _positions(task.result() for task in done.values())

    async def _leave_late(self, partitions: Collection[TopicPartition]) -> None:
        """Give up what waits in these partitions: the next owner starts with it."""
        tasks = [task for name in partitions if (task := self._late.pop(name, None)) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle_partition(
        self, partition: TopicPartition, records: Sequence[Record]
    ) -> tuple[TopicPartition, int | None]:
        keeper = self._keepers.get(partition)
        if keeper is None:
            return partition, None  # the partition was revoked while the records were on their way
        try:
            return partition, await keeper.handle(records)
        except PartitionsLost as error:
            _log.warning("stopped work on a lost partition", reason=str(error))
            return partition, None

    async def _sweep(self) -> None:
        for name, keeper in list(self._keepers.items()):
            if name not in self._late:
                try:
                    await keeper.sweep()
                except PartitionsLost as error:
                    _log.info("partition sweep stopped", reason=str(error))

    async def _check(self, keeper: PartitionKeeper) -> None:
        try:
            await keeper.check()
        except (PartitionsLost, TransientError) as error:
            _log.info("partition check failed", reason=str(error))

    async def _commit(self, consumer: Consumer, progress: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        if not progress:
            return
        try:
            await consumer.commit(progress)
        except (PartitionsLost, TransientError) as error:
            # The catalog has the offsets as well; events published twice have the same ids.
            _log.info("offset commit failed", reason=str(error))


def _positions(
    results: Iterable[tuple[TopicPartition, int | None]],
) -> dict[TopicPartition, OffsetAndMetadata]:
    return {partition: OffsetAndMetadata(position) for partition, position in results if position is not None}
