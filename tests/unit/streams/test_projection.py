"""Topics into a database: nothing twice, nothing left out, whatever dies in between."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import DeadLetter, SkillAction, SkillSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import SKILLS_SUBMITTED, TOPICS, with_partitions
from headrace_streams import projection
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import AppendUncertain, BatchRefused, PartitionsLost, RecordRefused, TransientError
from headrace_streams.log_identity import StoredPosition
from headrace_streams.memory import HANGS, MemoryCluster, MemoryLog
from headrace_streams.partitioning import partition_of
from headrace_streams.projection import Moves, Projection
from headrace_streams.provisioning import provision
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_streams.typed import decode
from headrace_testing.unruly_registry import UnrulyRegistry

PREFIX = "test."
TOPIC = PREFIX + SKILLS_SUBMITTED.name
SPECS = with_partitions({SKILLS_SUBMITTED.name: SKILLS_SUBMITTED}, {SKILLS_SUBMITTED.name: 3})
PARTITIONS = [TopicPartition(TOPIC, number) for number in range(3)]


class Crash(BaseException):
    """The process dies here."""


class Database:
    """Rows and positions that outlive the processes."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.stored: dict[TopicPartition, StoredPosition] = {}
        self.away = 0
        self.crash_before_commit_of = -1
        self.crash_after_commit_of = -1
        self.batches: list[int] = []
        self.entered = asyncio.Event()
        self.slow = 0.0
        self.refused: frozenset[str] = frozenset()
        self.fails_with: dict[str, Exception] = {}

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        return {name: position.next_offset for name, position in self.stored.items()}

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        self._answer()
        return {name: self.stored[name] for name in partitions if name in self.stored}

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        self._answer()
        number = len(self.batches)
        self.batches.append(len(batch))
        self.entered.set()
        await asyncio.sleep(self.slow)
        if number == self.crash_before_commit_of:
            raise Crash
        for _, event in batch:
            if (error := self.fails_with.get(event.submission_id)) is not None:
                raise error
        if self.refused & {event.submission_id for _, event in batch}:
            raise BatchRefused("a value that no column holds")
        for name, (expected, _) in moves.items():
            if self.stored.get(name) != expected:
                raise PartitionsLost(f"{name} is at {self.stored.get(name)}, not at {expected}")
        self.stored.update({name: moved_to for name, (_, moved_to) in moves.items()})
        self.rows += [event.submission_id for _, event in batch]
        if number == self.crash_after_commit_of:
            raise Crash

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise TransientError("the database is away")


class Bench:
    def __init__(self, cluster: MemoryCluster, codec: Codec) -> None:
        self.cluster = cluster
        self.codec = codec
        self.log = MemoryLog(cluster)
        self.producer = self.log.producer()
        self.publisher = Publisher(self.producer, codec, "test")
        self.database = Database()
        self.numbers = itertools.count()

    async def submit(self, count: int) -> list[str]:
        ids = [f"s{next(self.numbers):04}" for _ in range(count)]
        await asyncio.gather(*[self.publisher.send(self._publication(each)) for each in ids])
        return ids

    def projection(self, database: Database | None = None, **options: Any) -> Projection:
        dead_letters = DeadLetters(self.publisher, "test", PREFIX, lambda: 7)
        store = database or self.database
        return Projection(self.log, "view", [SKILLS_SUBMITTED], self.codec, store, dead_letters, **options)

    @asynccontextmanager
    async def running(self, database: Database | None = None, **options: Any) -> AsyncIterator[Projection]:
        projection = self.projection(database, **options)
        task = asyncio.create_task(projection.run())
        try:
            yield projection
        finally:
            await projection.close()
            await task

    async def until_applied(self, ids: Collection[str]) -> None:
        async with asyncio.timeout(20):
            while not set(ids) <= set(self.database.rows):  # noqa: ASYNC110 - rows come from many places
                await asyncio.sleep(0.005)

    def check(self, ids: Collection[str]) -> None:
        assert Counter(self.database.rows) == Counter(ids)
        ends = {name: self.cluster.partition(name).end for name in PARTITIONS}
        assert self.database.offsets == {name: end for name, end in ends.items() if end}

    @staticmethod
    def _publication(submission_id: str) -> Publication:
        return Publication(
            spec=SKILLS_SUBMITTED,
            event=SkillSubmitted(
                submission_id=submission_id, tenant="acme", name=submission_id, action=SkillAction.PUBLISH,
                submitted_at=1,
            ),
            event_id=submission_id,
            key=submission_id.encode(),
            tenant="acme",
            time_ms=1,
        )  # fmt: skip


