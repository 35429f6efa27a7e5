"""The producer: librdkafka's plain one, and a thread that fetches its delivery reports.

When a record times out, librdkafka drops it, resets its sequence numbers and sends all unacknowledged records again, in
all partitions. Brokers that already had some of these cannot recognise them under the new numbers, and append them
twice. So this producer times out first: it goes on with a new librdkafka producer, which repeats nothing, and drops
what the old one still has in flight, whose outcome it reports as uncertain.

Before it drops anything it gives the old one a little more time. Whatever goes to partitions that answer is
acknowledged meanwhile, so that a partition that does not answer costs the others nothing but moments. To keep the
order, a record whose place still has older ones in the old producer waits for these.

A topic or partition that the client does not know may be one that it, or the broker it asked, does not know yet, or one
that is being made anew. Only what the cluster says has never been there is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as LibrdkafkaProducer

from headrace_streams.dead_letters import described
from headrace_streams.errors import AppendUncertain, Overloaded, RecordRefused, StreamsError, TransientError
from headrace_streams.kafka import errors
from headrace_streams.kafka.known_topics import KnownTopics
from headrace_streams.kafka.properties import Properties, producer_properties
from headrace_streams.records import ProducerRecord, RecordMetadata

_POLL_SECONDS = 0.1
_RETIRING_POLL_SECONDS = 0.005
_GIVE_UP_AFTER = 0.8
"""Fraction of librdkafka's own time limit for a record."""
_RETIRE_WITHIN = 0.1
"""Fraction of it that an old producer gets for what is not stuck. Giving up, and retiring twice, stay within it."""

_METADATA_SECONDS = 3.0

_Place = tuple[str, int | None]
"""A partition; of records whose partition follows from the key, the whole topic."""


