"""Skills that were revoked long ago leave the catalog, and nobody misses that they are gone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from headrace_contracts.events import SkillChange, SkillStatus
from headrace_contracts.topics import SKILLS_CATALOG, SKILLS_SUBMITTED
from headrace_skill_broadcaster import service
from headrace_skill_broadcaster.adapters.catalog_records import tombstone
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.memory import NetworkRequest, Operation
from headrace_streams.partitioning import partition_of
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing.skill_broadcaster import PARTITIONS, Installation

Eventually = Callable[..., Awaitable[None]]
MONTH = SkillLimits().revoked_ms
INTERESTS = ("testing",)


async def revoked(installation: Installation, eventually: Eventually, *names: str) -> None:
    """Skills that were published, changed and revoked."""
    for name in names:
        await installation.submit(name, "one", interests=INTERESTS)
        await installation.submit(name, "two", interests=INTERESTS)
        await installation.submit(name, None)
    await eventually(lambda: sum(event.change is SkillChange.REVOKED for event in installation.feed()) == len(names))


def tombstones(installation: Installation) -> list[str]:
    return sorted(
        (record.key or b"").decode() for record in installation.records(SKILLS_CATALOG) if record.value is None
    )


def neighbours(count: int) -> list[str]:
    """Names of skills in one partition of the catalog."""
    partitions: dict[int, list[str]] = {}
    number = 0
    while not any(len(names) == count for names in partitions.values()):
        name = f"skill-{number}"
        number += 1
        partitions.setdefault(partition_of(f"acme/{name}".encode(), PARTITIONS), []).append(name)
    return next(names for names in partitions.values() if len(names) == count)


@pytest.mark.parametrize("how", ["running", "killed", "stopped"])
async def test_what_was_revoked_long_ago_is_forgotten_and_comes_back_with_a_higher_version(
    installation: Installation, eventually: Eventually, how: str
) -> None:
    first = await installation.run(sweep_seconds=0.1)
    *gone, anchor = neighbours(4)
    client = await first.api(installation.key())
    async with client.get("/v1/skills/feed", params={"interest": "testing"}) as stream:
        heard: list[tuple[str, int, str]] = []

        async def listen() -> None:
            async for raw in stream.content:
                name, _, value = raw.decode().partition(": ")
                if name == "data":
                    said = json.loads(value)
                    heard.append((said["name"], said["version"], said["change"]))

        listening = asyncio.create_task(listen())
        await revoked(installation, eventually, *gone, anchor)
        assert (await client.get(f"/v1/skills/{gone[0]}")).status == 200
        assert tombstones(installation) == []
        installation.ahead_ms = MONTH
        await eventually(lambda: tombstones(installation) == sorted(f"acme/{name}" for name in gone))
        await eventually(lambda: len(first.view) == 1)
        assert first.view.held_by("acme").skills == 1
        assert (await client.get(f"/v1/skills/{gone[0]}")).status == 404
        assert (await client.delete(f"/v1/skills/{gone[0]}")).status == 404
        found = await (await client.get("/v1/skills", params={"q": "skill"})).json()
        assert found["skills"] == []
        if how == "running":
            await installation.submit(gone[0], "three", interests=INTERESTS)
            # The agent has seen version 1 to 3 of it; this is another one.
            await eventually(lambda: (gone[0], 4, "published") in heard)
        listening.cancel()
    if how != "running":
        await first.submissions.drain() if how == "stopped" else first.kill()
        await installation.run("two")
        await installation.submit(gone[0], "three", interests=INTERESTS)
        await eventually(lambda: f"acme/{gone[0]}" in installation.catalog())
    entry = installation.catalog()[f"acme/{gone[0]}"]
    assert (entry.version, entry.status, [past.version for past in entry.history]) == (4, SkillStatus.LIVE, [4])
    # What was never there begins with 1 elsewhere, and above what is forgotten here: it may have been there.
    await installation.submit("of-umbra", tenant="umbra", interests=INTERESTS)
    await eventually(lambda: "umbra/of-umbra" in installation.catalog())
    assert installation.catalog()["umbra/of-umbra"].version == 1
    # Submitted long ago, and recorded by somebody.
    for record in installation.records(SKILLS_SUBMITTED):
        if record.key == f"acme/{gone[1]}".encode():
            installation.cluster.append(ProducerRecord(record.topic, record.value, record.key))
    await eventually(lambda: len(installation.dead_letters()) == 3)
    assert f"acme/{gone[1]}" not in installation.catalog()


async def test_a_late_tombstone_removes_nothing_that_was_published_since(
    installation: Installation, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_IDLE_POLLS_BEFORE_CHECK", 1)
    process = await installation.run()
    await installation.submit("retry", "one")
    await installation.submit("retry", "two")
    await eventually(lambda: len(installation.catalog()) == 1)
    record = installation.records(SKILLS_CATALOG)[-1]
    where = TopicPartition(record.topic, record.partition)
    installation.cluster.append(tombstone(where, "acme/retry", 1))
    await eventually(lambda: process.view.by_key("acme/retry") is not None and len(installation.catalog()) == 1)
    assert installation.catalog()["acme/retry"].version == 2
    # An operator's names no version.
    installation.cluster.append(ProducerRecord(where.topic, None, b"acme/retry", where.partition))
    await eventually(lambda: process.view.by_key("acme/retry") is None)
    await asyncio.sleep(1.2)
    assert installation.catalog() == {}


class Failing:
    """A way to the cluster on which appends to the catalog fail, before they are made or after, `times` times."""

    def __init__(self, error: Exception, after: bool) -> None:
        self.times = 0
        self._error = error
        self._after = after

    async def call(self, request: NetworkRequest, perform: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        if request.operation is not Operation.APPEND or not self.times:
            return perform()
        if all(not partition.topic.endswith(SKILLS_CATALOG.name) for partition in request.partitions):
            return perform()
        self.times -= 1
        if self._after:
            perform()
        raise self._error


@pytest.mark.parametrize(
    ("error", "after"),
    [(TransientError("no"), False), (AppendUncertain("lost"), False), (AppendUncertain("answer lost"), True)],
)
async def test_a_failing_log_only_delays_it(
    installation: Installation, eventually: Eventually, error: Exception, after: bool
) -> None:
    network = Failing(error, after)
    process = await installation.make("one", network, sweep_seconds=0.05).start()
    *gone, anchor = neighbours(4)
    await revoked(installation, eventually, *gone, anchor)
    network.times = 3
    installation.ahead_ms = MONTH
    await eventually(lambda: set(installation.catalog()) == {f"acme/{anchor}"})
    assert network.times < 3
    await installation.submit(gone[2], "three", interests=INTERESTS)
    # Not that both are there: the next sweep forgets the one that stayed, since this one holds the position now.
    await eventually(lambda: process.view.by_key(f"acme/{gone[2]}") is not None)
    assert installation.catalog()[f"acme/{gone[2]}"].version == 4
