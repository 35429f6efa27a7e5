"""Topics into a database, exactly once: rows and input positions are written in one transaction.

1. On assignment, read the input positions from the database, compare them with the logs (see `log_identity`), and start
   there.
2. Gather records into a batch until it is full or its first record has waited long enough.
3. Decode them. Records that cannot be decoded, or that the store will never accept, go to the dead letters. A partition
   with many records of unknown schemas is paused, and its records come first in the batches that follow.
4. Write the batch and move the positions in one transaction, which compares the stored positions with those this member
   started from. If another member has moved them, the transaction changes nothing and this member joins the group
   again.
5. Commit offsets to Kafka at an interval, for lag monitoring only. Nothing starts from them.

A crash at any point leaves either the whole batch in the database or none of it.

Invariants:

- The comparison in step 4 is the only fencing. A member that was suspended and has lost its partition fails it, so
  neither Kafka's group nor a clock is needed for exactness.
- Partitions change only between batches (`_writing`): a batch in the database must not contain records of a partition
  whose position this member no longer knows.
- A record is skipped only after its dead letter is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, UnreadableValue
from headrace_contracts.topics import Event, TopicSpec

from headrace_streams.applied import AppliedPositions, Moves
from headrace_streams.dead_letters import DeadLetterSink, described
from headrace_streams.errors import (
    AppendUncertain,
    BatchRefused,
    LeaveGroup,
    Overloaded,
    PartitionsLost,
    RecordRefused,
    TransientError,
)
from headrace_streams.log_identity import StoredPosition
from headrace_streams.ports import Consumer, Log
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition
from headrace_streams.suspending import ErrorBudget, OnSuspension
from headrace_streams.typed import decode
from headrace_streams.watching import LogWatch, OnDiscontinuity, keep_looking

T = TypeVar("T")

__all__ = ["Moves", "Projection", "ProjectionStore"]

_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 0.5
_FIRST_DELAY_SECONDS = 0.2
_TRIES = 3
_LONGEST_DELAY_SECONDS = 5.0
_SAY_EVERY_SECONDS = 10.0
_COMMIT_SECONDS = 5.0
_LOOK_UP_SECONDS = 0.25
"""How long a batch waits for schemas to be looked up; partitions that need longer are held, and the others go on."""
_SOON_SECONDS = 0.1
_MOST_BATCHES = 4
"""Records in memory, held ones included, in batches."""
_PASSING = (TransientError, RegistryUnavailable, AppendUncertain, Overloaded)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Retry:
    """When a partition asks the registry again, after which delay."""

    delay: float
    at: float


_NO_RETRY = _Retry(_FIRST_DELAY_SECONDS / 2, 0.0)


class ProjectionStore(Protocol):
    """A database with rows and positions. Both methods raise TransientError while it is unavailable."""

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        """Next offset to apply of each partition, and its topic's id; partitions never applied are left out."""
        ...

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        """Write what the records leave and move the positions in one transaction, or change nothing.

        `batch` holds records with their events, in order within each partition; it may be empty. Raises PartitionsLost
        if a stored position is not the one in `moves`, BatchRefused if the store will never accept something in the
        batch. An event can arrive again at another offset, so rows must be unique by event id. After TransientError the
        call is repeated, although the transaction may have been committed and only the response lost; the positions
        then show it.
        """
        ...


class _StartAnew(Exception):
    """Leave the group and join again: the current batch belongs to another member, or must be let go."""


