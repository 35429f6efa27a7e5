"""Rates that hold over all processes of a service: each tells the others what it has let through.

rates = request_rates(settings, load_tenants(settings.tenants_file))
shared = SharedRates(rates, keys, log=connections.log, ...)
Service([..., shared.part, ...])

Once a second a process writes one record with the requests that it let through since the last one, if there were any,
to requests.counted, which all read. No request waits for it. While Kafka cannot be written or read, each process limits
by itself, and what it then lets through is not told later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cachetools import LRUCache
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.events import RequestsCounted
from headrace_contracts.ids import new_id
from headrace_contracts.topics import REQUESTS_COUNTED
from headrace_streams.dead_letters import described
from headrace_streams.errors import StreamsError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record, RecordMetadata, TopicPartition

from headrace_runtime.access import KeyTable
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part
from headrace_runtime.logging import get_logger
from headrace_runtime.rate_limit import RequestRates

TELL_SECONDS: Final = 1.0
"""Time between two records of a process."""
FORGOTTEN_MS: Final = 60_000
"""After this time a bucket is full again, whatever was taken."""
_MOST_KEYS: Final = 1_000
"""In one record; it then has 20 kB."""
_MOST_PROCESSES: Final = 1_000
_ACK_SECONDS: Final = 10.0
"""Longest wait for a record's acknowledgement; then Kafka is in trouble, and the record too old to matter."""
_RETRY_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 5.0
_MOST_RECORDS: Final = 1_000
_CHECK: Final = "request rates"

_log = get_logger("headrace.runtime.shared_rates")


class ProcessesHeard:
    """Which records of other processes are news."""

    def __init__(self) -> None:
        # The last sequence of each process, and when it was counted; the one heard from last stands last.
        self._heard: LRUCache[str, tuple[int, int]] = LRUCache(_MOST_PROCESSES)

    def is_news(self, process: str, sequence: int, counted_at: int, now_ms: int) -> bool:
        """Whether a record tells what is not known yet, and still matters; from then on it is known."""
        if counted_at <= now_ms - FORGOTTEN_MS or sequence <= self._heard.get(process, (0, 0))[0]:
            return False
        self._heard[process] = sequence, counted_at
        return True

    def others(self, now_ms: int) -> int:
        """How many processes have told something within the last minute."""
        return sum(counted_at > now_ms - FORGOTTEN_MS for _, counted_at in self._heard.values())


class SharedRates:
    """Tells other processes of the service what this one let through, and takes off what they did.

    Args:
        service: Rates hold for each service by itself.
        keys: The API keys; what is told of others is ignored.
        clock: Milliseconds since the epoch, on which the buckets of `rates` are.
    """

    def __init__(
        self,
        rates: RequestRates,
        keys: KeyTable,
        *,
        service: str,
        log: Log,
        codec: Codec,
        publisher: Publisher,
        authenticity: Authenticity,
        clock: Callable[[], int],
        health: Health,
    ) -> None:
        self._rates = rates
        self._keys = keys
        self._service = service
        # Of this start of the process; no other one has the same.
        self._process = str(new_id())
        self._log = log
        self._codec = codec
        self._publisher = publisher
        self._authenticity = authenticity
        self._clock = clock
        self._health = health
        self._heard = ProcessesHeard()
        self._sequence = 0
        self._troubles: set[str] = set()
        self._place = TopicPartition(codec.topic_prefix + REQUESTS_COUNTED.name, 0)
        self._reader: PartitionReader | None = None
        self.part = Part(_CHECK, run=self._run, stop=self._close)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._tell())
            both.create_task(self._listen())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            requests = self._rates.newly_let_through(_MOST_KEYS)
            if not requests:
                continue
            self._sequence += 1
            try:
                # Not wait_for: the record cannot be recalled, so its future must not be cancelled.
                sent = self._publisher.send(self._record(requests))
                await asyncio.wait((sent,), timeout=_ACK_SECONDS)
                if sent.done():
                    sent.result()
                    self._together("written")
                else:
                    sent.add_done_callback(_late)
                    self._alone("written", f"cannot tell others: no acknowledgement within {_ACK_SECONDS:g} s")
            except StreamsError as error:
                self._alone("written", f"cannot tell others: {described(error)}")

    def _record(self, requests: dict[str, int]) -> Publication:
        now = self._clock()
        counted = RequestsCounted(
            service=self._service, process=self._process, sequence=self._sequence, counted_at=now, requests=requests
        )
        return Publication(
            spec=REQUESTS_COUNTED,
            event=counted,
            event_id=f"{self._process}/{self._sequence}",
            key=f"{self._service}/{self._process}".encode(),
            # One partition, whatever the topic has: everybody reads this one.
            partition=0,
            tenant="",
            time_ms=now,
        )

    async def _listen(self) -> None:
        while True:
            try:
                reader = self._reader or await self._opened()
                for record in await reader.poll(_MOST_RECORDS, _POLL_SECONDS):
                    await self._take(record)
            except (StreamsError, RegistryUnavailable) as error:
                self._alone("read", f"cannot read what others tell: {described(error)}")
                await self._close()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _opened(self) -> PartitionReader:
        """Begin with what was told a minute ago; what is known of it already is no news."""
        reader = self._log.follower()
        try:
            await reader.assign(await reader.offsets_at([self._place], self._clock() - FORGOTTEN_MS))
        except BaseException:
            await reader.close()
            raise
        self._reader = reader
        self._together("read")
        return reader

    async def _take(self, record: Record) -> None:
        own, _, _ = (record.key or b"").partition(b"/")
        if own != self._service.encode() or not self._authenticity.admits(record):
            return
        try:
            counted = await self._codec.read(
                RequestsCounted, record.value, Origin(record.topic, record.partition, record.offset)
            )
        except RegistryUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            _log.warning("ignored a count of requests that cannot be read", reason=described(error))
            return
        now = self._clock()
        if (
            counted.service != self._service
            or counted.process == self._process
            or not self._heard.is_news(counted.process, counted.sequence, counted.counted_at, now)
        ):
            return
        others = self._heard.others(now)
        age = max(now - counted.counted_at, 0) / 1000
        for key_id, count in counted.requests.items():
            key = self._keys.get(key_id)
            if key is not None and count > 0:
                self._rates.taken_elsewhere(key, count, age_seconds=age, others=others, now=now / 1000)

    def _alone(self, what: str, why: str) -> None:
        if what not in self._troubles:
            self._troubles.add(what)
            _log.warning("each process limits the rates of keys and tenants by itself", reason=why)
        self._health.degrade(f"{_CHECK} {what}", f"each process limits by itself: {why}")

    def _together(self, what: str) -> None:
        self._troubles.discard(what)
        self._health.degrade(f"{_CHECK} {what}", None)

    async def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()


def _late(sent: asyncio.Future[RecordMetadata]) -> None:
    # What became of it was told already; asyncio need not warn of an error that nobody asked for.
    if not sent.cancelled():
        sent.exception()
