"""A home partition in lasting trouble: the others go on, it says what it has, and it heals without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from headrace_contracts import topics
from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.events import EntryKind, JournalEntry, TaskCancelled
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_router.partition import PartitionRouter
from headrace_streams.errors import AppendUncertain, RecordRefused, TransientError
from headrace_streams.memory.ailments import HANGS, Ailment
from headrace_streams.publishing import Publication
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing import routing
from headrace_testing.lasting import ended, others_go_on, says, tasks_of
from headrace_testing.router_twin import PREFIX, Router, Twin, key_of, now_ms

PARTITIONS = 4
SICK = 1


def at(name: str, partition: int = SICK) -> TopicPartition:
    return TopicPartition(PREFIX + name, partition)


async def started(twin: Twin, in_flight: int = 1000, **limits: Any) -> Router:
    router = twin.router(in_flight=in_flight, **{"longest_wait_seconds": 0.2, "assign_seconds": 0.2, **limits})
    twin.work()
    await twin.until(lambda: len(router.service.partitions) == PARTITIONS)
    return router


def once(twin: Twin) -> bool:
    return {len(found) for found in twin.completed().values()} == {1}


AILMENTS = {
    "hangs": HANGS,
    "refuses for now": Ailment(TransientError("not enough replicas")),
    "times out": Ailment(AppendUncertain("no acknowledgement"), after_seconds=0.2),
    "appends and loses the answer": Ailment(AppendUncertain("the connection broke"), performed=True),
    "refuses": Ailment(RecordRefused("policy violation")),
}


@pytest.mark.parametrize("ailment", AILMENTS.values(), ids=AILMENTS.keys())
async def test_a_journal_that_takes_no_appends(ailment: Ailment) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        twin.cluster.sicken(at("tasks.journal"), appends=ailment)
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="during")
        if ailment.error is not None:
            await twin.until(lambda: SICK not in router.service.partitions or bool(router.service.health()))
        again = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="later")
        twin.cluster.heal(at("tasks.journal"))
        await twin.until_completed([*bad, *again])
        await twin.quiet()
        assert once(twin)
        await twin.until(lambda: router.service.health() is None)


@pytest.mark.parametrize("sense", ["appends", "reads", "bounds"])
@pytest.mark.parametrize("ailment", [HANGS, Ailment(TransientError("no leader"))], ids=["hangs", "fails"])
async def test_a_partition_that_cannot_be_taken_over(sense: str, ailment: Ailment) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.cluster.sicken(at("tasks.journal"), **{sense: ailment})
        router = twin.router(longest_wait_seconds=0.2, assign_seconds=0.2)
        twin.work()
        await twin.until(lambda: len(router.service.partitions) == PARTITIONS - 1)
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="during")
        (sick,) = [each for each in router.service.statuses() if each.partition == SICK]
        assert sick.phase in ("recovering", "suspended")
        assert sick.reason
        assert sick.unwell_for > 0
        assert ended(twin, bad) == 0
        twin.cluster.heal(at("tasks.journal"))
        await twin.until_completed(bad)
        await twin.quiet()
        assert once(twin)
        assert router.service.health() is None


def _wrong_type(twin: Twin) -> bytes:
    return twin.codec.encode(topics.TASKS_CANCELLED, TaskCancelled(task_id="x", tenant="a", requested_at=now_ms()))


def _cut_off(twin: Twin) -> bytes:
    whole = twin.codec.encode(
        topics.TASKS_JOURNAL, JournalEntry(kind=EntryKind.DECISION, task_id="x" * 40, decided_at=now_ms())
    )
    return whole[:20]


JUNK: dict[str, Callable[[Twin], bytes]] = {
    "one byte": lambda _: b"\x07",
    "no bytes": lambda _: b"",
    "an unknown schema": lambda _: b"\x00\x00\x0f\x42\x3f" + b"\x00" * 20,
    "another type": _wrong_type,
    "an entry cut off": _cut_off,
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
@pytest.mark.parametrize("running", [True, False], ids=["while running", "before the start"])
async def test_a_journal_with_a_record_that_cannot_be_read(junk: Callable[[Twin], bytes], running: bool) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        before = tasks_of(SICK, 5, partitions=PARTITIONS, name="before")
        router = await started(twin)
        await twin.submit(*before)
        await twin.until_completed(before)
        if not running:
            await router.stop()
        offset = twin.cluster.append(ProducerRecord(PREFIX + "tasks.journal", junk(twin), b"x", SICK)).offset
        if not running:
            router = twin.router("another", longest_wait_seconds=0.2, assign_seconds=0.2)
            await twin.until(lambda: len(router.service.partitions) == PARTITIONS - 1)
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="during")
        await twin.until(lambda: SICK not in router.service.partitions)
        said = [each.reason or "" for each in router.service.statuses() if each.partition == SICK]
        await twin.until(
            lambda: any(
                f"headrace journal skip {SICK} {offset} --reason" in (each.reason or "")
                for each in router.service.statuses()
            )
        )
        assert said
        assert ended(twin, bad) == 0
        skip = JournalEntry(
            kind=EntryKind.SKIP, owner="eve@desk", skipped_offset=offset, note="junk", decided_at=now_ms()
        )
        await twin.publisher.send(
            Publication(
                spec=topics.TASKS_JOURNAL, event=skip, event_id="skip", key=b"skip", tenant="", time_ms=now_ms(),
                partition=SICK,
            )
        )  # fmt: skip
        await twin.until_completed(bad)
        await twin.quiet()
        assert once(twin)
        assert router.service.health() is None


class _Registry(MemoryRegistry):
    """A registry that can fall silent, or answer with errors."""

    trouble: str | None = None

    async def schema(self, schema_id: int) -> str | None:
        if self.trouble == "silent":
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise RegistryUnavailable(f"schema registry: {self.trouble}")
        return await super().schema(schema_id)


@pytest.mark.parametrize("trouble", ["silent", "connection refused", "500"])
async def test_a_registry_that_does_not_answer_and_a_schema_that_is_not_known(trouble: str) -> None:
    registry = _Registry()
    async with Twin(partitions=PARTITIONS, registry=registry) as twin:
        router = await started(twin)
        # The ids that the router needs for its own records are known; one that it has not met is not.
        registry.trouble = trouble
        twin.cluster.append(
            ProducerRecord(PREFIX + "tasks.submitted", b"\x00\x00\x00\x03\xe7" + b"\x02x" * 40, b"k", SICK)
        )
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="during")
        assert ended(twin, bad) == 0
        await twin.until(
            lambda: any("its input waits" in (each.reason or "") for each in router.service.statuses()), 10
        )
        registry.trouble = None
        await twin.until_completed(bad)
        await twin.quiet()
        assert once(twin)
        # The registry does not know the id: the record is in the dead letters, and held up nothing for good.
        assert len(twin.cluster.records(PREFIX + "tasks.submitted.dlq")) == 1


@pytest.mark.parametrize(
    "ailment", [HANGS, Ailment(TransientError("no leader")), Ailment(RecordRefused("not authorised"))],
    ids=["hangs", "fails", "refuses"],
)  # fmt: skip
async def test_dead_letters_that_cannot_be_written(ailment: Ailment) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        twin.cluster.sicken(at("tasks.submitted.dlq", 0), appends=ailment)
        twin.cluster.append(ProducerRecord(PREFIX + "tasks.submitted", b"rubbish", b"k", SICK))
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="during")
        assert ended(twin, bad) == 0
        assert SICK in router.service.partitions
        twin.cluster.heal(at("tasks.submitted.dlq", 0))
        await twin.until_completed(bad)
        await twin.quiet()
        assert once(twin)
        # Perhaps twice, if an append was answered too late.
        letters = twin.cluster.records(PREFIX + "tasks.submitted.dlq")
        assert len({dict(letter.headers)["ce_id"] for letter in letters}) == 1


async def test_too_many_defects_suspend_the_partition_instead_of_filling_the_dead_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = PartitionRouter.handle
    broken = True

    def faulty(self: PartitionRouter, event: object, origin: object) -> None:
        if broken and self.partition == SICK:
            raise KeyError("a defect")
        handle(self, event, origin)  # type: ignore[arg-type]

    monkeypatch.setattr(PartitionRouter, "handle", faulty)
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin, failures_per_minute=3, rejoin_seconds=4.0, longest_wait_seconds=30.0)
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="during")
        # More than can be lost until the defect is mended, however slow this machine is.
        more = tasks_of(SICK, 200, partitions=PARTITIONS, name="after")
        await twin.submit(*more)
        bad = [*bad, *more]
        await says_of(router, "records failed within a minute, the last one with KeyError")
        await twin.until(lambda: SICK not in router.service.partitions)
        lost = len(twin.cluster.records(PREFIX + "tasks.submitted.dlq"))
        # Suspended for growing waits, after four in each.
        starts = [entry for entry in twin.journal() if entry.kind is EntryKind.EPOCH_START]
        assert 4 <= lost <= 4 * (len(starts) - PARTITIONS + 1)
        broken = False
        await twin.until(
            lambda: ended(twin, bad) + len(twin.cluster.records(PREFIX + "tasks.submitted.dlq")) >= len(bad), 120
        )
        await twin.quiet()
        assert once(twin)
        assert ended(twin, bad) > 0


async def says_of(router: Router, words: str) -> None:
    async with asyncio.timeout(60):
        while not any(words in (each.reason or "") for each in router.service.statuses()):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("sick", [(0, 1, 2), (1, 2, 3), (0,), (3,)])
async def test_however_many_partitions_are_sick_the_rest_goes_on(sick: tuple[int, ...]) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin, in_flight=64)
        for number in sick:
            twin.cluster.sicken(at("tasks.journal", number), appends=HANGS)
        bad = await others_go_on(twin, sick, partitions=PARTITIONS, name="during", count=60)
        for number in sick:
            twin.cluster.heal(at("tasks.journal", number))
        await twin.until_completed(bad)
        await twin.quiet()
        assert once(twin)
        assert set(router.service.partitions) == set(range(PARTITIONS))


async def test_a_partition_in_trouble_is_handed_over_and_taken_back() -> None:
    """A rebalance while one partition is sick neither waits for it nor loses it."""
    async with Twin(partitions=PARTITIONS, session_timeout=2.0) as twin:
        twin.cluster.sicken(at("tasks.journal"), bounds=HANGS)
        first = twin.router("a", static=False, longest_wait_seconds=0.2, assign_seconds=0.1)
        twin.work()
        await twin.until(lambda: len(first.service.partitions) == PARTITIONS - 1)
        second = twin.router("b", static=False, longest_wait_seconds=0.2, assign_seconds=0.1)
        await twin.until(
            lambda: (
                len(first.service.partitions) + len(second.service.partitions) == PARTITIONS - 1
                and bool(second.service.partitions)
            )
        )
        bad = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="shared")
        await second.stop()
        await twin.until(lambda: len(first.service.partitions) == PARTITIONS - 1)
        more = await others_go_on(twin, [SICK], partitions=PARTITIONS, name="alone")
        twin.cluster.heal(at("tasks.journal"))
        await twin.until_completed([*bad, *more])
        await twin.quiet()
        assert once(twin)


@pytest.mark.parametrize("missing", ["tasks.journal", "tasks.completed", "work.local.batch"])
async def test_partitions_without_companions_wait_alone(missing: str) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        grown = [
            spec.name for spec in topics.TOPICS.values()
            if spec.partitions > 1 and spec.name not in (missing, "tasks.submitted")
        ]  # fmt: skip
        for name in [*grown, "tasks.submitted"]:
            twin.cluster.add_partitions(PREFIX + name, PARTITIONS + 2)
        early = tasks_of(0, 10, partitions=PARTITIONS, name="old")
        await twin.until(lambda: len(router.service.statuses()) == PARTITIONS + 2)
        for task in early:
            await twin.publish(topics.TASKS_SUBMITTED, task, task.task_id, key_of(task), 0)
        await twin.until_completed(early)
        new = [routing.task(f"new-{number}", f"New {number}?", submitted_at=now_ms()) for number in range(8)]
        for number, task in enumerate(new):
            home = PARTITIONS + number % 2
            await twin.publish(topics.TASKS_SUBMITTED, task, task.task_id, key_of(task), home)
        await asyncio.sleep(0.3)
        if missing != "work.local.batch":
            assert ended(twin, new) == 0
        twin.cluster.add_partitions(PREFIX + missing, PARTITIONS + 2)
        await twin.until_completed(new)
        await twin.quiet()
        assert once(twin)
        assert set(router.service.partitions) == set(range(PARTITIONS + 2))


async def test_an_input_that_lacks_a_partition_holds_up_only_that_partition() -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        twin.cluster.add_partitions(PREFIX + "tasks.submitted", PARTITIONS + 1)
        bad = await others_go_on(twin, [PARTITIONS], partitions=PARTITIONS + 1, name="during")
        said = await says(router, f"partition {PARTITIONS} waits for")
        assert "attempts.finished" in said
        assert "tasks.cancelled" in said
        assert ended(twin, bad) == 0
        for spec in topics.TOPICS.values():
            if spec.partitions > 1 and spec.name != "tasks.submitted":
                twin.cluster.add_partitions(PREFIX + spec.name, PARTITIONS + 1)
        await twin.until_completed(bad)
        await twin.quiet()
        assert once(twin)
        assert router.service.health() is None
