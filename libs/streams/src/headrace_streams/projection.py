"""Topics into a database, exactly once: what a record leaves there and how far its partition is read are one commit.

1. On assignment, the positions in the database say where to go on.
2. Records are gathered into a batch, until it is full or its first record has waited long enough.
3. They are decoded; what cannot be read goes to the dead letters, and so does what the store will never take.
4. The store writes the batch and moves the positions in one transaction, in which it compares the positions it finds
   with those we began at. Who is too late, because another member of the group has moved them, changes nothing.
5. Kafka's own committed offsets follow now and then, for those who watch the lag; nothing starts from them.

A crash at any point leaves all of a batch in the database or nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, UnreadableValue
from headrace_contracts.topics import Event, TopicSpec

from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.errors import (
    AppendUncertain,
    BatchRefused,
    LeaveGroup,
    Overloaded,
    PartitionsLost,
    TransientError,
)
from headrace_streams.ports import Consumer, Log, PartitionReader
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition
from headrace_streams.typed import decode

T = TypeVar("T")

Moves = Mapping[TopicPartition, tuple[int | None, int]]
"""For each partition the position that must be found in the store (None: none yet), and the new one."""

_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 0.5
_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 5.0
_SAY_EVERY_SECONDS = 10.0
_COMMIT_SECONDS = 5.0
_PASSING = (TransientError, RegistryUnavailable, AppendUncertain, Overloaded)

_log = logging.getLogger(__name__)


class ProjectionStore(Protocol):
    """The database, with rows and positions in it. Both methods raise TransientError while it is away."""

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Next offset to apply of each of these partitions; those that never were are left out."""
        ...

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        """Write what the records leave and move the positions in one transaction, or change nothing.

        `batch` holds records with their events, in order within a partition; it may be empty. Raises PartitionsLost
        when a position in the store is not the one that `moves` says, BatchRefused when it will never take something
        in the batch. An event may come again under another offset: what is written must be unique by the event's id.
        After TransientError the same is asked again, though the transaction may have been committed and only its answer
        lost: the positions tell.
        """
        ...


class _StartAnew(Exception):
    """Leave the group and join again: what is in hand is not ours any more, or cannot be kept."""


