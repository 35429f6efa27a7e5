"""A registry that is silent, emptied, restored or replaced, for as long as it lasts: what is not concerned goes on.

Each time it is mended without a restart, and each submission is catalogued once, each attempt paid once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from headrace_contracts import schema_lookups, topics
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.events import AccessKey, AttemptRequested, DeadLetter, SkillAction, SkillSubmitted
from headrace_contracts.topics import (
    ACCESS_KEYS,
    AUDIT_RECORDED,
    SKILLS_CATALOG,
    SKILLS_SUBMITTED,
    TASKS_CANCELLED,
    TOPICS,
)
from headrace_skill_broadcaster import service
from headrace_streams import holding
from headrace_streams.publishing import Publication
from headrace_streams.records import ProducerRecord
from headrace_streams.tables import Table
from headrace_testing.lasting import tasks_of
from headrace_testing.router_twin import Twin
from headrace_testing.skill_broadcaster import PARTITIONS, Installation, skill_installation
from headrace_testing.unruly_registry import UnrulyRegistry
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy, now_ms

UNKNOWN = 900
SUBMITTED = "t." + SKILLS_SUBMITTED.name


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> UnrulyRegistry:
    monkeypatch.setattr(schema_lookups, "LOOKUP_SECONDS", 0.3)
    monkeypatch.setattr(schema_lookups, "NEGATIVE_SECONDS", 0.5)
    monkeypatch.setattr(service, "_SOON_SECONDS", 0.1)
    monkeypatch.setattr(holding, "_PAUSE_SECONDS", 0.05)
    return UnrulyRegistry()


@pytest.fixture
async def installation(registry: UnrulyRegistry) -> AsyncIterator[Installation]:
    async with skill_installation(registry) as made:
        yield made


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


def submission(codec: Codec, name: str, partition: int, schema_id: int | None = None) -> ProducerRecord:
    event = SkillSubmitted(
        submission_id=f"s-{name}",
        tenant="acme",
        name=name,
        action=SkillAction.PUBLISH,
        body=plain("body"),
        submitted_at=now_ms(),
    )
    value = codec.encode(SKILLS_SUBMITTED, event)
    if schema_id is not None:
        value = b"\x00" + schema_id.to_bytes(4, "big") + value[5:]
    return ProducerRecord(SUBMITTED, value, f"acme/{name}".encode(), partition)


def catalogued(installation: Installation) -> list[str]:
    return [
        (record.key or b"").decode().removeprefix("acme/")
        for record in installation.cluster.records("t." + SKILLS_CATALOG.name)
    ]


def letters(installation: Installation) -> int:
    return len(installation.cluster.records(f"{SUBMITTED}.dlq"))


@pytest.mark.parametrize("trouble", ["silent", "away"])
async def test_an_unknown_id_and_no_answer_hold_up_one_partition(
    installation: Installation, registry: UnrulyRegistry, trouble: str
) -> None:
    process = await installation.run()
    codec = installation.codec
    await until(lambda: len(process.submissions._keepers) == PARTITIONS)
    setattr(registry, trouble, True)
    installation.cluster.append(submission(codec, "unknown", 0, UNKNOWN), now_ms())
    names = [f"n{number}" for number in range(60)]
    for number, name in enumerate(names):
        installation.cluster.append(submission(codec, name, number % PARTITIONS), now_ms())
        await asyncio.sleep(0.01)
    others = {name for number, name in enumerate(names) if number % PARTITIONS}
    await until(lambda: others <= set(catalogued(installation)), 5)
    assert set(catalogued(installation)) == others
    assert letters(installation) == 0
    setattr(registry, trouble, False)
    await until(lambda: len(catalogued(installation)) == len(names))
    assert sorted(catalogued(installation)) == sorted(names)
    await until(lambda: letters(installation) == 1)
    (letter,) = installation.dead_letters()
    assert "the registry does not know it" in letter.error_message


async def test_an_id_that_is_registered_late_is_read_when_it_is_there(
    installation: Installation, registry: UnrulyRegistry
) -> None:
    await installation.run()
    registry.silent = True
    installation.cluster.append(submission(installation.codec, "late", 1, UNKNOWN), now_ms())
    await asyncio.sleep(0.6)
    registry.silent = False
    registry.put(UNKNOWN, "t.skills.submitted-value", schema_text(SkillSubmitted))
    await until(lambda: catalogued(installation) == ["late"])
    assert letters(installation) == 0


async def test_a_flood_of_unknown_ids_costs_its_own_partition(
    installation: Installation, registry: UnrulyRegistry
) -> None:
    await installation.run()
    codec = installation.codec
    flood = [submission(codec, f"f{number}", 0, 10_000 + number) for number in range(800)]
    names = [f"n{number}" for number in range(40)]
    for record in flood:
        installation.cluster.append(record, now_ms())
    for number, name in enumerate(names):
        installation.cluster.append(submission(codec, name, 1 + number % (PARTITIONS - 1)), now_ms())
    await until(lambda: len(catalogued(installation)) == len(names), 5)
    await until(lambda: letters(installation) == len(flood), 60)
    assert registry.most_waiting <= 4
    assert len({(each.partition, each.offset) for each in installation.dead_letters()}) == len(flood)
    installation.cluster.append(submission(codec, "after", 0), now_ms())
    await until(lambda: "after" in catalogued(installation))


@pytest.mark.parametrize("loss", ["wiped", "forgotten", "reused"])
async def test_lost_ids_are_written_by_nobody_until_they_are_back(
    installation: Installation, registry: UnrulyRegistry, loss: str
) -> None:
    await installation.run()
    codec = installation.codec
    before, meanwhile = (
        [submission(codec, f"{when}{number}", number % PARTITIONS) for number in range(12)] for when in "ab"
    )
    for record in before:
        installation.cluster.append(record, now_ms())
    await until(lambda: len(catalogued(installation)) == 12)
    ids = {name: await registry.id_of(f"t.{spec.subject}", schema_text(spec.record)) for name, spec in TOPICS.items()}
    lost = ids[SKILLS_CATALOG.name]
    if loss == "wiped":
        registry.wipe()
    elif loss == "forgotten":
        registry.forget(lost)
    else:
        registry.wipe()
        registry.put(lost, "t.other-value", schema_text(AttemptRequested))
    # Nothing here may register: services do not.
    for written in codec._written.by_name.values():
        written.may_register = False
    await codec.check()
    assert SKILLS_CATALOG.subject in (codec.trouble or "") or codec.subjects_lost > 1
    for record in meanwhile:
        installation.cluster.append(record, now_ms())
    await asyncio.sleep(0.5)
    assert len(catalogued(installation)) == 12
    # `headrace schemas repair`
    registry.wipe()
    for name, spec in TOPICS.items():
        registry.put(ids[name], f"t.{spec.subject}", schema_text(spec.record))
    await codec.check()
    await until(lambda: len(catalogued(installation)) == 24)
    assert codec.trouble is None
    assert letters(installation) == 0
    assert len(set(catalogued(installation))) == 24
    fresh = Codec(registry, "t.")
    for appended in installation.cluster.records("t." + SKILLS_CATALOG.name):
        origin = Origin(appended.topic, appended.partition, appended.offset)
        assert await fresh.read(SKILLS_CATALOG.record, appended.value, origin)


async def test_shuffled_ids_are_written_anew_and_what_was_read_before_stays_readable(
    installation: Installation, registry: UnrulyRegistry
) -> None:
    await installation.run()
    codec = installation.codec
    old = [submission(codec, f"a{number}", number % PARTITIONS) for number in range(6)]
    for by in (1, 5, 11):
        registry.shuffle(by)
        await codec.check()
        assert codec.trouble is None
        name = f"n{by}"
        installation.cluster.append(submission(codec, name, by % PARTITIONS), now_ms())
        await until(lambda name=name: name in catalogued(installation))  # type: ignore[misc]
    # With the ids of the beginning, which this process remembers.
    for record in old:
        installation.cluster.append(record, now_ms())
    await until(lambda: len(catalogued(installation)) == 9)
    assert letters(installation) == 0


@pytest.mark.parametrize("loss", ["wiped", "forgotten", "shuffled"])
async def test_a_worker_keeps_the_end_of_an_attempt_and_pays_once(registry: UnrulyRegistry, loss: str) -> None:
    bench = WorkerBench(registry=registry)
    await bench.prepare()
    for written in bench.codec._written.by_name.values():
        written.may_register = False
    provider = ScriptedProvider()
    record = bench.submit(attempt())
    ids = {each.name: await registry.id_of(f"headrace.{each.subject}", schema_text(each.record))
           for each in (topics.ATTEMPTS_FINISHED, topics.USAGE_RECORDED)}  # fmt: skip
    match loss:
        case "wiped":
            registry.wipe()
        case "forgotten":
            registry.forget(ids[topics.ATTEMPTS_FINISHED.name])
            registry.forget(ids[topics.USAGE_RECORDED.name])
        case "shuffled":
            registry.shuffle(3)
    await bench.codec.check()
    handling = asyncio.create_task(bench.runner([healthy(provider)]).handle(record))
    await asyncio.sleep(0.3)
    assert handling.done() == (loss == "shuffled")
    if loss != "shuffled":
        assert bench.records(topics.ATTEMPTS_FINISHED) == []
        for spec in (topics.ATTEMPTS_FINISHED, topics.USAGE_RECORDED):
            registry.put(ids[spec.name], f"headrace.{spec.subject}", schema_text(spec.record))
        with_all = Codec(registry, "headrace.")
        await with_all.prepare(TOPICS.values(), register=True)
        await bench.codec.check()
    async with asyncio.timeout(20):
        await handling
    assert len(provider.asked) == 1
    assert len(bench.read(topics.ATTEMPTS_FINISHED)) == 1
    assert len(bench.read(topics.USAGE_RECORDED)) == 1


@pytest.mark.parametrize("trouble", ["silent", "away"])
async def test_a_table_keeps_the_former_value_of_one_key_and_follows_the_others(
    registry: UnrulyRegistry, trouble: str
) -> None:
    bench = WorkerBench(registry=registry)
    await bench.prepare()

    def put(name: str, tenant: str, schema_id: int | None = None) -> None:
        event = AccessKey(key_id=name, tenant=tenant, name=name, secret_hash="h", created_at=1)
        value = bench.codec.encode(ACCESS_KEYS, event)
        if schema_id is not None:
            value = b"\x00" + schema_id.to_bytes(4, "big") + value[5:]
        bench.cluster.append(ProducerRecord("headrace." + ACCESS_KEYS.name, value, name.encode()), now_ms())

    put("a", "first")
    table: Table[AccessKey] = Table(bench.log, bench.codec, ACCESS_KEYS)
    await table.start()
    setattr(registry, trouble, True)
    put("a", "unknown", UNKNOWN)
    put("a", "last")
    for number in range(20):
        put(f"k{number}", "acme")
    await until(lambda: len(table.items()) == 21, 5)
    held = table.get("a")
    assert held is not None
    assert held.tenant == "first"
    setattr(registry, trouble, False)
    await until(lambda: (found := table.get("a")) is not None and found.tenant == "last")
    await table.close()


async def test_nothing_is_queued_while_an_id_is_lost(registry: UnrulyRegistry) -> None:
    bench = WorkerBench(registry=registry)
    await bench.prepare()
    for written in bench.codec._written.by_name.values():
        written.may_register = False
    registry.wipe()
    await bench.codec.check()
    event = TOPICS[TASKS_CANCELLED.name].record(task_id="t", tenant="acme", requested_at=1)
    publication = Publication(
        spec=TASKS_CANCELLED, event=event, event_id="e", key=b"k", tenant="acme", time_ms=1
    )  # fmt: skip
    with pytest.raises(Exception, match=r"registry has no schema under its id .*headrace schemas repair") as caught:
        await bench.publisher.send(publication)
    assert isinstance(caught.value.__cause__, RegistryUnavailable)
    assert bench.records(TASKS_CANCELLED) == []


@pytest.mark.parametrize("topic", ["audit.recorded", "work.local.batch", "tasks.completed"])
async def test_a_router_keeps_what_it_cannot_encode_until_the_schema_is_back(
    registry: UnrulyRegistry, topic: str
) -> None:
    async with Twin(partitions=2, registry=registry) as twin:
        twin.work()
        router = twin.router()
        await twin.until(lambda: len(router.service.partitions) == 2)
        spec = TOPICS[topic]
        text = schema_text(spec.record)
        lost = await registry.id_of(twin.codec.topic_prefix + spec.subject, text)
        for written in twin.codec._written.by_name.values():
            written.may_register = False
        registry.forget(lost)
        await twin.codec.check()
        sent = [task for number in range(2) for task in tasks_of(number, 3, partitions=2, name="kept")]
        await twin.submit(*sent)
        await twin.until(lambda: len({entry.task_id for entry in twin.journal()} & {t.task_id for t in sent}) == 6)
        await twin.quiet()
        assert not twin.written(spec)
        # `headrace schemas repair`
        for name, each in TOPICS.items():
            if schema_text(each.record) == text:
                registry.put(lost, twin.codec.topic_prefix + TOPICS[name].subject, text)
        await twin.codec.check()
        await twin.until_completed(sent)
        await twin.until(lambda: len({event.task_id for event in twin.written(AUDIT_RECORDED)}) == 6)
        assert {len(found) for found in twin.completed().values()} == {1}


@pytest.mark.parametrize(
    "topic", ["tasks.submitted", "tasks.cancelled", "attempts.finished", "attempts.finished.cloud"]
)
async def test_a_router_goes_on_with_the_partitions_beside_a_flood_of_unknown_ids(
    registry: UnrulyRegistry, topic: str
) -> None:
    async with Twin(partitions=3, registry=registry) as twin:
        twin.work()
        router = twin.router()
        await twin.until(lambda: len(router.service.partitions) == 3)
        name = twin.codec.topic_prefix + topic
        dead = f"{name}.dlq"
        for number in range(300):
            value = b"\x00" + (10_000 + number).to_bytes(4, "big") + b"\x02x"
            twin.cluster.append(ProducerRecord(name, value, b"flood", 0), now_ms())
        began = time.monotonic()
        others = [task for number in (1, 2) for task in tasks_of(number, 5, partitions=3, name="beside")]
        await twin.submit(*others)
        await twin.until_completed(others, 5)
        behind = tasks_of(0, 2, partitions=3, name="behind")
        await twin.submit(*behind)
        await twin.until_completed(behind)
        # One may be written twice when it is uncertain whether it was.
        wanted = set(range(300))
        await twin.until(
            lambda: {twin.decode(DeadLetter, each).offset for each in twin.cluster.records(dead)} == wanted
        )
        # A hundred a second.
        assert time.monotonic() - began < 20
