"""Dead letters as an operator deals with them, on the log's in-memory twin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from headrace.connecting import Cluster, TopicUnknown
from headrace.dead_letters import (
    DeadLetterSelection,
    DeadLetterTopics,
    DeadLetterUnknown,
    StoredDeadLetter,
    ValueGone,
    grouped,
)
from headrace_contracts.content import plain
from headrace_contracts.errors import BadBytes, Origin
from headrace_contracts.events import DeadLetterHandled, Handling, Message, TaskSubmitted
from headrace_contracts.headers import REPLAY_OF, header
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import DEAD_LETTERS_HANDLED, TASKS_SUBMITTED, TOPICS, USAGE_RECORDED
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import RecordRefused, SendToDeadLetters, TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import NewTopic, ProducerRecord, Record
from headrace_streams.typed import decode

NOW = 1_800_000_000_000
TOPIC = "test.tasks.submitted"
LETTERS = f"{TOPIC}.dlq"
KEY = b"s:acme/1"


class Desk:
    """An installation with services that give up, and an operator."""

    def __init__(self) -> None:
        self.memory = MemoryCluster()
        self.cluster = Cluster.over(MemoryLog(self.memory), MemoryRegistry(), topic_prefix="test.")
        self.now = NOW
        self.passed_over: list[Record] = []
        self.topics = self.operator()

    def operator(self, log: MemoryLog | None = None) -> DeadLetterTopics:
        cluster = self.cluster if log is None else replace(self.cluster, log=log)
        return DeadLetterTopics(
            cluster,
            handled_by="ada@desk",
            on_unreadable=lambda record, error: self.passed_over.append(record),
            clock=lambda: self.now,
        )

    async def prepare(self) -> None:
        await self.cluster.codec.prepare(TOPICS.values(), register=True)
        # Six partitions for the dead letters as well: nothing here may rest on their being one.
        await self.cluster.log.admin().create_topics([NewTopic("test." + name, 6, 1) for name in TOPICS])

    def garbage(self, partition: int = 3, value: bytes | None = b"garbage", topic: str = TOPIC) -> Record:
        headers = (("ce_id", b"t-1"), ("ce_tenant", b"acme"), ("x-odd", None))
        where = self.memory.append(ProducerRecord(topic, value, KEY, partition, headers))
        return Record(topic, where.partition, where.offset, NOW, KEY, value, headers)

    async def task(self, partition: int = 3) -> Record:
        event = TaskSubmitted(
            task_id="t-1", tenant="acme", messages=(Message(role="user", content=plain("my secret")),), submitted_at=1
        )
        publisher = Publisher(MemoryLog(self.memory).producer(), self.cluster.codec, "test")
        await publisher.send(
            Publication(
                spec=TASKS_SUBMITTED,
                event=event,
                event_id="t-1",
                key=KEY,
                tenant="acme",
                time_ms=1,
                partition=partition,
            )
        )
        return self.memory.records(TOPIC)[-1]

    async def give_up(self, record: Record, error: Exception, service: str = "router", attempts: int = 1) -> None:
        publisher = Publisher(MemoryLog(self.memory).producer(), self.cluster.codec, service)
        self.now += 1_000
        await DeadLetters(publisher, service, "test.", lambda: self.now).keep(record, error, attempts)

    async def bad(self, partition: int = 3, topic: str = TOPIC) -> Record:
        record = self.garbage(partition, topic=topic)
        await self.give_up(record, BadBytes(Origin(record.topic, record.partition, record.offset), "7 bytes"))
        return record

    async def letters(self, **selection: object) -> list[StoredDeadLetter]:
        return await self.topics.letters(DeadLetterSelection(**selection))  # type: ignore[arg-type]

    async def replay(self, letters: list[StoredDeadLetter], topics: DeadLetterTopics | None = None) -> list[str]:
        async with aclosing((topics or self.topics).replay(letters, "mended")) as replayed:
            return [letter.id async for letter, _ in replayed]

    def copies(self, id_: str) -> list[Record]:
        return [each for each in self.memory.records(TOPIC) if header(each.headers, REPLAY_OF) == id_]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    await desk.prepare()
    async with desk.topics:
        yield desk


async def test_a_record_given_up_by_two_services_is_one_letter(desk: Desk) -> None:
    record = await desk.bad()
    await desk.give_up(record, SendToDeadLetters("no such thing"), "intake", attempts=4)
    (letter,) = await desk.letters()
    assert letter.id == f"{TOPIC}/3/{record.offset}"
    assert letter.services == ("intake", "router")
    assert (letter.error_type, letter.error_message, letter.attempts) == ("SendToDeadLetters", "no such thing", 4)
    assert (letter.tenant, letter.size, letter.handled) == ("acme", 7, None)
    assert letter.last_at - letter.first_at == timedelta(seconds=1)
    assert len(letter.places) == 2


async def test_letters_are_chosen_and_counted(desk: Desk) -> None:
    records = [await desk.bad(partition) for partition in (0, 1, 2)]
    await desk.give_up(records[2], SendToDeadLetters("x"), "intake")
    usage = await desk.bad(0, "test.usage.recorded")
    assert [(group.topic, group.error_type, group.letters) for group in grouped(await desk.letters())] == [
        (TOPIC, "BadBytes", 2), (TOPIC, "SendToDeadLetters", 1), ("test.usage.recorded", "BadBytes", 1),
    ]  # fmt: skip
    assert [letter.partition for letter in await desk.letters(service="intake")] == [2]
    assert len(await desk.letters(error_type="BadBytes")) == 3
    assert [letter.offset for letter in await desk.letters(topics=frozenset({"usage.recorded"}))] == [usage.offset]
    assert await desk.letters(tenant="other") == []
    at = datetime.fromtimestamp((NOW + 2_000) / 1000, UTC)
    assert [letter.partition for letter in await desk.letters(until=at)] == [0]
    assert len(await desk.letters(since=at)) == 3
    with pytest.raises(TopicUnknown, match=r"'skills\.feed'"):
        await desk.letters(topics=frozenset({"skills.feed"}))


@pytest.mark.parametrize(
    "form", ["tasks.submitted/3/{offset}", "test.tasks.submitted/3/{offset}", "test.tasks.submitted[3]@{offset}",
             "{place}"],
)  # fmt: skip
async def test_a_letter_is_found_by_any_of_its_names(desk: Desk, form: str) -> None:
    record = await desk.bad()
    (letter,) = await desk.letters()
    part, offset = letter.places[0]
    text = form.format(offset=record.offset, place=f"tasks.submitted.dlq/{part.partition}/{offset}")
    assert [found.id for found in await desk.topics.find([text])] == [letter.id]


@pytest.mark.parametrize("text", ["tasks.submitted/3/99", "tasks.submitted", "tasks.submitted.dlq/0/99"])
async def test_what_is_no_letter_is_said_so(desk: Desk, text: str) -> None:
    await desk.bad()
    with pytest.raises(DeadLetterUnknown, match=r"tasks\.submitted"):
        await desk.topics.find([text])


async def test_a_replay_is_the_record_itself_in_its_home_partition(desk: Desk) -> None:
    record = await desk.task(partition=5)
    await desk.give_up(record, SendToDeadLetters("no such role"))
    (letter,) = await desk.letters()
    assert await desk.replay([letter]) == [letter.id]
    (copy,) = desk.copies(letter.id)
    assert (copy.key, copy.value, copy.partition) == (record.key, record.value, 5)
    assert copy.headers == (*record.headers, (REPLAY_OF, letter.id.encode()))
    assert await desk.letters() == []
    (handled,) = await desk.letters(handled=True)
    assert handled.handled is not None
    assert handled.handled.handling is Handling.REPLAYED
    assert (handled.handled.replays, handled.handled.replayed_offset) == (1, copy.offset)
    assert (handled.handled.reason, handled.handled.handled_by) == ("mended", "ada@desk")


async def test_a_replay_that_fails_again_is_a_letter_of_its_own(desk: Desk) -> None:
    record = await desk.bad()
    (letter,) = await desk.letters()
    await desk.replay([letter])
    (copy,) = desk.copies(letter.id)
    await desk.give_up(copy, SendToDeadLetters("still"))
    (second,) = await desk.letters()
    assert (second.id, second.replay_of) == (f"{TOPIC}/3/{copy.offset}", letter.id)
    await desk.replay([second])
    (third,) = desk.copies(second.id)
    assert [value for name, value in third.headers if name == REPLAY_OF] == [letter.id.encode(), second.id.encode()]
    assert third.value == record.value


async def test_replays_keep_the_order_in_which_records_were_given_up(desk: Desk) -> None:
    records = [await desk.bad() for _ in range(20)]
    letters = await desk.letters()
    done = await desk.replay(list(reversed(letters)))
    assert done == [f"{TOPIC}/3/{record.offset}" for record in records]


class Outage:
    """The operator's network: after so many records are appended, the next append fails, before or after it counts."""

    def __init__(self, appends: int, *, applied: bool) -> None:
        self.left = appends
        self.applied = applied

    async def call(self, request: NetworkRequest, perform: object) -> object:
        assert callable(perform)
        if request.operation is not Operation.APPEND:
            return perform()
        self.left -= 1
        if self.left >= 0:
            return perform()
        if self.applied:
            perform()
        raise TransientError("Kafka went away")


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("appends", range(8))
async def test_an_interrupted_replay_goes_on_and_repeats_at_most_what_was_under_way(
    desk: Desk, appends: int, applied: bool
) -> None:
    for partition in range(4):
        await desk.bad(partition)
    outage = Outage(appends, applied=applied)
    cut_off = desk.operator(MemoryLog(desk.memory, network=outage))  # type: ignore[arg-type]
    with pytest.raises(TransientError):
        await desk.replay(await desk.letters(), cut_off)
    await desk.replay(await desk.letters())
    assert await desk.letters() == []
    copies = [len(desk.copies(letter.id)) for letter in await desk.letters(handled=True)]
    # A record is written (even appends) before it is noted (odd ones): what was written and not noted comes twice.
    twice = (appends % 2 == 1 and not applied) or (appends % 2 == 0 and applied)
    assert sorted(copies) == ([1, 1, 1, 2] if twice else [1, 1, 1, 1])
    # By its id everybody knows the repeat.
    assert {header(each.headers, "ce_id") for each in desk.memory.records(TOPIC)} == {"t-1"}


