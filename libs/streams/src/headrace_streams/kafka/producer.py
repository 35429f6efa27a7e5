"""The producer: librdkafka's plain one, and a thread that fetches its delivery reports.

When a record times out, librdkafka drops it, resets its sequence numbers and sends all unacknowledged records again, in
all partitions. Brokers that already had some of these cannot recognise them under the new numbers, and append them
twice. So this producer times out first: it drops what is in flight, reports the outcome as uncertain, and goes on with
a new librdkafka producer, which repeats nothing. Only what is stuck is dropped: new records are held back for a moment,
in which those of healthy partitions are acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as LibrdkafkaProducer

from headrace_streams.errors import AppendUncertain, Overloaded, RecordRefused, StreamsError
from headrace_streams.kafka import errors
from headrace_streams.kafka.known_topics import KnownTopics
from headrace_streams.kafka.properties import Properties, producer_properties
from headrace_streams.records import ProducerRecord, RecordMetadata

_POLL_SECONDS = 0.1
_GIVE_UP_AFTER = 0.8
"""Fraction of librdkafka's own time limit for a record."""
_DRAIN_WITHIN = 0.1
"""Fraction of it, for acknowledgements from healthy partitions before the producer is replaced."""
_QUIET_SECONDS = 0.3
"""Without any for this long, none is expected."""

_METADATA_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Missing:
    """The client knows of no such topic or partition; `otherwise` is the outcome unless there never was one."""

    topic: str
    partition: int | None
    otherwise: StreamsError


_Report = tuple["asyncio.Future[RecordMetadata]", RecordMetadata | StreamsError | _Missing]


