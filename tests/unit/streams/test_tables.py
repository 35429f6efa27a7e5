"""A compacted topic held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.events import AccessKey
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import ACCESS_KEYS
from headrace_streams.errors import LeaveGroup, TopicMissing
from headrace_streams.memory import Ailment, MemoryCluster, MemoryLog
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_streams.tables import Table

TOPIC = "test.access.keys"


class Registry(MemoryRegistry):
    away = False

    async def schema(self, schema_id: int) -> str | None:
        if self.away:
            raise RegistryUnavailable("the registry is away")
        return await super().schema(schema_id)


class Bench:
    def __init__(self, partitions: int = 2) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic(TOPIC, partitions)
        self.log = MemoryLog(self.cluster)
        self.registry = Registry()
        self.codec = Codec(self.registry, "test.")
        self.publisher = Publisher(self.log.producer(), self.codec, "test")
        self.opened: list[Table[AccessKey]] = []
        self.changes: list[tuple[str, str | None]] = []

    async def put(self, *names: str, tenant: str = "acme") -> None:
        await asyncio.gather(*[self.publisher.send(self._publication(name, tenant)) for name in names])

    async def remove(self, name: str) -> None:
        await self.publisher.send_tombstone(ACCESS_KEYS, name.encode())

    def table(self, codec: Codec | None = None) -> Table[AccessKey]:
        table: Table[AccessKey] = Table(self.log, codec or self.codec, ACCESS_KEYS, self._changed)
        self.opened.append(table)
        return table

    async def started(self) -> Table[AccessKey]:
        table = self.table()
        await table.start()
        return table

    def _changed(self, key: str, event: AccessKey | None) -> None:
        self.changes.append((key, None if event is None else event.tenant))

    @staticmethod
    def _publication(name: str, tenant: str) -> Publication:
        event = AccessKey(key_id=name, tenant=tenant, name=name, secret_hash="h", created_at=1)
        return Publication(
            spec=ACCESS_KEYS, event=event, event_id=name, key=name.encode(), tenant=tenant, time_ms=1,
        )  # fmt: skip


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.codec.prepare([ACCESS_KEYS], register=True)
    yield bench
    for table in bench.opened:
        await table.close()


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a table does not report that nothing has changed
            await asyncio.sleep(0)


async def test_an_empty_topic_is_an_empty_table_at_once(bench: Bench) -> None:
    async with asyncio.timeout(0.5):
        table = await bench.started()
    assert dict(table.items()) == {}
    assert table.get("a") is None


async def test_started_means_that_all_is_there(bench: Bench) -> None:
    names = [f"k{number}" for number in range(3000)]
    await bench.put(*names)
    await bench.put("k7", tenant="new")
    await bench.remove("k8")
    table = await bench.started()
    assert table.items().keys() == set(names) - {"k8"}
    seventh = table.get("k7")
    assert seventh is not None
    assert seventh.tenant == "new"


async def test_later_changes_follow(bench: Bench) -> None:
    await bench.put("a", "b")
    table = await bench.started()
    view = table.items()
    await bench.put("a", tenant="other")
    await bench.remove("b")
    await bench.put("c")
    await soon(lambda: set(view) == {"a", "c"})
    assert set(bench.changes[2:]) == {("a", "other"), ("b", None), ("c", "acme")}


async def test_a_change_shows_in_the_table_before_it_is_told(bench: Bench) -> None:
    seen: list[str | None] = []
    table: Table[AccessKey] = Table(
        bench.log, bench.codec, ACCESS_KEYS, lambda key, _: seen.append(key if table.get(key) else None)
    )
    bench.opened.append(table)
    await bench.put("a")
    await bench.remove("a")
    await table.start()
    assert seen == ["a", None]


async def test_what_retention_removes_without_telling_anybody_expires(bench: Bench) -> None:
    now = 1_000
    lives = {"acme": 100, "new": 5_000}
    table: Table[AccessKey] = Table(
        bench.log, bench.codec, ACCESS_KEYS, bench._changed,
        expires_at=lambda key: 1_000 + lives[key.tenant], clock_ms=lambda: now,
    )  # fmt: skip
    bench.opened.append(table)
    await bench.put("a", "b", "c")
    await table.start()
    await bench.put("b", tenant="new")
    await soon(lambda: ("b", "new") in bench.changes)
    now = 1_099
    await bench.put("d", tenant="new")
    await soon(lambda: table.get("d") is not None)
    assert set(table.items()) == {"a", "b", "c", "d"}
    now = 1_100
    await bench.put("e", "f", tenant="new")
    await soon(lambda: set(table.items()) == {"b", "d", "e", "f"})
    assert {("a", None), ("c", None)} <= set(bench.changes)
    await bench.put("a", tenant="new")
    await bench.put("g")
    await soon(lambda: ("g", None) in bench.changes)
    assert set(table.items()) == {"a", "b", "d", "e", "f"}, "one that has expired when it is read is not kept"
    now = 6_000
    await bench.remove("b")
    await soon(lambda: not table.items())
    assert not table._due
    assert not table._looked_after


async def test_a_compacted_end_does_not_keep_it_from_starting(bench: Bench) -> None:
    await bench.put("a", "b")
    await bench.put("a", "b")
    # The last record of the log is gone, as the cleaner takes tombstones in the end.
    for number in range(2):
        partition = bench.cluster.partition(TopicPartition(TOPIC, number))
        partition.records = partition.records[:-1]
    async with asyncio.timeout(30):
        await bench.started()


async def test_what_cannot_be_read_leaves_its_key_as_it_was(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.put("a")
    bench.cluster.append(ProducerRecord(TOPIC, b"no event", b"a"))
    bench.cluster.append(ProducerRecord(TOPIC, b"no key", None, 0))
    table = await bench.started()
    await bench.put("b")
    await soon(lambda: table.get("b") is not None)
    assert table.get("a") is not None
    assert "kept the former value of a in table access.keys" in caplog.text
    assert "has no key" in caplog.text


async def test_a_registry_that_is_away_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_streams.holding._PAUSE_SECONDS", 0.01)
    await bench.put("a")
    bench.registry.away = True
    table = bench.table(Codec(bench.registry, "test."))
    starting = asyncio.create_task(table.start())
    await asyncio.sleep(0.05)
    assert not starting.done()
    bench.registry.away = False
    await starting
    assert table.get("a") is not None


async def test_a_missing_topic_is_said_to_be_missing() -> None:
    log = MemoryLog(MemoryCluster())
    table: Table[AccessKey] = Table(log, Codec(MemoryRegistry(), "test."), ACCESS_KEYS)
    with pytest.raises(TopicMissing, match=r"test.access.keys"):
        await table.start()
    await table.close()


async def test_broken_following_is_told(bench: Bench) -> None:
    await bench.put("a")
    table = await bench.started()
    bench.cluster.sicken(TopicPartition(TOPIC, 0), reads=Ailment(LeaveGroup("not authorised")))
    await bench.put("b")
    async with asyncio.timeout(30):
        with pytest.raises(LeaveGroup):
            await table.failure
    assert table.get("a") is not None


@pytest.mark.parametrize("error", [LookupError("what a user wrote"), ValueError(), RecursionError()])
async def test_an_error_of_whoever_is_told_costs_that_change(
    bench: Bench, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    told: list[str] = []

    def refuse(key: str, _: AccessKey | None) -> None:
        if key.startswith("bad"):
            raise error
        told.append(key)

    await bench.put("bad-1", "a")
    table: Table[AccessKey] = Table(bench.log, bench.codec, ACCESS_KEYS, refuse)
    bench.opened.append(table)
    await table.start()
    await bench.put("bad-2")
    await bench.put("b")
    await soon(lambda: "b" in told)
    await soon(lambda: table.get("bad-2") is not None)
    assert not table.failure.done()
    assert f"a change of bad-1 in table access.keys was not taken: {type(error).__name__}" in caplog.text
    assert "user wrote" not in caplog.text


@pytest.mark.parametrize("error", [ValueError, MemoryError, AttributeError])
async def test_an_error_of_any_kind_in_reading_leaves_the_key_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    read = bench.codec.read

    async def failing(record: Any, value: bytes | None, origin: Origin) -> Any:
        if value == b"special":
            raise error
        return await read(record, value, origin)

    monkeypatch.setattr(bench.codec, "read", failing)
    bench.cluster.append(ProducerRecord(TOPIC, b"special", b"a"))
    table = await bench.started()
    await bench.put("a")
    await soon(lambda: table.get("a") is not None)
    assert not table.failure.done()


async def test_a_closed_table_no_longer_follows(bench: Bench) -> None:
    table = await bench.started()
    await table.close()
    await table.close()
    await bench.put("a")
    await asyncio.sleep(0.01)
    assert table.get("a") is None
    assert not table.failure.done()
