"""A librdkafka consumer that reads chosen partitions, for one reader or for many.

Each client costs threads, connections, a login and a fetch in flight at every broker, all the time, so what a process
follows for as long as it runs shares one. librdkafka keeps partitions apart already: it fetches those of a broker with
one request, in which a partition without a leader is missing, and reports the error of a partition or topic as that of
this one alone. This module keeps the readers apart as well: an error ends the assignment of the reader whose partition
has it, and a reader that takes no records has its partitions paused. Only what is wrong with the client itself, such as
a refused login, is everyone's.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from confluent_kafka import Consumer as LibrdkafkaConsumer

from headrace_streams.kafka import errors
from headrace_streams.kafka.polling import ConsumerThread, DeliveredMessage, FailedPartition, next_offset, to_kafka
from headrace_streams.kafka.properties import Properties, inbox_bytes, reader_properties
from headrace_streams.records import TopicPartition


class AssignedReader(Protocol):
    """A reader as its client sees it; all calls are made on the event loop, in the order of what they tell."""

    def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """From now on, what is delivered is of these partitions, from these offsets on."""

    def deliver(self, deliveries: Sequence[DeliveredMessage]) -> None:
        """Records and ends of its partitions."""

    def fail(self, error: Exception) -> None:
        """Nothing is delivered any more, until another `begin`."""


@dataclass(slots=True, eq=False)
class _Assignment:
    """What a reader has asked for last; the thread carries it out."""

    reader: AssignedReader
    # The next offset that is to be delivered of each partition.
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    begun: bool = False
    full: bool = False


class ReadingClient:
    """Create and use it within one event loop. It closes when its last reader has left.

    Args:
        shared: Whether readers come and go while others read. If not, a reader that takes no records stops the polling
            instead of pausing its partitions: a pause discards what was fetched, which is then fetched again.
    """

    def __init__(self, properties: Properties, logger: logging.Logger, *, shared: bool) -> None:
        settings = reader_properties(properties)
        self.inbox_bytes = inbox_bytes(settings)
        """Bytes that each reader may buffer."""
        self._kafka = LibrdkafkaConsumer(settings, logger=logger)
        self._shared = shared
        what = "followers" if shared else "reader"
        self._thread = ConsumerThread(
            self._kafka, what, self._deliver, self._fail, lambda: None, apart=True, most_bytes=self.inbox_bytes
        )
        # On the loop: each reader's newest assignment, and who reads which partition.
        self._assignments: dict[AssignedReader, _Assignment] = {}
        self._readers: dict[TopicPartition, AssignedReader] = {}
        # On the thread: what librdkafka reads.
        self._placed: dict[AssignedReader, _Assignment] = {}

    @property
    def is_used(self) -> bool:
        """Whether any reader is there; without one it is closed, or about to be."""
        return bool(self._assignments)

    def join(self, reader: AssignedReader) -> None:
        """Count the reader among those that keep this client open."""
        self._assignments[reader] = _Assignment(reader, begun=True)

    async def assign(self, reader: AssignedReader, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions for the reader, from these offsets on.

        Raises ValueError if another reader reads one of them: librdkafka knows one position in each.
        """
        taken = sorted(name for name in positions if self._readers.get(name, reader) is not reader)
        if taken:
            raise ValueError(f"{', '.join(map(str, taken))}: followed by another reader of this process already")
        self._readers.update(dict.fromkeys(positions, reader))
        assignment = self._assignments[reader] = _Assignment(reader, dict(positions))

        def place() -> None:
            self._displace(reader)
            if positions:
                self._kafka.incremental_assign([to_kafka(name, offset) for name, offset in positions.items()])
            self._placed[reader] = assignment
            # On the polling thread: after the last record of the former assignment, before the first of this one.
            self._thread.call_on_loop(self._begin, assignment, dict(positions))
            self._thread.begin_to_poll()

        await self._thread.run(place, partial(errors.asking, what="assignment"))

    def throttle(self, reader: AssignedReader, full: bool) -> None:
        """Whether the reader has as many records as it can take for now."""
        assignment = self._assignments[reader]
        if not self._shared:
            self._thread.hold(full)
            return
        assignment.full = full
        # Whoever is paused has room again soon.
        self._thread.brisk = any(each.full for each in self._assignments.values())
        names = [to_kafka(name) for name in assignment.positions]
        call = self._kafka.pause if full else self._kafka.resume
        self._thread.post(lambda: self._if_placed(assignment, lambda: call(names)))

    async def leave(self, reader: AssignedReader) -> None:
        """Read nothing for this reader any more; closes the client if it was the last one."""
        del self._assignments[reader]
        if not self._assignments:
            await self._thread.run(self._kafka.close, partial(errors.asking, what="reader"))
            await self._thread.close()
            return
        self._thread.brisk = any(each.full for each in self._assignments.values())
        # Until librdkafka has given them up, nobody else can have them.
        try:
            await self._thread.run(lambda: self._displace(reader), partial(errors.asking, what="reader"))
        finally:
            self._forget(reader)

    # On the thread:

    def _displace(self, reader: AssignedReader) -> None:
        placed = self._placed.pop(reader, None)
        if placed is not None and placed.positions:
            self._kafka.incremental_unassign([to_kafka(name) for name in placed.positions])

    def _if_placed(self, assignment: _Assignment, call: Callable[[], object]) -> None:
        if self._placed.get(assignment.reader) is assignment and assignment.positions:
            call()

    # On the loop:

    def _begin(self, assignment: _Assignment, positions: Mapping[TopicPartition, int]) -> None:
        if self._assignments.get(assignment.reader) is not assignment:
            # It has left, or has asked for something else since, which comes next.
            return
        assignment.begun = True
        self._forget(assignment.reader)
        self._readers.update(dict.fromkeys(positions, assignment.reader))
        assignment.reader.begin(positions)

    def _forget(self, reader: AssignedReader) -> None:
        for name in [name for name, of in self._readers.items() if of is reader]:
            del self._readers[name]

    def _deliver(self, deliveries: Sequence[DeliveredMessage]) -> None:
        sorted_out: defaultdict[AssignedReader, list[DeliveredMessage]] = defaultdict(list)
        failed: dict[AssignedReader, FailedPartition] = {}
        for delivery in deliveries:
            for reader in self._concerned(delivery.partition):
                # What is still on its way when a reader has asked for something else is of no use to it.
                if not self._assignments[reader].begun:
                    continue
                if isinstance(delivery, FailedPartition):
                    failed.setdefault(reader, delivery)
                else:
                    sorted_out[reader].append(delivery)
                    self._assignments[reader].positions[delivery.partition] = next_offset(delivery)
        for reader, its in sorted_out.items():
            reader.deliver(its)
        for reader, failure in failed.items():
            assignment = self._assignments[reader]
            if failure.offset is None or failure.offset == assignment.positions.get(failure.partition):
                self._end(reader, failure.error)
            else:
                self._resume(assignment)

    def _concerned(self, partition: TopicPartition) -> Sequence[AssignedReader]:
        if partition.partition < 0:
            return list({reader: None for name, reader in self._readers.items() if name.topic == partition.topic})
        reader = self._readers.get(partition)
        return () if reader is None or reader not in self._assignments else (reader,)

    def _resume(self, assignment: _Assignment) -> None:
        """Read on from the next offsets, after librdkafka has stopped because of one that is not asked for any more.

        The answer to a fetch of a former assignment is dropped when a newer one is there, but not if it says that the
        offset is out of range and is on its way to librdkafka's main thread by then: that stops the fetching for the
        newer one (`rd_kafka_offset_reset` compares no versions). Measured on a busy machine: one in ten.
        """
        # What is polled until then comes again.
        assignment.begun = False
        positions = [to_kafka(name, offset) for name, offset in assignment.positions.items()]

        def begin() -> None:
            assignment.begun = True

        def place() -> None:
            self._kafka.incremental_unassign(positions)
            self._kafka.incremental_assign(positions)
            self._thread.call_on_loop(begin)
            self._thread.begin_to_poll()

        self._thread.post(lambda: self._if_placed(assignment, place))

    def _end(self, reader: AssignedReader, error: Exception) -> None:
        """Its partitions are read no more, so that the error does not come again and again."""
        assignment = self._assignments[reader]
        if not assignment.begun:
            # What it has asked for meanwhile begins after the error.
            return
        self._thread.post(lambda: self._if_placed(assignment, lambda: self._displace(reader)))
        reader.fail(error)

    def _fail(self, error: Exception) -> None:
        for reader in list(self._assignments):
            self._end(reader, error)
