"""The journal: one partition of decisions, written by one owner at a time, from which everything is rebuilt.

How a decision is delivered:

 1. The owner takes over: it appends an epoch start. The offset of the epoch start is its *epoch*: given by the log, so
    it is unique, and greater than every one before.
 2. It reads the partition from the start to its epoch start, and folds the entries that count into its state
    (`headrace_streams.journal_reading`).
 3. It carries out again what may not have been carried out, then consumes its inputs from the journaled positions.
 4. For each input it decides and appends one entry: the new state, the commands, the positions of the inputs. Many
    entries are in flight at once. Each is numbered: the *sequence* within the epoch.
 5. The entry is acknowledged at offset epoch + sequence, or the owner is fenced: it carries out nothing more.
 6. It carries out the commands of the entry, and says so with `published`.
 7. Every entry notes from which offset on commands may still be open, so that step 3 is short; a checkpoint does so
    when nothing else is written.

Which entries count. Nobody but the owner writes between its epoch start and the next one, so the log itself numbers its
entries: the nth one stands at offset epoch + n. Whatever disturbs that moves all entries behind it off their
places: a newer owner's epoch start, a record that a zombie (an owner of the past that does not know it) still had in
flight, or an entry of its own that was lost on the way while later ones arrived. So an entry *counts* when it stands in
its place, and the first record that does not ends its epoch. Writer and readers use the same rule; neither needs
a clock, a lease or a lock. A zombie's record costs the owner its epoch too: it takes over again, once, since the
zombie was fenced by the same rule.

Compaction keeps the newest record of each key. It leaves offsets as they are, so what is left still shows whether it
stands in its place. Epoch starts and checkpoints share one key each. An entry that does not count may yet be the newest
of its key, and compaction would keep it instead of the one that does: `Recovered.shadowed` names these, and the owner
writes them once more. Until then the topic's min.compaction.lag.ms protects them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import EntryKind, JournalEntry, Position
from headrace_contracts.topics import TASKS_JOURNAL

from headrace_streams.errors import Fenced, RecordRefused
from headrace_streams.journal_reading import JournaledDecision, JournaledEntry, Recovered, read_journal
from headrace_streams.ports import PartitionReader
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata, TopicPartition

__all__ = ["EntryTooLarge", "Journal", "JournaledDecision", "JournaledEntry", "Recovered"]

_OPEN: Final = -1


class EntryTooLarge(RecordRefused):
    """Append a smaller entry instead: this one does not fit into a record."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a journal entry of {size} bytes is larger than {limit}")
        self.size = size
        self.limit = limit


