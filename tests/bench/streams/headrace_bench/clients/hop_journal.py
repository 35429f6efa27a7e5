"""The hop with our journal: append the decision, and act on it when it is acknowledged; many are under way at once."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import TaskCancelled, TaskReply
from headrace_contracts.topics import TASKS_CANCELLED
from headrace_streams.journal import Journal
from headrace_streams.journal_reading import JournaledDecision
from headrace_streams.kafka import KafkaLog
from headrace_streams.publishing import Publisher
from headrace_streams.records import OffsetAndMetadata, Record, RecordMetadata, TopicPartition

from headrace_bench.clients.hop import (
    SOURCE,
    decide,
    entry_of,
    prepared_codec,
    reply_publication,
    say_ready,
    when_input_ends,
)

_IN_FLIGHT: Final = 2_000
_POLL_SECONDS: Final = 1.0
_COMMIT_SECONDS: Final = 1.0


class _Owner:
    """Of partition 0, alone."""

    def __init__(self, journal: Journal, publisher: Publisher, codec: Codec, cancellations: dict[str, int]) -> None:
        self._journal = journal
        self._publisher = publisher
        self._codec = codec
        self._cancellations = cancellations
        self.position = 0
        self.room = asyncio.Event()
        self.room.set()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def handle(self, record: Record) -> None:
        """Decide, and record the decision."""
        cancellation = self._codec.decode(
            TaskCancelled, record.value, Origin(record.topic, record.partition, record.offset)
        )
        now_ms = time.time_ns() // 1_000_000
        decision = decide(self._cancellations.get(cancellation.task_id, 0), cancellation, now_ms)
        appended = self._journal.append(entry_of(decision, record.offset, now_ms))
        self._cancellations[cancellation.task_id] = decision.cancellations
        self.position = record.offset + 1
        if self._journal.in_flight >= _IN_FLIGHT:
            self.room.clear()
        appended.add_done_callback(partial(self._act, decision.reply, record.offset))

    def _act(self, reply: TaskReply, offset: int, appended: asyncio.Future[int]) -> None:
        try:
            place = appended.result()
            sent = self._publisher.send(reply_publication(reply, offset))
            sent.add_done_callback(partial(self._published, place))
        except Exception as error:  # noqa: BLE001 - ends the process
            self._fail(error)

    def _published(self, place: int, sent: asyncio.Future[RecordMetadata]) -> None:
        try:
            sent.result()
            self._journal.published(place)
            if self._journal.in_flight < _IN_FLIGHT:
                self.room.set()
        except Exception as error:  # noqa: BLE001 - ends the process
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)


class _Listener:
    """The input is read from where the journal says."""

    def __init__(self, position: int) -> None:
        self._position = position

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        say_ready()
        return dict.fromkeys(partitions, self._position)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Nothing to hand over: the process ends."""

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        raise RuntimeError(f"lost {partitions}")


async def main(request: Mapping[str, Any]) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    when_input_ends(lambda: loop.call_soon_threadsafe(stopped.set))
    codec = await prepared_codec(request["prefix"])
    log = KafkaLog({"bootstrap.servers": request["bootstrap"], **request["properties"]})
    producer, reader = log.producer(), log.reader()
    publisher = Publisher(producer, codec, SOURCE)
    cancellations: dict[str, int] = {}

    def fold(decision: JournaledDecision) -> None:
        cancellations[decision.task_id] = int(decision.digest)

    journal, recovered = await Journal.take_over(
        publisher=publisher,
        reader=reader,
        codec=codec,
        partition=0,
        owner="bench-1",
        now_ms=time.time_ns() // 1_000_000,
        fold=fold,
    )
    owner = _Owner(journal, publisher, codec, cancellations)
    consumer = log.consumer(f"{request['prefix']}hop")
    topic = codec.topic_prefix + TASKS_CANCELLED.name
    await consumer.subscribe([topic], _Listener(recovered.positions.get((TASKS_CANCELLED.name, 0), 0)))

    async def consume() -> None:
        committed, next_commit = 0, 0.0
        while True:
            for record in await consumer.poll(500, _POLL_SECONDS):
                owner.handle(record)
            await owner.room.wait()
            if journal.in_flight == 0 and owner.position > committed and loop.time() >= next_commit:
                committed, next_commit = owner.position, loop.time() + _COMMIT_SECONDS
                await consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(committed)})

    consuming: asyncio.Future[Any] = asyncio.create_task(consume())
    stopping: asyncio.Future[Any] = asyncio.create_task(stopped.wait())
    done, _ = await asyncio.wait([consuming, stopping, owner.failure], return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()
    consuming.cancel()
    await asyncio.wait([consuming])
    await consumer.close()
    await reader.close()
    await producer.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline())))
