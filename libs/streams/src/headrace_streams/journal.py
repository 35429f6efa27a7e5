"""The journal: one partition of decisions with one owner at a time, from which all state is rebuilt.

How a decision is delivered:

 1. Takeover. The new owner appends an epoch start. Its offset is the owner's *epoch*: assigned by the log, hence unique
    and greater than all earlier ones.
 2. Recovery. It reads the partition up to its epoch start and folds the valid entries into its state
    (`headrace_streams.journal_reading`).
 3. It publishes again what may not have been published, then consumes its inputs from the journaled positions.
 4. For each input it decides and appends one entry: the new state, the commands, and the positions of the inputs. Many
    entries are in flight at once. Each has a *sequence* number within the epoch.
 5. The entry is acknowledged at offset epoch + sequence. If not, the owner is fenced and publishes nothing more.
 6. It publishes the commands of the entry and marks the entry with `published`.
 7. Every entry records the offset below which all commands are published, which keeps step 3 short. When no entries
    are written, a checkpoint records it.

Which entries are valid ("count"). Only the owner writes between its epoch start and the next one, so the log itself
numbers its entries: the nth is at offset epoch + n. Any disturbance shifts all later entries: the epoch start of a
newer owner, a record that a zombie (a former owner that does not know it yet) still had in flight, or a lost entry
whose successors arrived. Therefore an entry counts if its offset is epoch + sequence, and the first record for which
that is not so ends its epoch. Writer and readers apply the same rule, which needs no clock, lease or lock. A zombie's
record also ends the epoch of the current owner, which takes over once more; the same rule has fenced the zombie, so it
is once.

Compaction keeps the newest record of each key and leaves offsets unchanged, so what remains can still be checked. Epoch
starts share one key, checkpoints another. An invalid entry can be the newest of its key; compaction would then keep it
and remove the valid one, and later also the epoch start that shows that it is invalid. `Recovered.shadowed` names the
tasks concerned, and the owner writes each once more. Until then the topic's min.compaction.lag.ms protects them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
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
    """Append a smaller entry instead: this one is larger than a record may be."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a journal entry of {size} bytes is larger than {limit}")
        self.size = size
        self.limit = limit