@pytest.fixture
async def bench() -> Bench:
    cluster = MemoryCluster()
    codec = Codec(MemoryRegistry(), PREFIX)
    dead = SKILLS_SUBMITTED.name + ".dlq"
    await provision(MemoryLog(cluster).admin(), codec, [*SPECS.values(), TOPICS[dead]], replication=1)
    return Bench(cluster, codec)


async def test_records_leave_one_row_each(bench: Bench) -> None:
    before = await bench.submit(50)
    async with bench.running():
        await bench.until_applied(before)
        after = await bench.submit(50)
        await bench.until_applied(after)
    bench.check(before + after)
    assert len(bench.database.batches) < 20


async def test_a_batch_is_no_larger_than_allowed(bench: Bench) -> None:
    ids = await bench.submit(50)
    async with bench.running(max_batch=7):
        await bench.until_applied(ids)
    bench.check(ids)
    assert max(bench.database.batches) == 7


async def test_a_record_does_not_wait_for_a_full_batch(bench: Bench) -> None:
    async with bench.running(max_wait_seconds=0.01):
        ids = await bench.submit(1)
        async with asyncio.timeout(30):
            await bench.until_applied(ids)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_around_the_commit_neither_loses_nor_repeats(bench: Bench, when: str) -> None:
    ids = await bench.submit(60)
    setattr(bench.database, f"crash_{when}_commit_of", 2)
    with pytest.raises(Crash):
        await bench.projection(max_batch=10).run()
    applied = len(bench.database.rows)
    assert applied == (20 if when == "before" else 30)
    async with bench.running(max_batch=10):
        await bench.until_applied(ids)
    bench.check(ids)


async def test_a_killed_process_is_continued_by_another(bench: Bench) -> None:
    ids = await bench.submit(40)
    bench.database.slow = 0.05
    doomed = asyncio.create_task(bench.projection(max_batch=10).run())
    await bench.database.entered.wait()
    doomed.cancel()
    with suppress(asyncio.CancelledError):
        await doomed
    assert not bench.database.rows
    async with bench.running():
        await bench.until_applied(ids)
    bench.check(ids)


async def test_two_processes_share_the_partitions(bench: Bench) -> None:
    ids = await bench.submit(30)
    async with bench.running():
        await bench.until_applied(ids)
        async with bench.running():
            ids += await bench.submit(100)
            await bench.until_applied(ids)
        ids += await bench.submit(100)
        await bench.until_applied(ids)
    bench.check(ids)


async def test_a_revocation_waits_for_the_batch_on_its_way(bench: Bench) -> None:
    ids = await bench.submit(10)
    bench.database.slow = 0.2
    async with bench.running():
        await bench.database.entered.wait()
        async with bench.running():
            await bench.until_applied(ids)
            await asyncio.sleep(0.05)
        bench.check(ids)
        # Neither was too late: the second started where the first had ended.
        assert bench.database.batches == [10]


async def test_a_zombie_changes_nothing(bench: Bench) -> None:
    ids = await bench.submit(10)
    bench.database.slow = 0.3
    async with bench.running():
        await bench.database.entered.wait()
        (member,) = bench.cluster.group("view").members
        bench.cluster.group("view").expel(asyncio.get_running_loop().time(), member)
        fast = Database()
        fast.rows, fast.stored = bench.database.rows, bench.database.stored
        async with bench.running(fast):
            await bench.until_applied(ids)
            await asyncio.sleep(0.5)
            ids += await bench.submit(20)
            await bench.until_applied(ids)
    bench.check(ids)
    assert bench.database.batches[0] == 10