class Projection:
    """Applies the topics of some specifications to a store; any number of processes share the partitions.

    Args:
        group: Consumer group.
        max_batch: Most records of one transaction.
        max_wait_seconds: Longest time that a record waits for others to be written with it; one transaction for each
            record would cost more than all else that is done for it.
        on_waiting: Told why it waits for something that is away, and None when it goes on.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        specs: Iterable[TopicSpec],
        codec: Codec,
        store: ProjectionStore,
        dead_letters: DeadLetterSink,
        *,
        max_batch: int = 500,
        max_wait_seconds: float = 0.2,
        on_waiting: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        self._log = log
        self._group = group
        self._specs = {codec.topic_prefix + spec.name: spec for spec in specs}
        self._codec = codec
        self._store = store
        self._dead_letters = dead_letters
        self._max_batch = max_batch
        self._max_wait = max_wait_seconds
        self._on_waiting = on_waiting
        self._consumer: Consumer | None = None
        self._closing = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._waiting = False
        self._let_go = asyncio.Event()
        self._forget_everything()

    async def run(self) -> None:
        """Returns after `close`. Waits while the database, Kafka or the registry is away.

        Raises LeaveGroup when the cluster does not accept this consumer, TopicMissing, and whatever the store raises
        beside TransientError, PartitionsLost and BatchRefused: nothing of such a batch is passed over.
        """
        self._ended.clear()
        try:
            while not self._closing:
                await self._patiently(self._one_membership, (TransientError,))
        except _StartAnew:
            _log.info("%s: closed while waiting", self._group)
        finally:
            self._ended.set()

    async def close(self) -> None:
        """Finish the batch in hand and leave the group."""
        self._closing = True
        self._let_go.set()
        if self._consumer is not None:
            # Where `assigned` waits for the database, it is told so, and so would we be.
            with contextlib.suppress(_StartAnew):
                await self._consumer.close()
        await self._ended.wait()

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """See `RebalanceListener`."""
        async with self._writing:
            positions = await self._patiently(lambda: self._store.positions(partitions))
            bounds = await self._patiently(lambda: self._bounds(partitions))
            for name in partitions:
                self._expected[name] = positions.get(name)
                first, end = bounds[name]
                if name in positions and not first <= positions[name] <= end:
                    _log.error(
                        "%s: %s is applied up to %d, but its log goes from %d to %d: what lies between is lost to the "
                        "database; going on at the first record there is",
                        self._group, name, positions[name], first, end,
                    )  # fmt: skip
            return {name: positions.get(name, bounds[name][0]) for name in partitions}

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """See `RebalanceListener`."""
        self._drop(partitions)
        self._leaving = True
        self._let_go.set()
        async with self._writing:
            self._leaving = False
            if not self._closing:
                self._let_go.clear()
            for name in partitions:
                self._expected.pop(name, None)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """See `RebalanceListener`."""
        await self.revoked(partitions)

    def _forget_everything(self) -> None:
        self._batch: list[Record] = []
        # The positions in the store, of the partitions assigned here.
        self._expected: dict[TopicPartition, int | None] = {}
        # Held while a batch is on its way into the store: partitions come and go between batches.
        self._writing = asyncio.Lock()
        self._leaving = False
        self._uncommitted: dict[TopicPartition, OffsetAndMetadata] = {}
        self._commit_at = 0.0

    def _drop(self, partitions: Collection[TopicPartition]) -> None:
        self._batch = [record for record in self._batch if record.topic_partition not in partitions]
        for name in partitions:
            self._uncommitted.pop(name, None)

    async def _one_membership(self) -> None:
        """From joining the group until something makes it necessary to join anew."""
        self._forget_everything()
        rejoin = False
        self._consumer = consumer = self._log.consumer(self._group)
        try:
            await consumer.subscribe(self._specs, self)
            self._go_on()
            while True:
                await self._gather(consumer)
                async with self._writing:
                    await self._write()
                await self._commit(consumer)
        except (PartitionsLost, _StartAnew) as error:
            if not self._closing:
                _log.warning("%s: joins its group anew: %s", self._group, error)
                rejoin = True
        except LeaveGroup:
            if not self._closing:
                raise
        finally:
            with contextlib.suppress(_StartAnew):
                await consumer.close()
            self._consumer = None
        if rejoin:
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _gather(self, consumer: Consumer) -> None:
        clock = asyncio.get_running_loop().time
        while not self._batch:
            await self._poll(consumer, _POLL_SECONDS)
        until = clock() + self._max_wait
        while len(self._batch) < self._max_batch and (rest := until - clock()) > 0:
            await self._poll(consumer, rest)

    async def _poll(self, consumer: Consumer, timeout: float) -> None:
        # In two steps: `+=` would read the batch before the waiting, in which a revocation takes records out of it.
        records = await consumer.poll(self._max_batch - len(self._batch), timeout)
        self._batch += records

    async def _write(self) -> None:
        # Taken out before anything is awaited: from here on a revocation waits for the end of the writing.
        records, self._batch = self._batch, []
        if not records:
            return
        await self._apply([(record, await self._event(record)) for record in records])

    async def _apply(self, batch: Sequence[tuple[Record, Event | None]]) -> None:
        moves: dict[TopicPartition, tuple[int | None, int]] = {}
        for record, _ in batch:
            name = record.topic_partition
            moves[name] = (self._expected[name], record.offset + 1)
        readable = [(record, event) for record, event in batch if event is not None]
        try:
            await self._patiently(lambda: self._store.apply(readable, moves))
        except BatchRefused as error:
            if not readable:
                raise
            await self._take_apart(batch, error)
            return
        for name, (_, moved_to) in moves.items():
            self._expected[name] = moved_to
            self._uncommitted[name] = OffsetAndMetadata(moved_to)

    async def _take_apart(self, batch: Sequence[tuple[Record, Event | None]], refusal: BatchRefused) -> None:
        """Halve the batch until what the store refuses is alone; that goes to the dead letters, the rest is written."""
        if len(batch) > 1:
            half = len(batch) // 2
            await self._apply(batch[:half])
            await self._apply(batch[half:])
            return
        record = batch[0][0]
        await self._patiently(lambda: self._dead_letters.keep(record, refusal))
        await self._apply([(record, None)])

    async def _event(self, record: Record) -> Event | None:
        read = self._specs[record.topic].record
        try:
            event: Event = await self._patiently(lambda: decode(self._codec, read, record))
        except UnreadableValue as error:
            unreadable = error
            await self._patiently(lambda: self._dead_letters.keep(record, unreadable))
            return None
        return event

    async def _commit(self, consumer: Consumer) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._commit_at or not self._uncommitted:
            return
        self._commit_at = now + _COMMIT_SECONDS
        progress, self._uncommitted = self._uncommitted, {}
        # Nothing starts from these offsets, so nothing depends on their being stored.
        with contextlib.suppress(PartitionsLost, TransientError):
            await consumer.commit(progress)

    async def _bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        reader: PartitionReader = self._log.reader()
        try:
            return await reader.bounds(partitions)
        finally:
            await reader.close()

    async def _patiently(self, work: Callable[[], Awaitable[T]], passing: tuple[type[Exception], ...] = _PASSING) -> T:
        """Repeat what fails for now, unless somebody waits for us to let go of partitions."""
        clock = asyncio.get_running_loop().time
        delay = _FIRST_DELAY_SECONDS
        said_at: float | None = None
        while True:
            try:
                result = await work()
            except passing as error:
                if self._leaving or self._closing:
                    raise _StartAnew(str(error)) from error
                self._waiting = True
                self._on_waiting(str(error))
                if said_at is None or clock() - said_at >= _SAY_EVERY_SECONDS:
                    said_at = clock()
                    _log.warning("%s: waiting: %s", self._group, error)
                # No longer than somebody wants us to let go.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._let_go.wait(), delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
            else:
                self._go_on()
                return result

    def _go_on(self) -> None:
        if self._waiting:
            self._waiting = False
            self._on_waiting(None)
            _log.info("%s: goes on", self._group)