class Projection:
    """Applies the topics of some specifications to a store; any number of processes share the partitions.

    Args:
        group: Consumer group.
        max_batch: Maximum number of records in one transaction.
        max_wait_seconds: How long a record may wait for others to share its transaction. A transaction for each record
            would cost more than everything else done for it.
        watch_seconds: Time between two comparisons of the positions with the topics' ids and bounds.
        on_discontinuity: See `watching.OnDiscontinuity`.
        on_suspension: See `suspending.OnSuspension`.
        on_waiting: Called with the reason when it waits for something unavailable, and with None when it continues.
        on_standstill: Called after each comparison with the partitions that have records and do not move, or do not
            answer; with None if there are none. Suspended ones are not among them.
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
        watch_seconds: float = 30.0,
        on_waiting: Callable[[str | None], None] = lambda reason: None,
        on_standstill: Callable[[str | None], None] = lambda reason: None,
        on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
        on_suspension: OnSuspension = lambda partition, reason: None,
    ) -> None:
        self._log = log
        self._group = group
        self._specs = {codec.topic_prefix + spec.name: spec for spec in specs}
        self._codec = codec
        self._store = store
        self._dead_letters = dead_letters
        self._max_batch = max_batch
        self._max_wait = max_wait_seconds
        self._watch_seconds = watch_seconds
        self._on_waiting = on_waiting
        self._on_standstill = on_standstill
        self._on_suspension = on_suspension
        # Rows are unique by event.
        self._watch = LogWatch(log.admin(), group, repeats_are_harmless=True, on_discontinuity=on_discontinuity)
        self._consumer: Consumer | None = None
        self._closing = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._waiting = False
        self._let_go = asyncio.Event()
        self._forget_everything()

    async def run(self) -> None:
        """Run until `close`. Waits while the database, Kafka or the registry is unavailable.

        A record that the store fails with again and again by an error of Python's own goes to the dead letters. Raises
        LeaveGroup if the cluster does not accept this consumer, TopicMissing, and any other error of the store, such as
        a missing table; nothing of such a batch is skipped.
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
        """Finish the current batch and leave the group."""
        self._closing = True
        self._let_go.set()
        if self._consumer is not None:
            # If `assigned` is waiting for the database, `_let_go` ends it with _StartAnew, which `close` also raises.
            with contextlib.suppress(_StartAnew):
                await self._consumer.close()
        await self._ended.wait()

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """See `RebalanceListener`."""
        async with self._writing:
            positions = await self._patiently(lambda: self._store.positions(partitions))
            return await self._positions.begin(partitions, positions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """See `RebalanceListener`."""
        self._drop(partitions)
        self._leaving = True
        self._let_go.set()
        async with self._writing:
            self._leaving = False
            if not self._closing:
                self._let_go.clear()
            # Records that were read when it was revoked may be held by now.
            self._drop(partitions)
            self._positions.forget(partitions)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """See `RebalanceListener`."""
        await self.revoked(partitions)

    def _forget_everything(self) -> None:
        self._batch: list[Record] = []
        # Records that come before those of the batch: their partitions are paused while their schemas are looked up.
        self._held: list[Record] = []
        self._paused: set[TopicPartition] = set()
        # Those of them that wait for the registry to answer.
        self._retries: dict[TopicPartition, _Retry] = {}
        self._say_at = 0.0
        # Of the partitions assigned here.
        self._positions = AppliedPositions(self._watch)
        self._budgets: dict[TopicPartition, ErrorBudget] = {}
        # Partitions that rest after too many unforeseen errors, and until when.
        self._suspended: dict[TopicPartition, float] = {}
        # Held while a batch is being written: partitions are assigned and revoked between batches only.
        self._writing = asyncio.Lock()
        self._leaving = False
        self._uncommitted: dict[TopicPartition, OffsetAndMetadata] = {}
        self._commit_at = 0.0

    def _drop(self, partitions: Collection[TopicPartition]) -> None:
        self._batch = [record for record in self._batch if record.topic_partition not in partitions]
        self._held = [record for record in self._held if record.topic_partition not in partitions]
        self._paused -= set(partitions)
        for name in partitions:
            self._answered(name)
            self._uncommitted.pop(name, None)
            if self._suspended.pop(name, None) is not None:
                self._on_suspension(name, None)

    async def _one_membership(self) -> None:
        """One membership in the group, from joining until a reason to join again."""
        self._forget_everything()
        rejoin = False
        self._consumer = consumer = self._log.consumer(self._group)
        watching = asyncio.create_task(
            keep_looking(self._positions.doubtful, self._watch_seconds, partial(self._look, consumer))
        )
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
                _log.warning("%s: joins its group again: %s", self._group, error)
                rejoin = True
        except LeaveGroup:
            if not self._closing:
                raise
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self._on_standstill(None)
            with contextlib.suppress(_StartAnew):
                await consumer.close()
            self._consumer = None
        if rejoin:
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _gather(self, consumer: Consumer) -> None:
        clock = asyncio.get_running_loop().time
        await self._end_rests(consumer)
        while not self._batch and not self._is_due():
            await self._poll(consumer, _SOON_SECONDS if self._held else _POLL_SECONDS)
            await self._end_rests(consumer)
        until = clock() + self._max_wait
        while self._room() > 0 and (rest := until - clock()) > 0:
            await self._poll(consumer, rest)

    def _room(self) -> int:
        """How many more records may be taken."""
        in_memory = len(self._batch) + len(self._held)
        return min(self._max_batch - len(self._batch), _MOST_BATCHES * self._max_batch - in_memory)

    async def _poll(self, consumer: Consumer, timeout: float) -> None:
        # In two statements: `self._batch += await ...` would read the batch before the await and write back the records
        # that a revocation removes from it meanwhile.
        records = await consumer.poll(self._room(), timeout)
        self._batch += [record for record in records if not self._rests(record) and self._positions.takes(record)]

    async def _write(self) -> None:
        # Taken out before anything is awaited, so that a revocation cannot remove records of a batch being written. It
        # waits for `_writing` instead.
        records, self._held, self._batch = self._held + self._batch, [], []
        if not records:
            return
        await self._apply(await self._read(records))

    async def _read(self, records: Sequence[Record]) -> Sequence[tuple[Record, Event | None]]:
        """The events of the records, in order, without those that are still to be looked up: these are held."""
        by_partition: dict[TopicPartition, deque[tuple[int, Record]]] = {}
        for place, record in enumerate(records):
            by_partition.setdefault(record.topic_partition, deque()).append((place, record))
        now = asyncio.get_running_loop().time()
        found: list[tuple[int, Record, Event | None]] = []
        reads = [
            self._read_until(now + _LOOK_UP_SECONDS, name, waiting, found)
            for name, waiting in by_partition.items()
            if self._retries.get(name, _NO_RETRY).at <= now
        ]
        # All have ended before one of them ends the batch.
        for error in await asyncio.gather(*reads, return_exceptions=True):
            if error is not None:
                raise error
        self._held = [record for waiting in by_partition.values() for _, record in waiting]
        self._hold({record.topic_partition for record in self._held})
        return [(record, event) for _, record, event in sorted(found, key=itemgetter(0))]

    async def _read_until(
        self,
        until: float,
        name: TopicPartition,
        waiting: deque[tuple[int, Record]],
        found: list[tuple[int, Record, Event | None]],
    ) -> None:
        """Read a partition's records, at least one, until then, or until the registry does not answer."""
        clock = asyncio.get_running_loop().time
        while waiting:
            place, record = waiting[0]
            try:
                event = await self._event(record)
            except RegistryUnavailable as error:
                self._try_again(name, error)
                return
            self._answered(name)
            waiting.popleft()
            # Reading it may have been the error that was one too many.
            if not self._rests(record):
                found.append((place, record, event))
            if self._leaving or self._closing or clock() >= until:
                return

    def _try_again(self, name: TopicPartition, error: RegistryUnavailable) -> None:
        """The partition waits for the registry."""
        now = asyncio.get_running_loop().time()
        delay = min(self._retries.get(name, _NO_RETRY).delay * 2, _LONGEST_DELAY_SECONDS)
        self._retries[name] = _Retry(delay, now + delay)
        self._waiting = True
        self._on_waiting(str(error))
        if now >= self._say_at:
            self._say_at = now + _SAY_EVERY_SECONDS
            _log.warning("%s: %s is waiting: %s", self._group, name, error)

    def _answered(self, name: TopicPartition) -> None:
        if self._retries and self._retries.pop(name, None) is not None:
            self._go_on()

    def _is_due(self) -> bool:
        """Whether records are held that may be read again."""
        now = asyncio.get_running_loop().time()
        return any(self._retries.get(record.topic_partition, _NO_RETRY).at <= now for record in self._held)

    def _hold(self, partitions: set[TopicPartition]) -> None:
        """Take no more records of these partitions, and of others again."""
        if self._consumer is not None:
            self._consumer.pause([name for name in partitions if name not in self._paused])
            self._consumer.resume([name for name in self._paused - partitions if name not in self._suspended])
        self._paused = partitions

    async def _apply(self, batch: Sequence[tuple[Record, Event | None]], tries: int = 1) -> None:
        batch = [(record, event) for record, event in batch if not self._rests(record)]
        if not batch:
            return
        moves = self._positions.moves_of(record for record, _ in batch)
        # The positions also move past records without an event: their dead letters are on disk.
        readable = [(record, event) for record, event in batch if event is not None]
        try:
            await self._patiently(lambda: self._store.apply(readable, moves))
        except Exception as error:
            # Nothing but the positions is left to refuse: a defect of the store, which halving cannot help.
            if not readable or not _is_about_records(error):
                raise
            if not isinstance(error, BatchRefused):
                _log.error("%s: a batch of %d failed: %s", self._group, len(readable), described(error))
            await self._take_apart(batch, error, tries)
            return
        self._positions.moved(moves)
        for name, (_, position) in moves.items():
            self._uncommitted[name] = OffsetAndMetadata(position.next_offset)

    async def _take_apart(self, batch: Sequence[tuple[Record, Event | None]], refusal: Exception, tries: int) -> None:
        """Halve the batch until the refused record is alone. It goes to the dead letters; the rest is written."""
        if len(batch) > 1:
            half = len(batch) // 2
            await self._apply(batch[:half])
            await self._apply(batch[half:])
            return
        if not isinstance(refusal, BatchRefused) and tries < _TRIES:
            # An error of unknown kind may pass.
            await asyncio.sleep(_FIRST_DELAY_SECONDS)
            await self._apply(batch, tries + 1)
            return
        record = batch[0][0]
        if not isinstance(refusal, BatchRefused) and self._suspends(record, refusal):
            return
        await self._keep(record, refusal)
        await self._apply([(record, None)])

    async def _event(self, record: Record) -> Event | None:
        if self._rests(record):
            return None
        read = self._specs[record.topic].record
        try:
            event: Event = await decode(self._codec, read, record)
        except RegistryUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one record must not end the process
            if not isinstance(error, UnreadableValue):
                _log.error("%s: %s@%d cannot be read: %s", self._group, record.topic_partition, record.offset,
                           described(error))  # fmt: skip
                if self._suspends(record, error):
                    return None
            await self._keep(record, error)
            return None
        return event

    async def _keep(self, record: Record, reason: Exception) -> None:
        """Write a dead letter, however long that takes: a topic that is missing or not ours to write can be mended."""
        await self._patiently(lambda: self._dead_letters.keep(record, reason), (*_PASSING, RecordRefused))

    def _rests(self, record: Record) -> bool:
        return bool(self._suspended) and record.topic_partition in self._suspended

    def _suspends(self, record: Record, error: Exception) -> bool:
        """Whether the record may not be given up, as too many of its partition were: the partition rests."""
        name, now = record.topic_partition, asyncio.get_running_loop().time()
        budget = self._budgets.setdefault(name, ErrorBudget())
        until = budget.spend(now)
        if until is None:
            return False
        reason = budget.reason(described(error), until - now)
        _log.error("%s: %s is suspended: %s", self._group, name, reason)
        self._suspended[name] = until
        if self._consumer is not None:
            self._consumer.pause([name])
        self._on_suspension(name, reason)
        return True

    async def _end_rests(self, consumer: Consumer) -> None:
        """Let partitions go on whose rest is over, at what the store holds of them."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, until in self._suspended.items() if until <= now]:
            start, log = self._positions.stored(name)
            await consumer.seek(name, start, partial(self._go_on_at, name, start, log))
            if self._suspended.pop(name, None) is not None:
                consumer.resume([name])
                _log.info("%s: %s goes on", self._group, name)
                self._on_suspension(name, None)

    async def _commit(self, consumer: Consumer) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._commit_at or not self._uncommitted:
            return
        self._commit_at = now + _COMMIT_SECONDS
        progress, self._uncommitted = self._uncommitted, {}
        # Nothing starts from these offsets, so a failure costs nothing.
        with contextlib.suppress(PartitionsLost, TransientError):
            await consumer.commit(progress)

    async def _look(self, consumer: Consumer) -> None:
        """Compare the positions with their logs."""
        # Between batches, as assignments.
        async with self._writing:
            for name, (start, log) in (await self._positions.compare()).items():
                with contextlib.suppress(TransientError, LeaveGroup):
                    await consumer.seek(name, start, partial(self._go_on_at, name, start, log))
        standing = [words for name, words in self._positions.standing.items() if name not in self._suspended]
        self._on_standstill("; ".join(standing) or None)

    def _go_on_at(self, name: TopicPartition, start: int, log: str | None) -> None:
        self._batch = [record for record in self._batch if record.topic_partition != name]
        self._held = [record for record in self._held if record.topic_partition != name]
        self._positions.go_on_at(name, start, log)

    async def _patiently(self, work: Callable[[], Awaitable[T]], passing: tuple[type[Exception], ...] = _PASSING) -> T:
        """Repeat work that fails with a passing error, unless a revocation or `close` is waiting for this to end."""
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
                # Ends early when a revocation or `close` asks for it: the group must not wait for a database.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._let_go.wait(), delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
            else:
                self._go_on()
                return result

    def _go_on(self) -> None:
        if self._waiting and not self._retries:
            self._waiting = False
            self._on_waiting(None)
            _log.info("%s: goes on", self._group)


def _is_about_records(error: Exception) -> bool:
    """Whether a record may be to blame. Errors of a database's client that are no refusals are about the database."""
    return isinstance(error, BatchRefused) or (type(error).__module__ == "builtins" and not isinstance(error, OSError))
