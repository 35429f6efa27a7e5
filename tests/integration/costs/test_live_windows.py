"""Live windows by Faust on a real Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer as ForeignProducer
from faust.tables.table import Table as FaustTable
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.events import Outcome, SpendWindows, Usage, UsageRecorded
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import SPEND_WINDOWS, USAGE_RECORDED
from headrace_cost_accountant.adapters.windows_app import WindowsApp, WindowsTools
from headrace_cost_accountant.decide.booking import Cost, cost_of
from headrace_cost_accountant.decide.windows import LENGTHS, current_windows
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_models.prices import PriceBook, load_price_book
from headrace_runtime.metrics import Metrics
from headrace_streams.errors import Overloaded
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Producer
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record, RecordMetadata
from headrace_streams.tables import Table
from headrace_testing.provisioned import provision_patiently
from headrace_testing.raw_headers import NOT_UTF8, append_raw
from headrace_testing.unruly_registry import UnrulyRegistry

pytestmark = pytest.mark.stack

BOOK = load_price_book()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def usage(number: int, tenant: str) -> UsageRecorded:
    return UsageRecorded(
        event_id=f"{tenant}-{number}",
        tenant=tenant,
        task_id="t",
        attempt_id="t/1",
        execution_id=str(number),
        provider="groq",
        model="llama-3.1-8b-instant",
        outcome=Outcome.ANSWERED,
        usage=Usage(
            input_tokens=1_000 + number,
            output_tokens=10,
            cached_input_tokens=3,
            cache_write_5m_tokens=number,
            cache_write_1h_tokens=2,
        ),
        recorded_at=now_ms(),
    )


def cost_of_all(tenant: str, numbers: Iterable[int]) -> int:
    return sum(cost_of(usage(number, tenant), BOOK).nanodollars for number in numbers)


def stumble_at(offset: int, patch: pytest.MonkeyPatch) -> None:
    decode = WindowsApp._decode

    async def stumbling(self: WindowsApp, record: Record) -> UsageRecorded | None:
        if record.offset == offset:
            raise Stumbled
        return await decode(self, record)

    patch.setattr(WindowsApp, "_decode", stumbling)


class Stumbled(Exception):
    """What the test makes an event fail with."""


@dataclass
class Bench:
    """Topics on Kafka, and what reads and writes them."""

    kafka: str
    codec: Codec
    producer: Producer
    live: Table[SpendWindows]
    metrics: Metrics
    measures: LedgerMetrics
    publish_seconds: float = 0.1

    async def use(self, tenant: str, numbers: range) -> int:
        """Record usage; what it costs in nano-dollars."""
        publisher = Publisher(self.producer, self.codec, "test")
        events = [usage(number, tenant) for number in numbers]
        for event in events:
            await publisher.send(
                Publication(
                    spec=USAGE_RECORDED,
                    event=event,
                    event_id=event.event_id,
                    key=tenant.encode(),
                    tenant=tenant,
                    time_ms=event.recorded_at,
                )
            )
        return sum(cost_of(event, BOOK).nanodollars for event in events)

    @asynccontextmanager
    async def windows(self) -> AsyncIterator[asyncio.Task[None]]:
        """One life of the app; the task that is it."""
        tools = WindowsTools(
            kafka={"bootstrap.servers": self.kafka},
            log=KafkaLog({"bootstrap.servers": self.kafka}),
            codec=self.codec,
            prices=BOOK,
            publisher=Publisher(self.producer, self.codec, "test"),
            measures=self.measures,
            replication=1,
            publish_seconds=self.publish_seconds,
            clock=now_ms,
        )
        started = asyncio.Event()
        running = asyncio.create_task(WindowsApp(tools).run(started.set))
        starting = asyncio.create_task(started.wait())
        try:
            await asyncio.wait({running, starting}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            assert started.is_set(), running
            yield running
        finally:
            starting.cancel()
            running.cancel()
            with suppress(asyncio.CancelledError, Stumbled):
                await running

    async def spent_today(self, tenant: str, expected: int) -> None:
        """Waits until the tenant's day shows so many nano-dollars, and does not change any more."""
        shown = -1
        try:
            async with asyncio.timeout(60):
                while shown != expected:
                    await asyncio.sleep(0.05)
                    shown = self.shown(tenant)
        except TimeoutError:
            raise AssertionError(f"the day of {tenant} shows {shown}, not {expected}") from None
        await asyncio.sleep(0.5)
        assert self.shown(tenant) == expected

    def shown(self, tenant: str) -> int:
        return current_windows(self.live.get(tenant), now_ms())[-1].cost_nanodollars

    def counted(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(f"headrace_costs_windows_{name}_total")
        assert value is not None
        return value


@pytest.fixture
async def bench(kafka: str, topic_prefix: str) -> AsyncIterator[Bench]:
    log = KafkaLog({"bootstrap.servers": kafka})
    codec = Codec(MemoryRegistry(), topic_prefix)
    await provision_patiently(log.admin(), codec, [USAGE_RECORDED, SPEND_WINDOWS])
    producer = log.producer()
    live: Table[SpendWindows] = Table(log, codec, SPEND_WINDOWS)
    await live.start()
    metrics = Metrics("test")
    yield Bench(kafka, codec, producer, live, metrics, LedgerMetrics(metrics))
    await live.close()
    await producer.close()


async def test_windows_add_up_go_on_after_a_restart_and_pass_over_garbage(bench: Bench, topic_prefix: str) -> None:
    async with bench.windows():
        acme = await bench.use("acme", range(50))
        umbra = await bench.use("umbra", range(20))
        await bench.producer.send(ProducerRecord(topic_prefix + USAGE_RECORDED.name, b"garbage", b"acme"))
        acme += await bench.use("acme", range(50, 60))
        await bench.spent_today("acme", acme)
        await bench.spent_today("umbra", umbra)
    told = bench.live.get("acme")
    assert told is not None
    assert [window.seconds for window in told.windows] == list(LENGTHS)
    assert told.windows[-1].executions == 60
    assert told.windows[-1].usage == Usage(
        input_tokens=sum(range(1_000, 1_060)),
        output_tokens=600,
        cached_input_tokens=180,
        cache_write_5m_tokens=sum(range(60)),
        cache_write_1h_tokens=120,
    )
    assert bench.counted("passed_over") == 1
    # Used while nothing computes windows.
    acme += await bench.use("acme", range(60, 70))
    async with bench.windows():
        await bench.spent_today("acme", acme)
        umbra += await bench.use("umbra", range(20, 25))
        await bench.spent_today("umbra", umbra)


async def test_an_event_that_fails_ends_the_life_and_is_never_added_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stumble_at(25, patch)
        async with bench.windows() as life:
            acme = await bench.use("acme", range(40))
            await asyncio.wait([life], timeout=60)
            assert isinstance(life.exception(), Stumbled)
    async with bench.windows():
        await bench.spent_today("acme", acme)
        acme += await bench.use("acme", range(40, 45))
        await bench.spent_today("acme", acme)


async def test_faust_reads_no_usage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    getmany = AIOKafkaConsumerThread.getmany
    asked: set[str] = set()

    async def listening(self: Any, active_partitions: Any, timeout: float) -> Mapping[Any, list[Any]]:
        asked.update(name.topic for name in active_partitions)
        return await getmany(self, active_partitions, timeout)

    monkeypatch.setattr(AIOKafkaConsumerThread, "getmany", listening)
    monkeypatch.setattr("headrace_cost_accountant.adapters.windows_app._WRITE_SECONDS", 0.0)
    for first in (0, 40):
        async with bench.windows() as life:
            await bench.use("acme", range(first, first + 40))
            await bench.spent_today("acme", cost_of_all("acme", range(first + 40)))
            assert not life.done()
    # Only what the second life has restored its tables from.
    assert asked
    assert all(topic.endswith("-changelog") for topic in asked)


async def test_usage_of_a_moment_changes_each_of_its_windows_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_key, changes = FaustTable._set_key, []

    def counting(self: Any, key: Any, value: Any) -> None:
        changes.append(key)
        set_key(self, key, value)

    monkeypatch.setattr(FaustTable, "_set_key", counting)
    monkeypatch.setattr("headrace_cost_accountant.adapters.windows_app._WRITE_SECONDS", 0.0)
    bench.publish_seconds = 2.0
    async with bench.windows():
        acme = await bench.use("acme", range(400))
        await bench.spent_today("acme", acme)
    assert 3 <= len(changes) <= 60


async def test_what_is_not_committed_before_a_crash_is_added_once_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is in the changelogs already."""
    monkeypatch.setattr("headrace_cost_accountant.adapters.windows_app._WRITE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(WindowsApp, "_commit", AsyncMock())
        async with bench.windows():
            acme = await bench.use("acme", range(40))
            await bench.spent_today("acme", acme)
    with monkeypatch.context() as patch:
        stumble_at(50, patch)
        async with bench.windows() as life:
            acme += await bench.use("acme", range(40, 80))
            await asyncio.wait([life], timeout=60)
            assert isinstance(life.exception(), Stumbled)
    async with bench.windows():
        await bench.spent_today("acme", acme)


async def test_a_life_ends_though_a_commit_swallows_its_cancellation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def swallowing(self: WindowsApp, app: Any, positions: Mapping[int, int]) -> None:
        if not entered.is_set():
            entered.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    monkeypatch.setattr(WindowsApp, "_commit", swallowing)
    async with bench.windows() as life:
        await bench.use("acme", range(1))
        await entered.wait()
        life.cancel()
        await asyncio.wait([life], timeout=60)
        assert life.done()


async def test_offsets_without_records_are_passed_over(bench: Bench, topic_prefix: str) -> None:
    """A transaction ends with a control record."""
    topic = topic_prefix + USAGE_RECORDED.name
    foreign = ForeignProducer({"bootstrap.servers": bench.kafka, "transactional.id": topic_prefix + "foreign"})
    await asyncio.to_thread(foreign.init_transactions, 30)
    async with bench.windows() as life:
        acme = await bench.use("acme", range(5))
        for number in range(5, 8):
            foreign.begin_transaction()
            foreign.produce(topic, bench.codec.encode(USAGE_RECORDED, usage(number, "acme")), b"acme")
            await asyncio.to_thread(foreign.commit_transaction, 30)
        acme += cost_of_all("acme", range(5, 8))
        await bench.spent_today("acme", acme)
        acme += await bench.use("acme", range(8, 10))
        await bench.spent_today("acme", acme)
        assert not life.done()


async def test_what_was_added_and_not_published_before_a_crash_is_published_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Publisher.send

    def failing(self: Publisher, publication: Publication) -> asyncio.Future[RecordMetadata]:
        if publication.spec is SPEND_WINDOWS:
            raise Overloaded
        return send(self, publication)

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "send", failing)
        async with bench.windows():
            acme = await bench.use("acme", range(20))
            await asyncio.sleep(5)
            assert bench.shown("acme") == 0
    async with bench.windows():
        await bench.spent_today("acme", acme)


@pytest.mark.parametrize("error", [ValueError, OverflowError, RecursionError])
async def test_an_error_of_any_kind_about_one_event_costs_that_event(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def failing(event: UsageRecorded, book: PriceBook) -> Cost:
        if event.event_id == "acme-2":
            raise error
        return cost_of(event, book)

    monkeypatch.setattr("headrace_cost_accountant.adapters.windows_app.cost_of", failing)
    async with bench.windows() as life:
        acme = await bench.use("acme", range(5)) - cost_of(usage(2, "acme"), BOOK).nanodollars
        await bench.spent_today("acme", acme)
        assert not life.done()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("client", ["librdkafka", "aiokafka"])
async def test_batches_compressed_by_others_are_read(bench: Bench, topic_prefix: str, codec: str, client: str) -> None:
    """Snappy comes raw from the one and in the frames of Java from the other."""
    topic = topic_prefix + USAGE_RECORDED.name
    events = [usage(number, "acme") for number in range(200)]
    values = [bench.codec.encode(USAGE_RECORDED, event) for event in events]
    async with bench.windows() as life:
        first = await bench.use("acme", range(1))
        if client == "librdkafka":
            foreign = ForeignProducer({"bootstrap.servers": bench.kafka, "compression.type": codec, "linger.ms": 50})
            for value in values:
                foreign.produce(topic, value, b"acme")
            assert foreign.flush(30) == 0
        else:
            writer: Any = AIOKafkaProducer(bootstrap_servers=bench.kafka, compression_type=codec, linger_ms=50)  # type: ignore[no-untyped-call]
            async with writer:
                sent = [await writer.send(topic, value, b"acme") for value in values]
                await asyncio.gather(*sent)
        cost = sum(cost_of(event, BOOK).nanodollars for event in events)
        await bench.spent_today("acme", cost + first)
        assert not life.done()


@pytest.mark.parametrize("name", NOT_UTF8)
async def test_headers_that_are_no_text_cost_nothing(
    bench: Bench, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    topic = topic_prefix + USAGE_RECORDED.name
    events = [usage(number, "acme") for number in range(50)]
    async with bench.windows() as life:
        first = await bench.use("acme", range(1))
        records = [
            (bench.codec.encode(USAGE_RECORDED, event), [(name, b"v"), (b"ce_id", None)] if number % 3 else [])
            for number, event in enumerate(events)
        ]
        await append_raw(bench.kafka, topic, monkeypatch, records, key=b"acme")
        cost = sum(cost_of(event, BOOK).nanodollars for event in events)
        await bench.spent_today("acme", cost + first)
        assert not life.done()


@pytest.mark.parametrize("trouble", ["silent", "away"])
async def test_an_unknown_schema_and_a_registry_that_does_not_answer_hold_the_windows_up_for_a_while(
    bench: Bench, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("headrace_cost_accountant.adapters.windows_app._REGISTRY_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr("headrace_contracts.schema_lookups.LOOKUP_SECONDS", 0.2)
    registry = UnrulyRegistry()
    bench.codec = Codec(registry, topic_prefix)
    await bench.codec.prepare([USAGE_RECORDED, SPEND_WINDOWS], register=True)
    topic = topic_prefix + USAGE_RECORDED.name
    async with bench.windows() as life:
        first = await bench.use("acme", range(1))
        setattr(registry, trouble, True)
        for number in range(20):
            unknown = (
                b"\x00" + (70 + number % 3).to_bytes(4, "big") + bench.codec.encode(USAGE_RECORDED, usage(1, "x"))[5:]
            )
            await bench.producer.send(ProducerRecord(topic, unknown, b"acme"))
        cost = await bench.use("acme", range(1, 20))
        await bench.spent_today("acme", cost + first)
        setattr(registry, trouble, False)
        registry.put(70, "test.x", schema_text(UsageRecorded))
        await asyncio.sleep(1)
        # The first one lets it ask again, and may be passed over.
        passed_over = bench.counted("passed_over")
        cost = cost_of_all("late", range(1, 2))
        late = b"\x00" + (70).to_bytes(4, "big") + bench.codec.encode(USAGE_RECORDED, usage(1, "late"))[5:]
        for _ in range(2):
            await bench.producer.send(ProducerRecord(topic, late, b"acme"))
            await asyncio.sleep(1)
        added = 2 - int(bench.counted("passed_over") - passed_over)
        assert added in {1, 2}
        await bench.spent_today("late", added * cost)
        assert not life.done()
