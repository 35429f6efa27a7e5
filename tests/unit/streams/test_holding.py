"""A record whose schema is being looked up holds back its own lane, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.events import AccessKey
from headrace_contracts.topics import ACCESS_KEYS
from headrace_streams import holding
from headrace_streams.holding import DecodedInLanes, HeldTooLong
from headrace_streams.records import Record
from headrace_testing.unruly_registry import UnrulyRegistry

UNKNOWN = 70


class Bench:
    def __init__(self) -> None:
        self.registry = UnrulyRegistry()
        self.codec = Codec(self.registry, "test.")
        self.taken: list[tuple[int, int, str]] = []
        self.lanes: DecodedInLanes[AccessKey] = DecodedInLanes(
            "test", self.codec, AccessKey, lambda record: record.partition, self._take
        )

    async def _take(self, record: Record, outcome: AccessKey | Exception) -> None:
        said = type(outcome).__name__ if isinstance(outcome, Exception) else outcome.key_id
        self.taken.append((record.partition, record.offset, said))

    def record(self, partition: int, offset: int, *, schema_id: int | None = None, value: bytes | None = b"") -> Record:
        if value == b"":
            event = AccessKey(key_id="k", tenant="t", name="n", secret_hash="h", created_at=1)
            value = self.codec.encode(ACCESS_KEYS, event)
            if schema_id is not None:
                value = b"\x00" + schema_id.to_bytes(4, "big") + value[5:]
        return Record("test.access.keys", partition, offset, 1, None, value)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(holding, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("headrace_contracts.schema_lookups.LOOKUP_SECONDS", 0.05)
    made = Bench()
    await made.codec.prepare([ACCESS_KEYS], register=True)
    yield made
    await made.lanes.close()


@pytest.mark.parametrize("trouble", ["silent", "away"])
async def test_the_others_go_on_and_the_lane_follows_in_order(bench: Bench, trouble: str) -> None:
    setattr(bench.registry, trouble, True)
    await bench.lanes.put(bench.record(0, 0, schema_id=UNKNOWN))
    for offset in range(1, 4):
        for partition in range(3):
            await bench.lanes.put(bench.record(partition, offset, value=b"?" if offset == 2 else b""))
    assert {partition for partition, _, _ in bench.taken} == {1, 2}
    assert bench.lanes.held == 4
    assert [bench.lanes.is_held(partition) for partition in range(3)] == [True, False, False]
    await asyncio.sleep(0.1)
    setattr(bench.registry, trouble, False)
    bench.registry.put(UNKNOWN, "test.access.keys-value", schema_text(AccessKey))
    async with asyncio.timeout(30):
        await bench.lanes.settled()
    assert [each for each in bench.taken if each[0] == 0] == [(0, 0, "k"), (0, 1, "k"), (0, 2, "BadBytes"), (0, 3, "k")]
    assert bench.lanes.held == 0
    await bench.lanes.put(bench.record(0, 4))
    assert bench.taken[-1] == (0, 4, "k")


async def test_what_the_registry_does_not_know_is_passed_on_as_unreadable(bench: Bench) -> None:
    for offset, schema_id in enumerate([UNKNOWN, None, UNKNOWN + 1, None]):
        await bench.lanes.put(bench.record(0, offset, schema_id=schema_id))
    async with asyncio.timeout(30):
        await bench.lanes.settled()
    assert [said for _, _, said in bench.taken] == ["UnknownSchema", "k", "UnknownSchema", "k"]


async def test_what_waits_takes_limited_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_HELD", 10)
    bench.registry.silent = True
    for offset in range(15):
        await bench.lanes.put(bench.record(offset % 2, offset, schema_id=UNKNOWN))
    assert bench.lanes.held == 10
    assert [said for _, _, said in bench.taken] == [HeldTooLong.__name__] * 5
    monkeypatch.setattr(holding, "MOST_HELD_BYTES", 100)
    await bench.lanes.put(bench.record(0, 20, schema_id=UNKNOWN))
    assert bench.lanes.held < 10


async def test_closing_forgets_what_waits(bench: Bench) -> None:
    bench.registry.silent = True
    await bench.lanes.put(bench.record(0, 0, schema_id=UNKNOWN))
    await bench.lanes.close()
    assert bench.lanes.held == 0
    await bench.lanes.put(bench.record(0, 1))
    assert bench.taken == [(0, 1, "k")]
