"""The thread that owns a librdkafka consumer: it polls, passes records to the event loop, and runs commands."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer as LibrdkafkaConsumer
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from headrace_streams.errors import LeaveGroup, OffsetOutOfRange, StreamsError
from headrace_streams.kafka import errors
from headrace_streams.kafka.records import Chunk, chunks_of, place_of
from headrace_streams.records import TopicPartition

T = TypeVar("T")

# A poll cannot be interrupted, and no other thread can use the consumer meanwhile, so this is the longest time that a
# command waits when no records arrive.
_POLL_SECONDS = 0.05
_BRISK_POLL_SECONDS = 0.01
_BATCH = 4_000
_BATCHES_IN_FLIGHT = 3
"""Batches that the event loop has not taken yet. A large one counts as several, see `ConsumerThread`."""


@dataclass(frozen=True, slots=True)
class EndOfPartition:
    """The end of a partition was reached; `offset` is that of the next record."""

    partition: TopicPartition
    offset: int


@dataclass(frozen=True, slots=True)
class FailedPartition:
    """A partition, or with number -1 a whole topic, cannot be read any more as it was assigned.

    `offset` is the one that could not be read, if it was that.
    """

    partition: TopicPartition
    error: StreamsError
    offset: int | None = None


DeliveredMessage = Chunk | EndOfPartition | FailedPartition


def next_offset(delivery: Chunk | EndOfPartition) -> int:
    """The first offset of its partition that comes after it."""
    return delivery.offset if isinstance(delivery, EndOfPartition) else delivery.records[-1].offset + 1


_Command = tuple[Callable[[], Any], "asyncio.Future[Any] | None"]


class ConsumerThread:
    """Makes all calls to a librdkafka consumer, one after the other.

    confluent-kafka allows one call at a time into a consumer and blocks other threads, forever if one thread keeps
    polling. So other calls are commands to this thread. librdkafka's callbacks also run on this thread; while one of
    them waits for the event loop, commands are still run, so that a listener can commit.

    Args:
        what: Names the client in messages.
        deliver: Called on the loop with records and events, in order.
        fail: Called on the loop with the error that ended the polling.
        end: Called on the thread after the last poll: when polling has failed, and when the thread is closed.
        apart: Whether the error of a partition or topic is delivered, and polling goes on for the others, instead of
            ending it.
        most_bytes: A batch with values of so many bytes is the only one that the loop has not taken yet.
    """

    def __init__(
        self,
        consumer: LibrdkafkaConsumer,
        what: str,
        deliver: Callable[[Sequence[DeliveredMessage]], None],
        fail: Callable[[Exception], None],
        end: Callable[[], None],
        *,
        most_bytes: int,
        apart: bool = False,
    ) -> None:
        self.brisk = False
        self._apart = apart
        self._slot_bytes = max(1, most_bytes // _BATCHES_IN_FLIGHT)
        self._consumer = consumer
        self._what = what
        self._deliver = deliver
        self._fail = fail
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._polling = False
        self._held = False
        self._closing = False
        self._finished = asyncio.Event()
        # Polled, and not yet passed to the loop.
        self._polled: list[Message] = []
        # Limits the batches that the loop has not taken yet, so that a busy loop is not flooded.
        self._slots = threading.BoundedSemaphore(_BATCHES_IN_FLIGHT)
        # In the creator's context: what it calls and logs is that service's, where a process runs several.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._main,), name=f"kafka {what}", daemon=True).start()

    # On the loop:

    async def run(self, call: Callable[[], T], translate: Callable[[KafkaError], StreamsError]) -> T:
        """Run a call to the consumer; its KafkaException becomes what `translate` returns. LeaveGroup when closed."""
        if self._finished.is_set():
            raise LeaveGroup(f"{self._what}: closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._commands.put((call, future))
        try:
            return await future
        except KafkaException as exception:
            raise translate(errors.error_of(exception)) from exception
        except RuntimeError as error:
            raise LeaveGroup(f"{self._what}: {error}") from error

    def post(self, call: Callable[[], Any]) -> None:
        """Schedule a call without waiting for it."""
        self._commands.put((call, None))

    def hold(self, held: bool) -> None:
        """Stop or resume polling. librdkafka then fetches until its queue is full and keeps it, whereas pausing
        partitions would discard the queue and fetch it again. Not for members of a group, which must keep polling.
        """
        self._held = held
        self.post(lambda: None)

    async def close(self) -> None:
        """Returns when the thread has ended and `end` has been called."""
        self._closing = True
        self.post(lambda: None)
        await self._finished.wait()

    # On the thread:

    def begin_to_poll(self) -> None:
        self._polling = True

    def await_on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this on the loop and wait for its result, running commands meanwhile."""
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        waiting.add_done_callback(lambda _: self.post(lambda: None))
        while not waiting.done():
            self._carry_out(self._commands.get())
        return waiting.result()

    def call_on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """Call this on the loop, after everything passed to it before."""
        self._loop.call_soon_threadsafe(call, *arguments)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Do not deliver records of these partitions that were already polled."""
        self._polled = [message for message in self._polled if place_of(message) not in partitions]

    def _main(self) -> None:
        while not self._closing:
            if not self._polling or self._held:
                self._carry_out(self._commands.get())
                continue
            while not self._commands.empty():
                self._carry_out(self._commands.get())
            try:
                self._poll_once()
            except Exception as error:  # noqa: BLE001 - raised to the caller of poll()
                self._polling = False
                self.call_on_loop(self._fail, self._translated(error))
                self._end_it()
        self._end_it()
        self.call_on_loop(self._finish)

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, KafkaException):
            return error
        found = errors.error_of(error)
        return errors.consuming(found, self._what) or LeaveGroup(f"{self._what}: {found.str()}")

    def _end_it(self) -> None:
        try:
            self._end()
        except Exception as error:  # noqa: BLE001 - as above
            self.call_on_loop(self._fail, error)

    def _carry_out(self, command: _Command) -> None:
        call, future = command
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - raised to the caller of `run`
            if future is not None:
                self.call_on_loop(_set_exception, future, error)
            else:
                self.call_on_loop(self._fail, error)
        else:
            if future is not None:
                self.call_on_loop(_set_result, future, result)

    def _poll_once(self) -> None:
        # consume() waits its whole timeout unless it gets all it asks for, so poll() waits for the first message.
        first = self._consumer.poll(_BRISK_POLL_SECONDS if self.brisk else _POLL_SECONDS)
        if first is None:
            return
        # A rebalance may happen inside consume(), which itself leaves out what it took from revoked partitions.
        self._polled = [first]
        self._polled += self._consumer.consume(_BATCH - 1, 0)
        deliveries = self._deliveries(self._polled)
        self._polled = []
        if deliveries:
            size = sum(each.size for each in deliveries if isinstance(each, Chunk))
            slots = min(_BATCHES_IN_FLIGHT, 1 + size // self._slot_bytes)
            # One by one, which cannot block for ever: only this thread takes any.
            for _ in range(slots):
                self._slots.acquire()
            self.call_on_loop(self._hand_over, deliveries, slots)

    def _hand_over(self, deliveries: Sequence[DeliveredMessage], slots: int) -> None:
        self._slots.release(slots)
        self._deliver(deliveries)

    def _finish(self) -> None:
        self._finished.set()
        while not self._commands.empty():
            _, future = self._commands.get()
            if future is not None:
                _set_exception(future, LeaveGroup(f"{self._what}: closed"))

    def _deliveries(self, messages: Sequence[Message]) -> Sequence[DeliveredMessage]:
        if not any(map(Message.error, messages)):
            return chunks_of(messages)
        deliveries: list[DeliveredMessage] = []
        begin = 0
        for index, message in enumerate(messages):
            error = message.error()
            if error is not None:
                deliveries += chunks_of(messages[begin:index])
                begin = index + 1
                deliveries += self._event(message, error)
        return [*deliveries, *chunks_of(messages[begin:])]

    def _event(self, message: Message, error: KafkaError) -> Sequence[DeliveredMessage]:
        offset, partition = message.offset(), place_of(message)
        if error.code() == KafkaError._PARTITION_EOF and offset is not None:
            return (EndOfPartition(partition, offset),)
        failure = errors.consuming(error, f"{self._what}, {partition}")
        if failure is None:
            return ()
        if self._apart and partition.topic and not error.fatal():
            return (FailedPartition(partition, failure, offset if isinstance(failure, OffsetOutOfRange) else None),)
        raise failure


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def to_kafka(partition: TopicPartition, offset: int | None = None, metadata: str | None = None) -> KafkaPartition:
    """A partition as librdkafka's type."""
    if offset is None:
        return KafkaPartition(partition.topic, partition.partition)
    if metadata is None:
        return KafkaPartition(partition.topic, partition.partition, offset)
    return KafkaPartition(partition.topic, partition.partition, offset, metadata)


def from_kafka(partition: KafkaPartition) -> TopicPartition:
    """A partition as our type."""
    return TopicPartition(partition.topic, partition.partition)
