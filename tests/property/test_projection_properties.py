"""The projection against a model: whatever the batches, crashes, outages, lost answers and rivals, each event once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headrace_contracts.codec import Codec
from headrace_contracts.events import DeadLetter, SkillAction, SkillSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import SKILLS_SUBMITTED, dead_letters_of
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import BatchRefused, PartitionsLost, TransientError
from headrace_streams.log_identity import StoredPosition
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.projection import Moves, Projection
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_streams.typed import decode
from headrace_testing.simulation.loop import VirtualLoop
from hypothesis import given, settings
from hypothesis import strategies as st

PREFIX = "test."
TOPIC = PREFIX + SKILLS_SUBMITTED.name
PARTITIONS = 3


class Crash(BaseException):
    """The process dies here."""


class Store:
    """Rows by event id, and positions: one commit. Each call draws what befalls it from the plan."""

    def __init__(self, plan: Sequence[str], unfit: frozenset[str]) -> None:
        self.plan = list(plan)
        self.unfit = unfit
        self.rows: Counter[str] = Counter()
        self.stored: dict[TopicPartition, StoredPosition] = {}

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        return {name: position.next_offset for name, position in self.stored.items()}

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        return {name: self.stored[name] for name in partitions if name in self.stored}

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        fate = self.plan.pop(0) if self.plan else "well"
        await asyncio.sleep(0.01)
        if fate == "away":
            raise TransientError("away")
        if fate == "crash before":
            raise Crash
        ids = [event.submission_id for _, event in batch]
        if self.unfit & set(ids):
            raise BatchRefused("never")
        if any(self.stored.get(name) != expected for name, (expected, _) in moves.items()):
            raise PartitionsLost("moved")
        if fate == "rival":
            # Another member of the group got in first with some of it, and its process is gone.
            name = min(moves)
            ours = [(record, event) for record, event in batch if record.topic_partition == name][:1]
            if ours:
                reached = StoredPosition(ours[0][0].offset + 1, moves[name][1].topic_id)
                self._commit([ours[0][1].submission_id], {name: reached})
                raise PartitionsLost("a rival was faster")
        self._commit(ids, {name: position for name, (_, position) in moves.items()})
        if fate == "answer lost":
            raise TransientError("outcome unknown")
        if fate == "crash after":
            raise Crash

    def _commit(self, ids: Sequence[str], positions: Mapping[TopicPartition, StoredPosition]) -> None:
        # Not unique by id, as a real store is: here a second time shall show.
        self.rows.update(ids)
        self.stored.update(positions)


fates = st.sampled_from(["well", "away", "answer lost", "crash before", "crash after", "rival"])
# What stands in the topic: an event by its number, or something unreadable; and in which partition.
contents = st.lists(
    st.tuples(st.sampled_from(["event", "event", "event", "garbage", "unfit"]), st.integers(0, PARTITIONS - 1)),
    max_size=40,
)


async def _play(contents: Sequence[tuple[str, int]], plan: Sequence[str], max_batch: int) -> None:
    cluster = MemoryCluster(session_timeout=2.0)
    codec = Codec(MemoryRegistry(), PREFIX)
    letters_spec = dead_letters_of(SKILLS_SUBMITTED)
    await codec.prepare([SKILLS_SUBMITTED, letters_spec], register=True)
    cluster.create_topic(TOPIC, PARTITIONS)
    cluster.create_topic(PREFIX + letters_spec.name, 1)
    publisher = Publisher(MemoryLog(cluster, client="agent").producer(), codec, "test")
    good, bad = [], 0
    unfit = frozenset(f"s{number}" for number, (kind, _) in enumerate(contents) if kind == "unfit")
    for number, (kind, partition) in enumerate(contents):
        if kind == "garbage":
            cluster.append(ProducerRecord(TOPIC, b"garbage", b"k", partition))
            bad += 1
            continue
        event = SkillSubmitted(
            submission_id=f"s{number}", tenant="acme", name="n", action=SkillAction.REVOKE, submitted_at=1
        )
        await publisher.send(
            Publication(
                spec=SKILLS_SUBMITTED, event=event, event_id=event.submission_id, key=b"k", partition=partition,
                tenant="acme", time_ms=1,
            )
        )  # fmt: skip
        if kind == "event":
            good.append(event.submission_id)
    store = Store(plan, unfit)
    ends = {name: end for number in range(PARTITIONS)
            if (end := cluster.partition(name := TopicPartition(TOPIC, number)).end)}  # fmt: skip

    for life in range(len(plan) + 1):
        log = MemoryLog(cluster, client=f"life-{life}")
        letters = DeadLetters(Publisher(log.producer(), codec, "test"), "test", PREFIX, lambda: 7)
        projection = Projection(log, "view", [SKILLS_SUBMITTED], codec, store, letters, max_batch=max_batch)
        running = asyncio.create_task(projection.run())
        while store.offsets != ends and not running.done():  # noqa: ASYNC110 - virtual time, moved by another task
            await asyncio.sleep(0.1)
        if not running.done():
            await projection.close()
        (ending,) = await asyncio.gather(running, return_exceptions=True)
        if ending is None:
            break
        assert isinstance(ending, Crash)
        log.kill()
    assert store.offsets == ends
    assert store.rows == Counter(good)
    kept = [await decode(codec, DeadLetter, record) for record in cluster.records(PREFIX + letters_spec.name)]
    # A dead letter may be there twice after a crash; none is missing, and nothing good is among them.
    assert len({(letter.partition, letter.offset) for letter in kept}) == bad + len(unfit)


@settings(max_examples=60, deadline=None)
@given(contents=contents, plan=st.lists(fates, max_size=8), max_batch=st.integers(1, 15))
def test_each_event_leaves_one_row_whatever_happens(
    contents: list[tuple[str, int]], plan: list[str], max_batch: int
) -> None:
    loop = VirtualLoop()  # type: ignore[abstract]  # what is left out is never called here
    loop.run_until_complete(_play(contents, plan, max_batch))