class KafkaProducer:
    """Create and use it within one event loop."""

    def __init__(self, properties: Properties, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = producer_properties(properties)
        self._logger = logger
        self._producer = self._new_producer()
        self._give_up_seconds = _delivery_seconds(self._settings) * _GIVE_UP_AFTER
        self._drain_seconds = _delivery_seconds(self._settings) * _DRAIN_WITHIN
        # The records in flight, oldest first: when they were queued, topic and partition, if one was chosen. Written by
        # both threads, one operation at a time.
        self._in_flight: dict[int, tuple[float, str, int | None]] = {}
        self._sent = 0
        # Records that wait for a new producer, in order; None while there is one to take them.
        self._held: list[tuple[int, asyncio.Future[RecordMetadata], ProducerRecord]] | None = None
        self._holding = threading.Lock()
        self._reports: list[_Report] = []
        self._known = KnownTopics(self._count_partitions)
        self._explaining: set[asyncio.Task[None]] = set()
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._stopping = False
        self._finished = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-producer", daemon=True)
        self._thread.start()

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        future: asyncio.Future[RecordMetadata] = self._loop.create_future()
        if self._closed:
            future.set_exception(RecordRefused(f"{record.topic}: this producer is closed"))
            return future
        number, self._sent = self._sent, self._sent + 1
        try:
            with self._holding:
                if self._held is None:
                    self._produce(number, future, record)
                else:
                    self._held.append((number, future, record))
        except BufferError:
            raise Overloaded(f"{self._outstanding} records are waiting to be appended: wait for some of them") from None
        except KafkaException as exception:
            outcome = self._not_queued(errors.error_of(exception), record)
            if not isinstance(outcome, _Missing):
                future.set_exception(outcome)
                return future
            self._explain(future, outcome)
        self._outstanding += 1
        self._idle.clear()
        return future

    def _produce(self, number: int, future: asyncio.Future[RecordMetadata], record: ProducerRecord) -> None:
        self._in_flight[number] = time.monotonic(), record.topic, record.partition
        try:
            self._producer.produce(
                record.topic,
                record.value,
                record.key,
                -1 if record.partition is None else record.partition,
                on_delivery=partial(self._report, number, future, record.topic),
                headers=list(record.headers),
            )
        except BaseException:
            del self._in_flight[number]
            raise

    async def flush(self) -> None:
        await self._idle.wait()

    async def close(self) -> None:
        self._closed = True
        await self.flush()
        self._stopping = True
        await self._finished.wait()

    def _report(
        self,
        number: int,
        future: asyncio.Future[RecordMetadata],
        topic: str,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        outcome: RecordMetadata | StreamsError | _Missing
        self._in_flight.pop(number, None)
        partition, offset = message.partition(), message.offset()
        if error is not None and errors.is_missing(error):
            chosen = None if partition is None or partition < 0 else partition
            outcome = _Missing(topic, chosen, errors.appending(error, topic))
        elif error is not None:
            outcome = errors.appending(error, topic)
        elif partition is None or offset is None or offset < 0:
            # The broker already had it: a retry of a request whose response was lost.
            outcome = AppendUncertain(f"{topic}: appended, but at an unknown offset")
        else:
            outcome = RecordMetadata(topic, partition, offset)
        self._reports.append((future, outcome))

    def _new_producer(self) -> LibrdkafkaProducer:
        return LibrdkafkaProducer(self._settings, logger=self._logger)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._producer.poll(_POLL_SECONDS)
            except KafkaException as exception:
                self._renew(f"failed fatally: {errors.error_of(exception).str()}")
            if (waited := self._longest_wait()) > self._give_up_seconds:
                with self._holding:
                    self._held = []
                self._drain()
                self._renew(f"got no acknowledgement for {waited:.1f} s")
                self._release()
            self._hand_over()
        self._producer.close()
        self._hand_over()
        self._loop.call_soon_threadsafe(self._finished.set)

    def _longest_wait(self) -> float:
        """Seconds since the oldest record in flight was queued; 0 if there is none."""
        try:
            return time.monotonic() - next(iter(self._in_flight.values()))[0]
        except (StopIteration, RuntimeError):  # empty, or just changed by the other thread
            return 0.0

    def _drain(self) -> None:
        """Wait for the acknowledgements of healthy partitions, as long as they come. New records must be held."""
        now = time.monotonic()
        long = self._give_up_seconds / 2
        stuck = {(topic, partition) for queued, topic, partition in self._in_flight.values() if now - queued > long}
        deadline, progress, left = now + self._drain_seconds, now, len(self._in_flight)
        while now < min(deadline, progress + _QUIET_SECONDS):
            waiting = self._in_flight.values()
            # Of a topic whose partitions are chosen by key, some may be stuck and others not.
            if all(partition is not None and (topic, partition) in stuck for _, topic, partition in waiting):
                return
            with contextlib.suppress(KafkaException):  # fatal: it is about to be replaced
                self._producer.poll(_POLL_SECONDS / 10)
            self._hand_over()
            now = time.monotonic()
            if len(self._in_flight) < left:
                progress, left = now, len(self._in_flight)

    def _release(self) -> None:
        """Give the held records to the new producer."""
        with self._holding:
            held, self._held = self._held or [], None
            for number, future, record in held:
                try:
                    self._produce(number, future, record)
                except (BufferError, KafkaException) as exception:
                    error = KafkaError(KafkaError._QUEUE_FULL)
                    if isinstance(exception, KafkaException):
                        error = errors.error_of(exception)
                    self._reports.append((future, self._not_queued(error, record)))

    @staticmethod
    def _not_queued(error: KafkaError, record: ProducerRecord) -> StreamsError | _Missing:
        outcome = errors.queueing(error, record.topic)
        return _Missing(record.topic, record.partition, outcome) if errors.is_missing(error) else outcome

    def _renew(self, cause: str) -> None:
        """Drop what is in flight and go on with a new producer; the dropped records' futures raise AppendUncertain."""
        broken, self._producer = self._producer, self._new_producer()
        self._logger.warning("the producer %s and is being replaced", cause)
        broken.purge()
        # librdkafka raises the error again until it has been reported; purged records are still reported.
        while len(broken):
            with contextlib.suppress(KafkaException):
                broken.poll(_POLL_SECONDS)
        broken.close()

    def _hand_over(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._loop.call_soon_threadsafe(self._resolve, reports)

    def _resolve(self, reports: list[_Report]) -> None:
        for future, outcome in reports:
            if isinstance(outcome, _Missing):
                self._explain(future, outcome)
                continue
            self._outstanding -= 1
            if isinstance(outcome, RecordMetadata):
                self._known.seen(outcome.topic, outcome.partition)
            if future.done():
                continue
            if isinstance(outcome, RecordMetadata):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
        if self._outstanding == 0:
            self._idle.set()

    def _explain(self, future: asyncio.Future[RecordMetadata], missing: _Missing) -> None:
        async def explain() -> None:
            outcome = missing.otherwise
            if not await self._known.may_come(missing.topic, missing.partition):
                outcome = RecordRefused(str(outcome))
            self._resolve([(future, outcome)])

        explaining = asyncio.create_task(explain())
        self._explaining.add(explaining)
        explaining.add_done_callback(self._explaining.discard)

    def _count_partitions(self, topic: str) -> int | None:
        # With this client, which then knows it too.
        try:
            found = self._producer.list_topics(topic, _METADATA_SECONDS).topics[topic]
        except (KafkaException, RuntimeError):  # the latter when it is being replaced
            return None
        if found.error is None:
            return len(found.partitions)
        return 0 if errors.is_missing(found.error) else None


def _delivery_seconds(settings: Mapping[str, str | int | bool]) -> float:
    return float(settings.get("message.timeout.ms", settings["delivery.timeout.ms"])) / 1000
