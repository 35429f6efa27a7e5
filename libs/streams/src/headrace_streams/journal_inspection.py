"""Looking at a journal partition from outside, as an operator: nothing is written, and its owner notices nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import EntryKind, JournalEntry

from headrace_streams.errors import OffsetOutOfRange, TransientError
from headrace_streams.journal_reading import JournalReading
from headrace_streams.ports import PartitionReader
from headrace_streams.records import Record, TopicPartition

_READ_AT_ONCE = 500
_READ_SECONDS = 1.0
_IDLE_POLLS = 10


@dataclass(frozen=True, slots=True)
class InspectedRecord:
    """A record of a journal, and what its readers make of it.

    Attributes:
        entry: None if it cannot be read, or has no value.
        counts: Whether it is valid where it stands; always true of epoch starts and skips.
        error: Why it cannot be read.
    """

    record: Record
    entry: JournalEntry | None
    counts: bool
    error: UnreadableValue | None


@dataclass(frozen=True, slots=True)
class JournalVerdict:
    """The state of a journal partition.

    Attributes:
        records, entries: Number of records, and of those among them that count.
        epochs: Number of epoch starts.
        not_counting: Offsets of records that do not count.
        unreadable: What cannot be read and has not been skipped, by offset: the partition cannot be taken over.
        skipped: Offsets that operators have skipped, with the skip.
    """

    partition: int
    records: int
    entries: int
    epochs: int
    not_counting: tuple[int, ...]
    unreadable: dict[int, UnreadableValue]
    skipped: dict[int, JournalEntry]

    @property
    def ok(self) -> bool:
        return not self.unreadable


async def inspect_journal(
    reader: PartitionReader, codec: Codec, where: TopicPartition
) -> AsyncGenerator[InspectedRecord, None]:
    """The records that a partition holds now, in order.

    Raises RegistryUnavailable, TopicMissing, and TransientError if the partition delivers nothing more before its end.
    """
    reading = JournalReading(codec, where, lambda _: None)
    while True:
        first, end = (await reader.bounds([where]))[where]
        await reader.assign({where: max(first, reading.next_offset)})
        idle = 0
        try:
            while reader.positions()[where] < end:
                records = await reader.poll(_READ_AT_ONCE, _READ_SECONDS)
                idle = 0 if records else idle + 1
                if idle > _IDLE_POLLS:
                    raise TransientError(f"{where} delivers nothing after offset {reader.positions()[where]}")
                for record in records:
                    yield await _inspected(reading, codec, record)
            return
        except OffsetOutOfRange:
            # Retention has moved the start of the log since.
            continue


async def verify_journal(reader: PartitionReader, codec: Codec, where: TopicPartition) -> JournalVerdict:
    """Read a partition as its next owner would. Raises what `inspect_journal` raises."""
    records = entries = epochs = 0
    not_counting: list[int] = []
    unreadable: dict[int, UnreadableValue] = {}
    skipped: dict[int, JournalEntry] = {}
    async for found in inspect_journal(reader, codec, where):
        records += 1
        if found.error is not None:
            unreadable[found.record.offset] = found.error
        elif found.entry is None or not found.counts:
            not_counting.append(found.record.offset)
        elif found.entry.kind is EntryKind.EPOCH_START:
            epochs += 1
        elif found.entry.kind is EntryKind.SKIP:
            skipped[-1 if found.entry.skipped_offset is None else found.entry.skipped_offset] = found.entry
        else:
            entries += 1
    return JournalVerdict(
        where.partition, records, entries, epochs, tuple(not_counting),
        {offset: error for offset, error in unreadable.items() if offset not in skipped}, skipped,
    )  # fmt: skip


async def _inspected(reading: JournalReading, codec: Codec, record: Record) -> InspectedRecord:
    before = reading.entries
    while (missing := reading.take(record)) is not None:
        await codec.learn(missing)
    if record.value is None:
        return InspectedRecord(record, None, counts=False, error=None)
    try:
        entry = await codec.read(JournalEntry, record.value, Origin(record.topic, record.partition, record.offset))
    except UnreadableValue as error:
        return InspectedRecord(record, None, counts=False, error=error)
    always = entry.kind in (EntryKind.EPOCH_START, EntryKind.SKIP)
    return InspectedRecord(record, entry, counts=always or reading.entries > before, error=None)