async def test_positions_moved_by_somebody_else_make_it_start_anew(bench: Bench) -> None:
    ids = await bench.submit(30)
    async with bench.running():
        await bench.until_applied(ids)
        for name in PARTITIONS:
            stored = bench.database.stored[name]
            bench.database.stored[name] = StoredPosition(stored.next_offset - 1, stored.topic_id)
        repeated = {bench.cluster.partition(name).records[-1].key for name in PARTITIONS}
        new = await bench.submit(30)
        await bench.until_applied(new)
    counted = Counter(bench.database.rows)
    assert {each.encode() for each, times in counted.items() if times == 2} == repeated
    assert set(counted) == set(ids + new)


async def test_an_outage_of_the_database_is_waited_out(bench: Bench) -> None:
    ids = await bench.submit(10)
    bench.database.away = 3
    async with bench.running():
        await bench.until_applied(ids)
    bench.check(ids)


async def test_closing_does_not_wait_for_the_database(bench: Bench) -> None:
    await bench.submit(10)
    bench.database.away = 1_000_000
    async with asyncio.timeout(30), bench.running():
        await asyncio.sleep(0.05)
    bench.database.away = 0
    async with bench.running() as projection:
        await bench.until_applied({"s0009"})
        bench.database.away = 1_000_000
        await bench.submit(1)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            await projection.close()
    assert len(bench.database.rows) == 10


async def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_others_go_on(bench: Bench) -> None:
    first = await bench.submit(5)
    bench.cluster.append(ProducerRecord(TOPIC, b"no event", b"k", 1))
    bench.cluster.append(ProducerRecord(TOPIC, None, b"k", 2))
    second = await bench.submit(5)
    async with bench.running():
        await bench.until_applied(first + second)
    bench.check(first + second)
    letters = bench.cluster.records(TOPIC + ".dlq")
    assert [letter.key for letter in letters] == [b"k", b"k"]


