"""Tasks and cancellations of producers that may not speak for their tenant: refused, and nothing waits for them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest
from headrace_contracts.events import DeadLetter, Outcome, Place, TaskCancelled, TaskStatus, TaskSubmitted
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_SUBMITTED, TopicSpec, cancelled_topic, dead_letters_of
from headrace_streams.records import ProducerRecord
from headrace_testing import routing
from headrace_testing.router_twin import PREFIX, WORK, Twin, end_of, now_ms
from headrace_testing.signatures import FORGERIES, NEW, OTHERS, TAKEN, Signing, access_key, keys, signed, verification

_QUICK: Final = 0.05


def a_task(name: str) -> TaskSubmitted:
    return routing.task(name, f"Question of {name}?", submitted_at=now_ms())


def write(twin: Twin, spec: TopicSpec, event: Any, headers: Signing, event_id: str) -> None:
    """As a producer of its own, that can set any headers."""
    topic, value = PREFIX + spec.name, twin.codec.encode(spec, event)
    signature = headers(topic, b"key", value)
    twin.cluster.append(
        ProducerRecord(
            topic=topic, value=value, key=b"key", partition=0, headers=(("ce_id", event_id.encode()), *signature)
        )
    )


def letters(twin: Twin, spec: TopicSpec) -> list[DeadLetter]:
    return list(twin.written(dead_letters_of(spec)))


async def test_only_tasks_of_those_who_may_are_run() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        twin.router(producers=verification(keys(), patience_seconds=_QUICK))
        good = {name: a_task(f"good-{number}") for number, name in enumerate(TAKEN)}
        for name, forgery in FORGERIES.items():
            write(twin, TASKS_SUBMITTED, a_task("forged"), forgery.headers, name)
        for name, headers in TAKEN.items():
            write(twin, TASKS_SUBMITTED, good[name], headers, name)
        await twin.until_completed(good.values())
        assert twin.completed().keys() == {task.task_id for task in good.values()}
        kept = {letter.offset: letter for letter in letters(twin, TASKS_SUBMITTED)}
        assert len(kept) == len(FORGERIES) == len(letters(twin, TASKS_SUBMITTED)), "one each"
        for offset, forgery in enumerate(FORGERIES.values()):
            assert kept[offset].error_type == "ProducerRefused"
            assert kept[offset].error_message.startswith(forgery.flaw)


@pytest.mark.parametrize("how", ["no header", "another tenant's key", "revoked key", "changed value", "two signatures"])
async def test_a_forged_cancellation_cancels_nothing(how: str) -> None:
    async with Twin(partitions=1) as twin:
        twin.router(producers=verification(keys(), patience_seconds=_QUICK))
        task = a_task("victim")
        write(twin, TASKS_SUBMITTED, task, TAKEN["our own service's"], "victim")
        await twin.until(lambda: len(twin.journal()) >= 2)
        cancellation = TaskCancelled(task_id=task.task_id, tenant=task.tenant, requested_at=now_ms())
        write(twin, TASKS_CANCELLED, cancellation, FORGERIES[how].headers, "forged")
        await twin.until(lambda: len(letters(twin, TASKS_CANCELLED)) == 1)
        # Signed rightly, but by and for somebody else.
        theirs = replace(cancellation, tenant="mallory")
        write(twin, TASKS_CANCELLED, theirs, signed(OTHERS), "of another tenant")
        await twin.quiet()
        assert not twin.completed()
        assert not any(twin.written(cancelled_topic(place)) for place in Place)
        write(twin, TASKS_CANCELLED, cancellation, TAKEN["signed"], "cancel")
        await twin.until_completed([task])
        assert twin.completed()[task.task_id][0].status is TaskStatus.CANCELLED
        await twin.until(lambda: bool(twin.written(cancelled_topic(Place.LOCAL))))
        (told,) = twin.written(cancelled_topic(Place.LOCAL))
        assert (told.task_id, told.tenant) == (task.task_id, task.tenant)


@pytest.mark.parametrize(("stopped", "end"), [(1, "succeeded"), (2, "failed"), (99, "failed")])
async def test_a_worker_that_honours_a_forged_cancellation_cancels_nothing(stopped: int, end: str) -> None:
    """A worker of release 0.1, which reads the requests themselves, or one that has been taken over."""
    async with Twin(partitions=1) as twin:
        twin.work(lambda request: end_of(request, Outcome.CANCELLED if request.number <= stopped else Outcome.ANSWERED))
        twin.router(producers=verification(keys(), patience_seconds=_QUICK))
        task = a_task("victim")
        write(twin, TASKS_SUBMITTED, task, TAKEN["signed"], "victim")
        await twin.until_completed([task])
        (result,) = twin.completed()[task.task_id]
        assert result.status.value == end
        assert (result.failure is None) == (end == "succeeded")
        assert result.failure is None or result.failure.code == "unasked_cancellation"


async def test_a_new_key_holds_up_its_own_partition_for_a_moment_and_no_other() -> None:
    async with Twin(partitions=2) as twin:
        twin.work()
        known = keys()
        twin.router(producers=verification(known, patience_seconds=30.0), patience_seconds=0.05)
        early, other = a_task("early"), a_task("other")
        write(twin, TASKS_SUBMITTED, early, signed(NEW), "early")
        await asyncio.sleep(0.2)
        await twin.publish(TASKS_SUBMITTED, other, "unsigned", b"key", 1)
        beside = a_task("beside")
        value = twin.codec.encode(TASKS_SUBMITTED, beside)
        headers = tuple(TAKEN["signed"](PREFIX + TASKS_SUBMITTED.name, b"key", value))
        twin.cluster.append(
            ProducerRecord(topic=PREFIX + TASKS_SUBMITTED.name, value=value, key=b"key", partition=1, headers=headers)
        )
        await twin.until_completed([beside], 10.0)
        assert early.task_id not in twin.completed()
        known[NEW] = access_key(NEW)
        await twin.until_completed([early], 10.0)
        assert len(letters(twin, TASKS_SUBMITTED)) == 1, "the unsigned one"


async def test_a_flood_of_invented_keys_stops_nobody() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        twin.router(producers=verification(keys(), patience_seconds=60.0))
        for number in range(300):
            invented = f"{number:016b}".replace("0", "a").replace("1", "b")
            header = ("headrace_signature", f"v1 {invented} {'0' * 64}".encode())
            write(twin, TASKS_SUBMITTED, a_task("forged"), lambda *_, header=header: [header], "forged")
        good = a_task("good")
        write(twin, TASKS_SUBMITTED, good, TAKEN["signed"], "good")
        await twin.until_completed([good], 20.0)
        assert len(letters(twin, TASKS_SUBMITTED)) == 300


async def test_what_was_taken_stays_taken_when_its_key_is_revoked() -> None:
    async with Twin(partitions=1) as twin:
        known = keys()
        first = twin.router("r1", producers=verification(known, patience_seconds=_QUICK))
        task = a_task("taken")
        write(twin, TASKS_SUBMITTED, task, TAKEN["signed"], "taken")
        await twin.until(lambda: any(twin.written(spec) for spec in WORK))
        await first.kill()
        known.clear()
        twin.router("r1", producers=verification(known, patience_seconds=_QUICK))
        twin.work()
        await twin.until_completed([task])
        assert twin.completed()[task.task_id][0].status is TaskStatus.SUCCEEDED
        assert not letters(twin, TASKS_SUBMITTED)