async def test_what_is_dropped_is_not_open_and_says_why(desk: Desk) -> None:
    await desk.bad()
    async with aclosing(desk.topics.drop(await desk.letters(), "test data")) as dropped:
        assert len([letter async for letter in dropped]) == 1
    assert await desk.letters() == []
    (letter,) = await desk.letters(handled=True)
    assert letter.handled is not None
    assert (letter.handled.handling, letter.handled.reason, letter.handled.replays) == (
        Handling.DROPPED, "test data", 0,
    )  # fmt: skip
    await desk.replay([letter])
    (letter,) = await desk.letters(handled=True)
    assert letter.handled is not None
    assert (letter.handled.handling, letter.handled.replays) == (Handling.REPLAYED, 1)
    notes = desk.memory.records("test." + DEAD_LETTERS_HANDLED.name)
    # One key, so that compaction leaves the newest.
    assert {note.key for note in notes} == {letter.id.encode()}
    assert len({header(note.headers, "ce_id") for note in notes}) == 2
    assert (await decode(desk.cluster.codec, DeadLetterHandled, notes[-1])).replays == 1


async def test_what_still_cannot_be_read_is_known_before_it_is_replayed(desk: Desk) -> None:
    bad = await desk.bad()
    good = await desk.task()
    await desk.give_up(good, SendToDeadLetters("no such role"))
    flaws = await desk.topics.flaws(await desk.letters())
    assert flaws == {f"{TOPIC}/3/{bad.offset}": "7 bytes that are not in the Confluent wire format"}
    letter = (await desk.topics.find([f"tasks.submitted/3/{good.offset}"]))[0]
    assert (await desk.topics.event(await desk.topics.whole(letter))).task_id == "t-1"