class _Client:
    """One librdkafka producer, and what it has in flight."""

    def __init__(self, producer: LibrdkafkaProducer) -> None:
        self.producer = producer
        # When the records in flight were queued, oldest first; written by both threads, one operation at a time.
        self.queued_at: dict[int, float] = {}
        # By the event loop only.
        self.in_flight: Counter[_Place] = Counter()

    def longest_wait(self) -> float:
        """Seconds since the oldest record in flight was queued; 0 if there is none."""
        try:
            return time.monotonic() - next(iter(self.queued_at.values()))
        except (StopIteration, RuntimeError):  # empty, or just changed by the other thread
            return 0.0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A record that was passed to `send`."""

    number: int
    at: float
    place: _Place
    record: ProducerRecord
    future: asyncio.Future[RecordMetadata]


@dataclass(frozen=True, slots=True)
class _Missing:
    """The client knows of no such topic or partition; `otherwise` is the outcome unless there never was one."""

    partition: int | None
    otherwise: StreamsError


_Report = tuple[_Sent, _Client, RecordMetadata | StreamsError | _Missing]


class KafkaProducer:
    """Create and use it within one event loop."""

    def __init__(self, properties: Properties, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = producer_properties(properties)
        self._logger = logger
        self._current = self._new_client()
        # The former one, while what it has in flight is still being acknowledged, and what waits for that, by place.
        self._retiring: _Client | None = None
        self._held: defaultdict[_Place, list[_Sent]] = defaultdict(list)
        self._stuck: set[_Place] = set()
        limit = _delivery_seconds(self._settings)
        self._give_up_seconds, self._retire_seconds = limit * _GIVE_UP_AFTER, limit * _RETIRE_WITHIN
        self._sent = 0
        self._known = KnownTopics(self._count_partitions)
        self._explaining: set[asyncio.Task[None]] = set()
        self._reports: list[_Report] = []
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._stopping = False
        self._finished = asyncio.Event()
        # In the creator's context: what it calls and logs is that service's, where a process runs several.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="kafka-producer", daemon=True)
        self._thread.start()

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        future: asyncio.Future[RecordMetadata] = self._loop.create_future()
        if self._closed:
            future.set_exception(RecordRefused(f"{record.topic}: this producer is closed"))
            return future
        number, self._sent = self._sent, self._sent + 1
        sent = _Sent(number, time.monotonic(), (record.topic, record.partition), record, future)
        if self._retiring is not None and self._retiring.in_flight[sent.place]:
            self._held[sent.place].append(sent)
        elif isinstance(refusal := self._produce(sent), _Missing):
            self._explain(sent, refusal)
        elif refusal is not None:
            if isinstance(refusal, Overloaded):
                raise refusal
            future.set_exception(refusal)
            return future
        self._outstanding += 1
        self._idle.clear()
        return future

    async def flush(self) -> None:
        await self._idle.wait()

    async def close(self) -> None:
        self._closed = True
        await self.flush()
        self._stopping = True
        await self._finished.wait()

    def _produce(self, sent: _Sent) -> StreamsError | _Missing | None:
        """Queue a record in the current producer; returns why that was not possible."""
        client, record = self._current, sent.record
        client.queued_at[sent.number] = sent.at
        try:
            for name, _ in record.headers:
                # confluent-kafka ends the process when it gets a name that UTF-8 cannot express.
                name.encode()
            client.producer.produce(
                record.topic,
                record.value,
                record.key,
                -1 if record.partition is None else record.partition,
                on_delivery=partial(self._report, sent, client),
                headers=list(record.headers),
            )
        except BaseException as error:
            # Whatever it was, the record is not in flight, and nothing may wait for its report.
            client.queued_at.pop(sent.number, None)
            if isinstance(error, BufferError):
                return Overloaded(f"{self._outstanding} records are waiting to be appended: wait for some of them")
            if isinstance(error, KafkaException):
                found = errors.error_of(error)
                outcome = errors.queueing(found, record.topic)
                return _Missing(record.partition, outcome) if errors.is_missing(found) else outcome
            if isinstance(error, Exception):
                # Its text may quote the record.
                return RecordRefused(f"{record.topic}: no record can be made of it: {described(error)}")
            raise
        client.in_flight[sent.place] += 1
        return None

    def _report(self, sent: _Sent, client: _Client, error: KafkaError | None, message: Message) -> None:
        outcome: RecordMetadata | StreamsError | _Missing
        client.queued_at.pop(sent.number, None)
        topic, partition, offset = sent.record.topic, message.partition(), message.offset()
        if error is not None and errors.is_missing(error):
            chosen = None if partition is None or partition < 0 else partition
            outcome = _Missing(chosen, errors.appending(error, topic))
        elif error is not None:
            outcome = errors.appending(error, topic)
        elif partition is None or offset is None or offset < 0:
            # The broker already had it: a retry of a request whose response was lost.
            outcome = AppendUncertain(f"{topic}: appended, but at an unknown offset")
        else:
            outcome = RecordMetadata(topic, partition, offset)
        self._reports.append((sent, client, outcome))

    def _new_client(self) -> _Client:
        return _Client(LibrdkafkaProducer(self._settings, logger=self._logger))

    def _run(self) -> None:
        while not self._stopping:
            current = self._current
            try:
                current.producer.poll(_POLL_SECONDS)
            except KafkaException as exception:
                self._retire(current, f"failed fatally: {errors.error_of(exception).str()}", 0.0)
            if (waited := current.longest_wait()) > self._give_up_seconds:
                self._retire(current, f"got no acknowledgement for {waited:.1f} s", self._retire_seconds)
            self._hand_over()
        self._current.producer.close()
        self._hand_over()
        self._loop.call_soon_threadsafe(self._finished.set)

    def _retire(self, old: _Client, cause: str, seconds: float) -> None:
        """Go on with a new producer, and drop what the old one has not delivered after this time; the dropped records'
        futures raise AppendUncertain."""
        self._logger.warning("the producer %s and is being replaced", cause)
        fresh = self._new_client()
        replaced = threading.Event()
        self._loop.call_soon_threadsafe(self._replace, fresh, replaced)
        ends = time.monotonic() + seconds
        while not self._stopping and (not replaced.is_set() or (len(old.producer) and time.monotonic() < ends)):
            for producer in (old.producer, fresh.producer):
                with contextlib.suppress(KafkaException):
                    producer.poll(_RETIRING_POLL_SECONDS)
            self._hand_over()
        old.producer.purge()
        # librdkafka raises the error again until it has been reported; purged records are still reported.
        while len(old.producer):
            with contextlib.suppress(KafkaException):
                old.producer.poll(_POLL_SECONDS)
        old.producer.close()
        self._hand_over()
        self._loop.call_soon_threadsafe(self._retired)

    def _replace(self, fresh: _Client, replaced: threading.Event) -> None:
        self._retiring, self._current = self._current, fresh
        replaced.set()

    def _retired(self) -> None:
        self._retiring = None
        for place in list(self._held):
            self._release(place)
        self._stuck.clear()

    def _release(self, place: _Place) -> None:
        """Send what has waited for older records of its place; none of it, if it is uncertain whether these are there:
        it would stand behind a gap."""
        for sent in self._held.pop(place, ()):
            refusal: StreamsError | _Missing | None
            if place in self._stuck:
                refusal = TransientError(f"{sent.record.topic}: not sent, because an earlier record was given up")
            else:
                refusal = self._produce(sent)
                if isinstance(refusal, Overloaded):
                    refusal = TransientError(str(refusal))
            if refusal is not None:
                self._resolve_one(sent, refusal)

    def _hand_over(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._loop.call_soon_threadsafe(self._resolve, reports)

    def _resolve(self, reports: list[_Report]) -> None:
        retiring = self._retiring
        for sent, client, outcome in reports:
            client.in_flight[sent.place] -= 1
            if client is retiring:
                if not isinstance(outcome, RecordMetadata):
                    self._stuck.add(sent.place)
                if not client.in_flight[sent.place]:
                    self._release(sent.place)
            self._resolve_one(sent, outcome)

    def _resolve_one(self, sent: _Sent, outcome: RecordMetadata | StreamsError | _Missing) -> None:
        if isinstance(outcome, _Missing):
            self._explain(sent, outcome)
            return
        if isinstance(outcome, RecordMetadata):
            self._known.seen(outcome.topic, outcome.partition)
        self._outstanding -= 1
        if self._outstanding == 0:
            self._idle.set()
        if sent.future.done():
            return
        if isinstance(outcome, RecordMetadata):
            sent.future.set_result(outcome)
        else:
            sent.future.set_exception(outcome)

    def _explain(self, sent: _Sent, missing: _Missing) -> None:
        async def explain() -> None:
            outcome = missing.otherwise
            if not await self._known.may_come(sent.record.topic, missing.partition):
                outcome = RecordRefused(str(outcome))
            self._resolve_one(sent, outcome)

        explaining = asyncio.create_task(explain())
        self._explaining.add(explaining)
        explaining.add_done_callback(self._explaining.discard)

    def _count_partitions(self, topic: str) -> int | None:
        # With this client, which then knows it too.
        try:
            found = self._current.producer.list_topics(topic, _METADATA_SECONDS).topics[topic]
        except (KafkaException, RuntimeError):  # the latter when it is being replaced
            return None
        if found.error is None:
            return len(found.partitions)
        return 0 if errors.is_missing(found.error) else None


def _delivery_seconds(settings: Mapping[str, str | int | bool]) -> float:
    return float(settings.get("message.timeout.ms", settings["delivery.timeout.ms"])) / 1000