class Journal:
    """The one writer of a journal partition. Made by `take_over`.

    Attributes:
        epoch: Offset of this owner's epoch start.
        fenced: Why nothing may be carried out any more; None while all is well. It never becomes None again.
    """

    def __init__(
        self, publisher: Publisher, partition: int, owner: str, epoch: int, recovered: Recovered, limit: int
    ) -> None:
        self.epoch = epoch
        self.fenced: Fenced | None = None
        self._publisher = publisher
        self._partition = partition
        self._owner = owner
        self._limit = limit
        self._next = epoch + 1
        self._positions = {
            where: Position(topic=where[0], partition=where[1], next_offset=offset)
            for where, offset in recovered.positions.items()
        }
        self._completed_offset = recovered.completed_offset
        self._unsettled = recovered.unpublished[0].offset if recovered.unpublished else None
        # By offset, in order: _OPEN until carried out, then the offset behind the terminal state it wrote, or 0.
        self._steps: OrderedDict[int, int] = OrderedDict()
        self._awaiting: OrderedDict[int, asyncio.Future[int]] = OrderedDict()

    @classmethod
    async def take_over(
        cls,
        *,
        publisher: Publisher,
        reader: PartitionReader,
        codec: Codec,
        partition: int,
        owner: str,
        now_ms: int,
        fold: Callable[[JournaledDecision], None],
        limit: int = 4_000_000,
    ) -> tuple[Journal, Recovered]:
        """Become the owner of a partition, and read what is there.

        Args:
            reader: Is assigned anew, and free again afterwards.
            owner: Instance, for the record.
            now_ms: Milliseconds since the epoch.
            fold: Called with each decision that counts, in order.
            limit: Largest entry, in bytes.

        Raises TransientError and AppendUncertain when the epoch start could not be written (taking over again is
        harmless), RecordRefused, RegistryUnavailable, and UnreadableValue for an entry that no one can read: it may be
        a decision, so going on without it could lose a task.
        """
        epoch_start = JournalEntry(kind=EntryKind.EPOCH_START, owner=owner, decided_at=now_ms)
        appended = await publisher.send(_publication(epoch_start, partition, f"barrier/{partition}"))
        where = TopicPartition(appended.topic, partition)
        recovered = await read_journal(reader, codec, where, appended.offset, fold)
        return cls(publisher, partition, owner, appended.offset, recovered, limit), recovered

    @property
    def published_offset(self) -> int:
        """Commands of all entries before this offset are carried out."""
        return next(iter(self._steps), self._next) if self._unsettled is None else self._unsettled

    @property
    def next_offset(self) -> int:
        """Where the log ends when all entries are acknowledged and nobody else has written."""
        return self._next

    @property
    def in_flight(self) -> int:
        """Number of entries that are not yet acknowledged."""
        return len(self._awaiting)

    def append(self, entry: JournalEntry) -> asyncio.Future[int]:
        """Queue an entry at once; the future brings its offset, and only then may its commands be carried out.

        An entry without commands counts as carried out when it is acknowledged. Entries are acknowledged in order.
        Each notes the furthest positions of all inputs so far, so that the last one says it all.
        The future raises Fenced, and so does every later one. Raises Fenced, EntryTooLarge, Overloaded and
        UnencodableEvent at once; nothing was appended then.
        """
        if self.fenced is not None:
            raise self.fenced
        place = self._next
        positions = self._reached(entry.positions)
        numbered = replace(
            entry,
            positions=tuple(positions.values()),
            epoch=self.epoch,
            sequence=place - self.epoch,
            owner=self._owner,
            published_offset=self.published_offset,
            completed_offset=self._completed_offset,
        )
        key = entry.task_id if entry.kind is EntryKind.DECISION else f"{entry.kind}/{self._partition}"
        publication = _publication(numbered, self._partition, key)
        record = self._publisher.record_of(publication)
        size = len(record.value or b"")
        if size > self._limit:
            raise EntryTooLarge(size, self._limit)
        sent = self._publisher.send_record(record)
        self._next += 1
        self._positions = positions
        self._steps[place] = _OPEN
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._awaiting[place] = acknowledged
        sent.add_done_callback(lambda done: self._acknowledge(place, bool(entry.commands), done))
        return acknowledged

    def published(self, offset: int, completed_at: int | None = None) -> None:
        """The commands of the entry at `offset` are carried out; `completed_at` is where its terminal state stands in
        tasks.completed, if it wrote one."""
        self._steps[offset] = 0 if completed_at is None else completed_at + 1
        while self._steps:
            first, behind = next(iter(self._steps.items()))
            if behind == _OPEN:
                break
            del self._steps[first]
            # Terminal states are written in the order of their entries, so those still open stand behind this one.
            if behind:
                self._completed_offset = max(behind, self._completed_offset or 0)

    def settled(self, completed_offset: int) -> None:
        """Everything that was unpublished at the take-over is carried out, and tasks.completed ends at this offset."""
        self._unsettled = None
        self._completed_offset = max(completed_offset, self._completed_offset or 0)

    def checkpoint(self, positions: tuple[Position, ...], now_ms: int) -> asyncio.Future[int]:
        """Note positions and what is carried out, without a decision; as `append`."""
        return self.append(JournalEntry(kind=EntryKind.CHECKPOINT, positions=positions, decided_at=now_ms))

    def fence(self, reason: str) -> Fenced:
        """Stop for good; all that wait for an acknowledgement are told."""
        if self.fenced is None:
            self.fenced = Fenced(f"journal partition {self._partition}, epoch {self.epoch}: {reason}")
            waiting, self._awaiting = self._awaiting, OrderedDict()
            for future in waiting.values():
                if not future.done():
                    future.set_exception(self.fenced)
        return self.fenced

    def _reached(self, positions: tuple[Position, ...]) -> dict[tuple[str, int], Position]:
        reached = dict(self._positions)
        for position in positions:
            where = (position.topic, position.partition)
            before = reached.get(where)
            if before is None or before.next_offset < position.next_offset:
                reached[where] = position
        return reached

    def _acknowledge(self, place: int, has_commands: bool, done: asyncio.Future[RecordMetadata]) -> None:
        if done.cancelled():
            self.fence("the producer was closed")
            return
        error = done.exception()
        if self.fenced is not None:
            return
        if error is not None:
            # Later entries may have arrived without this one. They do not stand in their places, whoever reads them.
            self.fence(f"the entry for offset {place} was not acknowledged: {error}")
        elif (offset := done.result().offset) != place:
            self.fence(f"the entry for offset {place} stands at {offset}: somebody else has written here")
        else:
            acknowledged = self._awaiting.pop(place)
            if not has_commands:
                self.published(place)
            if not acknowledged.done():
                acknowledged.set_result(place)


def _publication(entry: JournalEntry, partition: int, key: str) -> Publication:
    state = entry.state
    return Publication(
        spec=TASKS_JOURNAL,
        event=entry,
        event_id=f"journal/{partition}/{entry.epoch}/{entry.sequence}",
        key=key.encode(),
        tenant=_tenant(entry),
        time_ms=entry.decided_at,
        partition=partition,
        subject=entry.task_id or None,
        traceparent=None if state is None else state.traceparent,
    )


def _tenant(entry: JournalEntry) -> str:
    owner = None if entry.state is None else (entry.state.task or entry.state.result)
    return "" if owner is None else owner.tenant
