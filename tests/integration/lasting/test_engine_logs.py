"""The engine on logs that are not what they were: created again, restored, cut short, cleaned, resized, held."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from headrace_streams.log_identity import Broken, Discontinuity, fingerprint
from headrace_streams.memory import HANGS, MemoryCluster, MemoryLog
from headrace_streams.offsets import decode, log_of
from headrace_streams.parallel import Observer, ParallelConsumer, TopicLane
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record, TopicPartition
from headrace_testing.engine import GROUP, TOPIC, Letters, all_committed, committed, eventually, options, running

FIRST = TopicPartition(TOPIC, 0)


class Seen(Observer):
    def __init__(self) -> None:
        self.values: Counter[bytes] = Counter()
        self.broken: list[tuple[TopicPartition, Discontinuity]] = []

    async def handle(self, record: Record) -> None:
        await asyncio.sleep(0)
        self.values[record.value or b""] += 1

    def discontinued(self, partition: TopicPartition, verdict: Broken) -> None:
        self.broken.append((partition, verdict.kind))


def write(cluster: MemoryCluster, name: str, count: int, partition: int = 0) -> list[bytes]:
    values = [f"{name}-{partition}-{number}".encode() for number in range(count)]
    for value in values:
        cluster.append(ProducerRecord(TOPIC, value, value, partition=partition))
    return values


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster(session_timeout=1.0, metadata_age=0.05)
    made.create_topic(TOPIC, 3)
    return made


async def handled(seen: Seen, cluster: MemoryCluster, values: list[bytes]) -> None:
    await eventually(lambda: all(seen.values[value] for value in values), f"handled: {values[:3]}…", 30)
    await eventually(lambda: all_committed(cluster), "committed", 30)


def recreate(cluster: MemoryCluster) -> None:
    cluster.recreate_topic(TOPIC, forget_commits=False)


@pytest.mark.parametrize("after", [1, 5, 9])
@pytest.mark.parametrize("runs", [False, True], ids=["stopped", "running"])
async def test_a_topic_created_again_is_read_from_its_start(cluster: MemoryCluster, after: int, runs: bool) -> None:
    """Also where it is as long as it was, or longer: no offset is out of range then."""
    seen = Seen()
    async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
        await handled(seen, cluster, write(cluster, "old", 5))
        if runs:
            recreate(cluster)
            await handled(seen, cluster, write(cluster, "new", after))
    if not runs:
        recreate(cluster)
        new = write(cluster, "new", after)
        async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
            await handled(seen, cluster, new)
    assert (FIRST, Discontinuity.RECREATED) in seen.broken
    assert log_of(committed(cluster)[0]) == fingerprint(cluster.describe_topics([TOPIC])[TOPIC].topic_id)
    # Another start finds nothing wrong.
    found = len(seen.broken)
    async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
        await handled(seen, cluster, write(cluster, "newer", 2))
    assert len(seen.broken) == found


async def test_what_was_received_of_the_former_log_is_still_handled(cluster: MemoryCluster) -> None:
    seen, go_on = Seen(), asyncio.Event()

    async def handle(record: Record) -> None:
        await go_on.wait()
        await seen.handle(record)

    async with running(cluster, handle, observer=seen, max_in_flight=2, watch_interval_seconds=0.1) as engine:
        old = write(cluster, "old", 6)
        await eventually(lambda: engine.state().waiting[TOPIC] == 4, "received")
        recreate(cluster)
        new = write(cluster, "new", 3)
        await eventually(lambda: bool(seen.broken), "noticed", 30)
        go_on.set()
        await handled(seen, cluster, old + new)
    assert seen.values.total() == 9


@pytest.mark.parametrize("to", [0, 2, 4])
@pytest.mark.parametrize("runs", [False, True], ids=["stopped", "running"])
async def test_a_truncated_log_is_read_from_its_end(cluster: MemoryCluster, to: int, runs: bool) -> None:
    seen = Seen()
    old = write(cluster, "old", 5)
    async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
        await handled(seen, cluster, old)
        if runs:
            cluster.truncate_after(FIRST, to)
            await eventually(lambda: seen.broken == [(FIRST, Discontinuity.TRUNCATED)], "noticed", 30)
            await handled(seen, cluster, write(cluster, "new", 4))
    if not runs:
        cluster.truncate_after(FIRST, to)
        async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
            await eventually(lambda: seen.broken == [(FIRST, Discontinuity.TRUNCATED)], "noticed", 30)
            await handled(seen, cluster, write(cluster, "new", 4))
    # A repeat costs money.
    assert all(seen.values[value] == 1 for value in old)


@pytest.mark.parametrize(("first", "lost"), [(3, 1), (5, 3), (8, 6)])
async def test_records_deleted_unread_are_counted(cluster: MemoryCluster, first: int, lost: int) -> None:
    seen = Seen()
    verdicts: list[Broken] = []
    seen.discontinued = lambda partition, verdict: verdicts.append(verdict)  # type: ignore[method-assign]
    cluster.group(GROUP).committed_offsets[FIRST] = OffsetAndMetadata(2)
    values = write(cluster, "old", 8)
    cluster.delete_before(FIRST, first)
    async with running(cluster, seen.handle, observer=seen):
        await handled(seen, cluster, [*values[first:], *write(cluster, "new", 1)])
    assert [(verdict.kind, getattr(verdict, "lost", None)) for verdict in verdicts] == [(Discontinuity.DATA_LOST, lost)]
    assert not any(seen.values[value] for value in values[:first])


async def test_retention_that_overtakes_a_running_engine_is_noticed(cluster: MemoryCluster) -> None:
    seen = Seen()
    async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
        await handled(seen, cluster, write(cluster, "old", 2))
        cluster.sicken(FIRST, reads=HANGS)
        values = write(cluster, "late", 6)
        cluster.delete_before(FIRST, 5)
        cluster.heal(FIRST)
        await handled(seen, cluster, values[3:])
        await eventually(lambda: seen.broken == [(FIRST, Discontinuity.DATA_LOST)], "noticed", 30)


@pytest.mark.parametrize("metadata", ["", "something of a foreign tool"])
async def test_commits_of_older_versions_are_continued(cluster: MemoryCluster, metadata: str) -> None:
    seen = Seen()
    values = write(cluster, "old", 4)
    cluster.group(GROUP).committed_offsets[FIRST] = OffsetAndMetadata(2, metadata)
    async with running(cluster, seen.handle, observer=seen):
        await handled(seen, cluster, values[2:])
    assert not any(seen.values[value] for value in values[:2])
    assert not seen.broken
    assert log_of(committed(cluster)[0]) == fingerprint(cluster.describe_topics([TOPIC])[TOPIC].topic_id)


async def test_a_topic_created_again_is_read_although_records_of_the_former_one_did_not_fit(
    cluster: MemoryCluster,
) -> None:
    seen, held = Seen(), asyncio.Event()

    async def handle(record: Record) -> None:
        if record.offset % 2 == 0 and (record.value or b"").startswith(b"old"):
            await held.wait()
        await seen.handle(record)

    old = write(cluster, "old", 60)
    async with running(cluster, handle, observer=seen, metadata_limit=24, watch_interval_seconds=0.1) as engine:
        await eventually(lambda: engine.state().paused == 1, "there is a backlog")
        recreate(cluster)
        new = write(cluster, "new", 3)
        await eventually(_all(seen, new), "the new topic is read", 30)
        held.set()
        await eventually(_all(seen, old), "what was received of the former one is handled", 30)


async def test_a_map_of_finished_records_is_still_read_behind_the_identity(cluster: MemoryCluster) -> None:
    seen, held = Seen(), asyncio.Event()
    values = write(cluster, "old", 6)

    async def handle(record: Record) -> None:
        if record.offset == 0 and not held.is_set():
            await asyncio.sleep(60.0)
        await seen.handle(record)

    async with running(cluster, handle, observer=seen, drain_seconds=0.05):
        await eventually(lambda: 0 in committed(cluster) and decode(committed(cluster)[0]) == ((1, 6),), "committed")
    assert log_of(committed(cluster)[0]) is not None
    held.set()
    async with running(cluster, handle, observer=seen):
        await handled(seen, cluster, values)
    assert seen.values.total() == 6


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize(("to", "restart"), [(4, False), (5, True), (8, False)])
async def test_added_partitions_are_read(cluster: MemoryCluster, static: bool, to: int, restart: bool) -> None:
    seen = Seen()

    def start() -> list[tuple[ParallelConsumer, asyncio.Task[None]]]:
        found = []
        for number in range(2):
            engine = ParallelConsumer(
                MemoryLog(cluster), GROUP, [TopicLane(TOPIC)], seen.handle, dead_letters=Letters(), options=options(),
                observer=seen, instance_id=f"pod-{number}" if static else None,
            )  # fmt: skip
            found.append((engine, asyncio.create_task(engine.run())))
        return found

    engines = start()
    await handled(seen, cluster, [v for number in range(3) for v in write(cluster, "old", 2, number)])
    if restart:
        for engine, task in engines:
            await engine.stop()
            await task
    cluster.add_partitions(TOPIC, to)
    if restart:
        engines = start()
    await handled(seen, cluster, [v for number in range(to) for v in write(cluster, "new", 2, number)])
    for engine, task in engines:
        await engine.stop()
        await task
    assert not seen.broken


@pytest.mark.parametrize("sick", [{"reads": HANGS}, {"bounds": HANGS}, {"reads": HANGS, "bounds": HANGS}])
async def test_a_sick_partition_holds_up_no_other(
    cluster: MemoryCluster, sick: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_streams.watching.ANSWER_SECONDS", 0.1)
    seen = Seen()
    cluster.sicken(FIRST, **sick)  # type: ignore[arg-type]
    cluster.group(GROUP).committed_offsets[FIRST] = OffsetAndMetadata(0)
    async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
        for number in range(5):
            values = write(cluster, f"new{number}", 5, 1) + write(cluster, f"new{number}", 5, 2)
            await eventually(_all(seen, values), "the good partitions go on", 30)
        late = write(cluster, "late", 5)
        cluster.heal(FIRST)
        await handled(seen, cluster, late)
    assert not seen.broken
    assert max(seen.values.values()) == 1


def _all(seen: Seen, values: list[bytes]) -> Callable[[], bool]:
    return lambda: all(seen.values[value] for value in values)


@pytest.mark.parametrize("held", [0, 1, 3])
async def test_an_open_transaction_holds_up_one_partition_until_it_ends(cluster: MemoryCluster, held: int) -> None:
    seen = Seen()
    values = write(cluster, "old", 4)
    cluster.hold_stable_offset(FIRST, held)
    async with running(cluster, seen.handle, observer=seen, watch_interval_seconds=0.1):
        await eventually(_all(seen, [*values[:held], *write(cluster, "other", 4, 1)]), "what can be read", 30)
        assert not any(seen.values[value] for value in values[held:])
        cluster.hold_stable_offset(FIRST, None)
        await handled(seen, cluster, values)
    assert not seen.broken