class Journal:
    """The one writer of a journal partition. Made by `take_over`.

    Attributes:
        epoch: Offset of this owner's epoch start.
        fenced: Why nothing may be published any more; None while this is the valid owner. Once set it stays set.
    """

    def __init__(
        self,
        publisher: Publisher,
        codec: Codec,
        partition: int,
        owner: str,
        epoch: int,
        recovered: Recovered,
        limit: int,
    ) -> None:
        self.epoch = epoch
        self.fenced: Fenced | None = None
        self._publisher = publisher
        self._codec = codec
        self._partition = partition
        self._owner = owner
        self._limit = limit
        self._next = epoch + 1
        self._positions = {
            where: Position(
                topic=where[0], partition=where[1], next_offset=offset, topic_id=recovered.topic_ids.get(where)
            )
            for where, offset in recovered.positions.items()
        }
        self._completed_offset = recovered.completed_offset
        self._unsettled = recovered.unpublished[0].offset if recovered.unpublished else None
        # Entries not yet published, by offset, in order: _OPEN, then the offset after the terminal state that the entry
        # wrote to tasks.completed, or 0 if it wrote none. Entries leave from the front only, so that the first one left
        # is the published offset: everything before it is published.
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
        policy_version: str = "",
    ) -> tuple[Journal, Recovered]:
        """Become the owner of a partition and read it.

        Args:
            reader: Its assignment is replaced; it can be used again afterwards.
            owner: Name of the instance, written to every entry.
            now_ms: Milliseconds since the Unix epoch.
            fold: Called with each valid decision, in order.
            limit: Maximum size of an entry, in bytes.
            policy_version: Of the policy that the owner decides by, written to the epoch start.

        Raises TransientError and AppendUncertain if the epoch start could not be written (taking over again is
        harmless), RecordRefused, RegistryUnavailable, and UnreadableValue for an entry that cannot be decoded: it may
        be a decision, and continuing without it could lose a task.
        """
        epoch_start = JournalEntry(
            kind=EntryKind.EPOCH_START, owner=owner, policy_version=policy_version, decided_at=now_ms
        )
        appended = await publisher.send(_publication(epoch_start, partition, f"barrier/{partition}"))
        where = TopicPartition(appended.topic, partition)
        recovered = await read_journal(reader, codec, where, appended.offset, fold)
        return cls(publisher, codec, partition, owner, appended.offset, recovered, limit), recovered

    @property
    def published_offset(self) -> int:
        """The commands of all entries before this offset are published."""
        return next(iter(self._steps), self._next) if self._unsettled is None else self._unsettled

    @property
    def next_offset(self) -> int:
        """End of the log once all entries are acknowledged, if no other owner has written."""
        return self._next

    @property
    def in_flight(self) -> int:
        """Number of entries not yet acknowledged."""
        return len(self._awaiting)

    def append(self, entry: JournalEntry, allow: Callable[[bytes], None] | None = None) -> asyncio.Future[int]:
        """Queue an entry. Its commands may be published only after the future has returned its offset.

        An entry without commands counts as published when it is acknowledged. Entries are acknowledged in order. Each
        carries the newest positions of all inputs so far, so that a reader needs only the last one. If the future
        raises Fenced, all later ones do. `allow` is called with the encoded entry before it is queued; what it raises
        is raised here. Raises Fenced, EntryTooLarge, Overloaded and UnencodableEvent immediately, in
        which case nothing was appended and nothing has changed.
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
        value = record.value or b""
        if len(value) > self._limit:
            raise EntryTooLarge(len(value), self._limit)
        if allow is not None:
            allow(value)
        sent = self._publisher.send_record(record)
        # Only after `send_record`: if that raises, this offset belongs to the next entry, or every later one would be
        # off by one and fence its owner.
        self._next += 1
        self._positions = positions
        self._steps[place] = _OPEN
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._awaiting[place] = acknowledged
        sent.add_done_callback(lambda done: self._acknowledge(place, bool(entry.commands), done))
        return acknowledged

    def published(self, offset: int, completed_at: int | None = None) -> None:
        """Mark the entry at `offset` as published; `completed_at` is the offset of its terminal state in
        tasks.completed, if it wrote one."""
        self._steps[offset] = 0 if completed_at is None else completed_at + 1
        while self._steps:
            first, behind = next(iter(self._steps.items()))
            if behind == _OPEN:
                break
            del self._steps[first]
            # Terminal states are sent in the order of their entries, so those of entries still open have higher offsets
            # than this one: a recovery may start its search here without missing any.
            if behind:
                self._completed_offset = max(behind, self._completed_offset or 0)

    def settled(self, completed_offset: int, open_entries: Iterable[int] = ()) -> None:
        """What was unpublished at the takeover is now published, except for the entries at these offsets, which will
        be; and tasks.completed ends at `completed_offset`."""
        self._unsettled = None
        still_open = dict.fromkeys(open_entries, _OPEN)
        self._steps = OrderedDict(sorted({**still_open, **self._steps}.items()))
        # The terminal states of those may stand anywhere from the old offset on: a takeover looks for them again.
        if not still_open:
            self._completed_offset = max(completed_offset, self._completed_offset or 0)

    def read_back(self, value: bytes) -> JournalEntry:
        """The entry that `append` has encoded, for one who held on to its bytes."""
        return self._codec.read_back(JournalEntry, value)

    def checkpoint(self, positions: tuple[Position, ...], now_ms: int, policy_version: str = "") -> asyncio.Future[int]:
        """Record positions, the published offset and the policy of what follows, without a decision; as `append`."""
        return self.append(
            JournalEntry(
                kind=EntryKind.CHECKPOINT, positions=positions, policy_version=policy_version, decided_at=now_ms
            )
        )

    def fence(self, reason: str) -> Fenced:
        """Stop publishing for good; all pending acknowledgements fail with the reason. Returns the error to raise."""
        if self.fenced is None:
            self.fenced = Fenced(f"journal partition {self._partition}, epoch {self.epoch}: {reason}")
            waiting, self._awaiting = self._awaiting, OrderedDict()
            for future in waiting.values():
                if not future.done():
                    future.set_exception(self.fenced)
        return self.fenced

    def _reached(self, positions: tuple[Position, ...]) -> dict[tuple[str, int], Position]:
        return {**self._positions, **{(position.topic, position.partition): position for position in positions}}

    def _acknowledge(self, place: int, has_commands: bool, done: asyncio.Future[RecordMetadata]) -> None:
        if done.cancelled():
            self.fence("the producer was closed")
            return
        error = done.exception()
        if self.fenced is not None:
            return
        if error is not None:
            # Later entries may have been appended without this one. Their offsets are then too low, so no reader counts
            # them, and this owner must not publish them either.
            self.fence(f"the entry for offset {place} was not acknowledged: {error}")
        elif (offset := done.result().offset) != place:
            self.fence(f"the entry for offset {place} is at {offset}: another owner has written")
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