async def test_positions_outside_of_the_log_begin_at_its_first_record(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.submit(30)
    for name in PARTITIONS:
        bench.database.stored[name] = StoredPosition(1)
        bench.cluster.delete_before(name, 3)
    ids = [record.key.decode() for record in bench.cluster.records(TOPIC) if record.key]
    async with bench.running():
        await bench.until_applied(ids)
    bench.check(ids)
    assert "was read up to 1, but begins at 3: up to 2 records were deleted" in caplog.text


async def test_lag_can_be_watched(bench: Bench) -> None:
    ids = await bench.submit(10)
    async with bench.running():
        await bench.until_applied(ids)
        await asyncio.sleep(0.05)
        progress = bench.cluster.group("view").committed_offsets
        assert {name: moved.next_offset for name, moved in progress.items()} == bench.database.offsets


async def test_what_the_store_will_never_take_is_put_aside_and_holds_up_nothing(bench: Bench) -> None:
    ids = await bench.submit(100)
    bench.cluster.append(ProducerRecord(TOPIC, b"garbage", b"k", 1))
    bench.database.refused = frozenset(ids[13::20])
    good = sorted(set(ids) - bench.database.refused)
    async with bench.running(max_batch=50):
        await bench.until_applied(good)
        async with asyncio.timeout(20):
            while sum(bench.database.offsets.values()) < 101:  # noqa: ASYNC110 - moved by another task
                await asyncio.sleep(0.005)
    bench.check(good)
    letters = bench.cluster.records(TOPIC + ".dlq")
    kept = [await decode(bench.codec, DeadLetter, letter) for letter in letters]
    assert Counter(letter.error_type for letter in kept) == {"BatchRefused": 5, "BadBytes": 1}
    assert {letter.key for letter in kept if letter.error_type == "BatchRefused"} == {
        each.encode() for each in bench.database.refused
    }


async def test_waiting_is_told_with_its_reason_and_its_end(bench: Bench) -> None:
    told: list[str | None] = []
    ids = await bench.submit(10)
    bench.database.away = 2
    async with bench.running(on_waiting=told.append):
        await bench.until_applied(ids)
    assert told == ["the database is away", "the database is away", None]


async def test_whoever_waits_lets_go_at_once(bench: Bench) -> None:
    await bench.submit(10)
    bench.database.away = 1_000
    async with bench.running():
        await asyncio.sleep(1.0)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 3.0


async def test_dead_letters_that_cannot_be_kept_hold_the_record_back(bench: Bench) -> None:
    class Away(DeadLetters):
        times = 3

        async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
            self.times -= 1
            if self.times >= 0:
                raise AppendUncertain("Kafka went away")
            assert not bench.database.stored, "passed over before it was kept"
            await super().keep(record, error, attempts)

    bench.cluster.append(ProducerRecord(TOPIC, b"garbage", b"k", 1))
    letters = Away(bench.publisher, "test", PREFIX, lambda: 7)
    running = Projection(bench.log, "view", [SKILLS_SUBMITTED], bench.codec, bench.database, letters)
    task = asyncio.create_task(running.run())
    async with asyncio.timeout(20):
        while not bench.database.stored:  # noqa: ASYNC110 - moved by another task
            await asyncio.sleep(0.005)
    await running.close()
    await task
    assert len(bench.cluster.records(TOPIC + ".dlq")) == 1


@pytest.mark.parametrize(
    "error", [ValueError("what a user wrote"), OverflowError(), KeyError("x"), RecursionError(), UnicodeDecodeError(
        "utf-8", b"x", 0, 1, "why",
    )], ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_an_error_of_any_kind_about_one_record_costs_that_record(bench: Bench, error: Exception) -> None:
    ids = await bench.submit(20)
    bench.database.fails_with = {ids[7]: error}
    good = sorted(set(ids) - {ids[7]})
    async with bench.running():
        await bench.until_applied(good)
        await _until_moved(bench, 20)
    bench.check(good)
    (kept,) = bench.cluster.records(TOPIC + ".dlq")
    letter = await decode(bench.codec, DeadLetter, kept)
    assert (letter.error_type, letter.key) == (type(error).__name__, ids[7].encode())
    assert "user wrote" not in letter.error_message


async def test_an_error_of_unknown_kind_that_passes_costs_nothing(bench: Bench) -> None:
    (only,) = await bench.submit(1)
    bench.database.fails_with = {only: ValueError()}
    async with bench.running():
        await asyncio.wait_for(bench.database.entered.wait(), 20)
        bench.database.fails_with = {}
        await bench.until_applied([only])
    assert not bench.cluster.records(TOPIC + ".dlq")


@pytest.mark.parametrize("error", [ValueError, MemoryError, AttributeError])
async def test_an_error_of_any_kind_in_reading_costs_that_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    read = decode

    async def failing(codec: Codec, event: type[Any], record: Record) -> Any:
        if record.value == b"special":
            raise error
        return await read(codec, event, record)

    monkeypatch.setattr(projection, "decode", failing)
    bench.cluster.append(ProducerRecord(TOPIC, b"special", b"k", 1))
    ids = await bench.submit(5)
    async with bench.running():
        await bench.until_applied(ids)
        await _until_moved(bench, 6)
    (kept,) = bench.cluster.records(TOPIC + ".dlq")
    assert (await decode(bench.codec, DeadLetter, kept)).error_type == error.__name__


async def test_a_dead_letter_topic_that_refuses_is_waited_for(bench: Bench) -> None:
    class Refusing(DeadLetters):
        times = 2

        async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
            self.times -= 1
            if self.times >= 0:
                raise RecordRefused("not authorised")
            await super().keep(record, error, attempts)

    bench.cluster.append(ProducerRecord(TOPIC, b"garbage", b"k", 1))
    letters = Refusing(bench.publisher, "test", PREFIX, lambda: 7)
    running = Projection(bench.log, "view", [SKILLS_SUBMITTED], bench.codec, bench.database, letters)
    task = asyncio.create_task(running.run())
    await _until_moved(bench, 1)
    await running.close()
    await task
    assert len(bench.cluster.records(TOPIC + ".dlq")) == 1


async def _until_moved(bench: Bench, total: int) -> None:
    async with asyncio.timeout(20):
        while sum(bench.database.offsets.values()) < total:  # noqa: ASYNC110 - moved by another task
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("sick", "words"),
    [({"reads": HANGS}, "stands at"), ({"reads": HANGS, "bounds": HANGS}, "does not answer"), ({"bounds": HANGS}, "")],
)
async def test_a_partition_that_has_records_and_does_not_move_is_told(
    bench: Bench, sick: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_streams.applied._STANDS_STILL_SECONDS", 0.15)
    monkeypatch.setattr("headrace_streams.watching.ANSWER_SECONDS", 0.02)
    monkeypatch.setattr("headrace_streams.watching._LEAST_PAUSE_SECONDS", 0.01)
    first = await bench.submit(20)
    told: list[str | None] = []
    async with bench.running(watch_seconds=0.05, on_standstill=told.append):
        await bench.until_applied(first)
        (late,) = [name for name in PARTITIONS if name.partition == 1]
        bench.cluster.sicken(late, **sick)
        more = await bench.submit(20)
        if words:
            async with asyncio.timeout(20):
                while not (told and told[-1] and words in told[-1]):  # noqa: ASYNC110 - it is told in the background
                    await asyncio.sleep(0.01)
            assert str(late) in str(told[-1])
            assert ";" not in str(told[-1])
        bench.cluster.heal(late)
        await bench.until_applied(more)
        async with asyncio.timeout(20):
            while not (told and told[-1] is None):  # noqa: ASYNC110 - it is told in the background
                await asyncio.sleep(0.01)
    assert told[-1] is None


def foreign(bench: Bench, count: int, partition: int) -> None:
    """Records of unknown schemas, all different."""
    for number in range(count):
        value = b"\x00" + (10_000 * (partition + 1) + number).to_bytes(4, "big")
        bench.cluster.append(ProducerRecord(TOPIC, value, b"foreign", partition))


@pytest.mark.parametrize("flooded", [1, 2])
async def test_partitions_full_of_unknown_schemas_hold_up_no_other(bench: Bench, flooded: int) -> None:
    for partition in range(flooded):
        foreign(bench, 250, partition)
    ids = await bench.submit(60)
    others = [each for each in ids if partition_of(each.encode(), len(PARTITIONS)) >= flooded]
    assert len(others) > 5
    began = asyncio.get_running_loop().time()
    async with bench.running(max_batch=50):
        await bench.until_applied(others)
        assert asyncio.get_running_loop().time() - began < 1.5
        # And they get on as well: some hundred a second.
        await bench.until_applied(ids)
        bench.check(ids)
    assert len(bench.cluster.records(TOPIC + ".dlq")) == 250 * flooded


@pytest.mark.parametrize("partition", [0, 1, 2])
async def test_a_registry_that_does_not_answer_holds_up_one_partition(bench: Bench, partition: int) -> None:
    registry = UnrulyRegistry()
    bench.codec = Codec(registry, PREFIX)
    await bench.codec.prepare([SKILLS_SUBMITTED, TOPICS[SKILLS_SUBMITTED.name + ".dlq"]], register=True)
    bench.publisher = Publisher(bench.producer, bench.codec, "test")
    registry.away = True
    foreign(bench, 1, partition)
    ids = await bench.submit(60)
    others = [each for each in ids if partition_of(each.encode(), len(PARTITIONS)) != partition]
    told: list[str | None] = []
    async with bench.running(on_waiting=told.append):
        await bench.until_applied(others)
        assert set(bench.database.rows) == set(others)
        assert told
        assert None not in told
        registry.away = False
        await bench.until_applied(ids)
    bench.check(ids)
    assert told[-1] is None