async def test_a_value_too_large_to_be_kept_is_replayed_from_its_topic(desk: Desk) -> None:
    record = desk.garbage(value=b"x" * 100_000)
    publisher = Publisher(MemoryLog(desk.memory).producer(), desk.cluster.codec, "router")
    letters = DeadLetters(_RefusesLarge(publisher), "router", "test.", lambda: NOW)  # type: ignore[arg-type]
    await letters.keep(record, SendToDeadLetters("no"))
    (letter,) = await desk.letters()
    assert letter.size == 100_000
    assert (await desk.topics.whole(letter)).value is None
    await desk.replay([letter])
    (copy,) = desk.copies(letter.id)
    assert copy.value == record.value
    (letter,) = await desk.letters(handled=True)
    desk.memory.delete_before(record.topic_partition, record.offset + 1)
    with pytest.raises(ValueGone, match="drop this dead letter"):
        await desk.replay([letter])


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_what_cannot_be_replayed_is_told_and_the_others_are(desk: Desk, gone: int) -> None:
    publisher = Publisher(MemoryLog(desk.memory).producer(), desk.cluster.codec, "router")
    letters = DeadLetters(_RefusesLarge(publisher), "router", "test.", lambda: NOW)  # type: ignore[arg-type]
    records = [desk.garbage(partition, value=b"x" * 100_000) for partition in range(3)]
    for record in records:
        await letters.keep(record, SendToDeadLetters("no"))
    desk.memory.delete_before(records[gone].topic_partition, records[gone].offset + 1)
    chosen = await desk.letters()
    refused: list[tuple[str, str]] = []

    def on_refused(letter: StoredDeadLetter, why: str) -> None:
        refused.append((letter.id, why))

    async with aclosing(desk.topics.replay(chosen, "", on_refused)) as replayed:
        done = [letter.id async for letter, _ in replayed]
    assert len(done) == 2
    ((id_, why),) = refused
    assert id_ == f"{TOPIC}/{gone}/{records[gone].offset}"
    assert "drop this dead letter" in why
    assert [letter.id for letter in await desk.letters()] == [id_]
    # It is known beforehand, as is that the others still cannot be decoded.
    flaws = await desk.topics.flaws(chosen)
    assert flaws.keys() == {letter.id for letter in chosen}
    assert "drop this dead letter" in flaws[id_]


class _RefusesLarge:
    """A cluster that takes no record above 64 KiB; the twin has no such limit."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def send(self, publication: Publication) -> None:
        if len(self._publisher.record_of(publication).value or b"") > 65_536:
            raise RecordRefused("too large")
        await self._publisher.send(publication)


async def test_what_is_no_dead_letter_is_passed_over_and_told(desk: Desk) -> None:
    desk.memory.append(ProducerRecord(LETTERS, b"junk", None, 0))
    desk.memory.append(ProducerRecord("test." + DEAD_LETTERS_HANDLED.name, b"junk", b"k", 0))
    await desk.bad()
    assert len(await desk.letters()) == 1
    assert sorted(record.topic for record in desk.passed_over) == [
        "test." + DEAD_LETTERS_HANDLED.name, LETTERS,
    ]  # fmt: skip


async def test_an_installation_that_knows_no_notes_yet_shows_its_letters() -> None:
    desk = Desk()
    await desk.cluster.codec.prepare(TOPICS.values(), register=True)
    names = [TASKS_SUBMITTED.name, f"{TASKS_SUBMITTED.name}.dlq", USAGE_RECORDED.name]
    await desk.cluster.log.admin().create_topics([NewTopic("test." + name, 6, 1) for name in names])
    await desk.bad()
    assert len(await desk.letters()) == 1
