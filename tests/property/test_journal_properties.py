"""Several owners of one journal partition, with crashes, lost and uncertain appends, records held up in the network,
foreign records and compaction. The model knows which entries count by watching them arrive, not by their offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    Command,
    CommandKind,
    EntryKind,
    JournalEntry,
    Message,
    Position,
    TaskPhase,
    TaskState,
    TaskSubmitted,
)
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_streams import journal_reading
from headrace_streams.errors import AppendUncertain, Fenced, TransientError
from headrace_streams.journal import Journal, JournaledDecision, Recovered
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.memory.network import NetworkRequest, Operation
from headrace_streams.publishing import Publisher
from headrace_streams.records import ProducerRecord, TopicPartition
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

TOPIC = "headrace.tasks.journal"
WHERE = TopicPartition(TOPIC, 0)
TASKS = [f"task-{number}" for number in range(4)]
T = TypeVar("T")


@pytest.fixture(autouse=True, scope="module")
def _several_looks_at_short_journals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_reading, "_LOOK_EVERY", 3)
        yield


class Wire:
    """An owner's way to the log. Each append meets the next fate, and goes well without one."""

    def __init__(self) -> None:
        self.fates: list[str] = []
        self.held: list[asyncio.Event] = []
        self.dead = False

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if request.operation is not Operation.APPEND:
            return perform()
        fate = self.fates.pop(0) if self.fates else "arrives"
        if fate == "held":
            event = asyncio.Event()
            self.held.append(event)
            await event.wait()
        if fate == "lost":
            raise TransientError("lost")
        if fate == "never sent, outcome unknown":
            raise AppendUncertain("no answer")
        done = perform()
        if fate == "arrives, outcome unknown":
            raise AppendUncertain("no answer")
        if self.dead:
            await asyncio.Future()
        return done


@dataclass(frozen=True)
class Counted:
    """An entry that the model lets count."""

    offset: int
    task_id: str
    positions: dict[str, int]
    commands: bool
    published: int | None


@dataclass(eq=False)
class Owner:
    journal: Journal
    wire: Wire
    log: MemoryLog
    believed: dict[int, str] = field(default_factory=dict)
    """Tasks by the offsets that were acknowledged to this owner: what it may act on."""
    published: set[int] = field(default_factory=set)


class Partition(RuleBasedStateMachine):
    """Owners come, go, stand still and go on."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.cluster = MemoryCluster()
        self.cluster.create_topic(TOPIC, 1)
        self.codec = Codec(MemoryRegistry())
        self.run(self.codec.prepare([TASKS_JOURNAL], register=True))
        self.owners: list[Owner] = []
        self.seen = 0
        self.counted: list[Counted] = []
        # Epoch whose entries may count, and the number that the next one must have; None when none does any more.
        self.open: tuple[int, int] | None = None
        self.published: set[int] = set()
        self.compacted = False
        self.consumed = 0
        self.sent = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def within(self, call: Callable[[], object]) -> None:
        """Call something that needs a running loop; nothing else runs meanwhile."""

        async def calling() -> None:
            call()

        self.run(calling())

    def pump(self) -> None:
        """Let everything happen that can, and watch what arrives."""

        async def idle() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.run(idle())
        self.watch()

    def watch(self) -> None:
        for record in self.cluster.records(TOPIC, 0):
            if record.offset < self.seen:
                continue
            self.seen = record.offset + 1
            if record.value is None:
                self.open = None
                self.may_compact = False
                continue
            entry = self.codec.decode(JournalEntry, record.value, Origin(TOPIC, 0, record.offset))
            if entry.kind is EntryKind.EPOCH_START:
                self.open = (record.offset, 1)
            elif self.open is not None and (entry.epoch, entry.sequence) == self.open:
                self.open = (entry.epoch, entry.sequence + 1)
                self.counted.append(
                    Counted(
                        record.offset, entry.task_id, {p.topic: p.next_offset for p in entry.positions},
                        bool(entry.commands), entry.published_offset,
                    )
                )  # fmt: skip
            else:
                self.open = None
                # Compaction takes longer than it takes an owner to take over and to mend this.
                self.may_compact = False

    async def take_over(self, wire: Wire) -> tuple[Owner, Recovered, list[JournaledDecision]]:
        log = MemoryLog(self.cluster, lambda: 0, network=wire)
        reader = log.reader()
        folded: list[JournaledDecision] = []
        journal, recovered = await Journal.take_over(
            publisher=Publisher(log.producer(), self.codec, "test"),
            reader=reader, codec=self.codec, partition=0, owner=f"owner-{len(self.owners)}", now_ms=0,
            fold=folded.append,
        )  # fmt: skip
        await reader.close()
        return Owner(journal, wire, log), recovered, folded

    @precondition(lambda self: len(self.owners) < 4)
    @rule(restates=st.sampled_from([True, True, False]))
    def somebody_takes_over(self, restates: bool) -> None:
        owner, recovered, folded = self.run(self.take_over(Wire()))
        self.watch()
        self.owners.append(owner)
        self.check(recovered, folded)
        shadowed = sorted(recovered.shadowed)
        if restates:
            states = {recorded.task_id: recorded for recorded in folded}
            for task_id in shadowed:
                self.append_to(owner, task_id, 0, state=task_id in states)
            self.pump()
            if owner.journal.fenced is None and not owner.journal.in_flight:
                # Compaction takes its time: until then an owner has mended what does not count.
                self.may_compact = True

    may_compact = False

    def check(self, recovered: Recovered, folded: list[JournaledDecision]) -> None:
        tasks = [(recorded.offset, recorded.task_id) for recorded in folded]
        expected = [(entry.offset, entry.task_id) for entry in self.counted if entry.task_id]
        if self.compacted:
            # The newest of each task, at least, and nothing that never counted.
            assert set(tasks) <= set(expected)
            assert {task: offset for offset, task in tasks} == {task: offset for offset, task in expected}
        else:
            assert tasks == expected
            assert recovered.entries == len(self.counted)
        for recorded in folded:
            assert recorded.phase is (TaskPhase.RUNNING if recorded.entry().state is not None else None)
            assert recorded.entry().task_id == recorded.task_id
        positions: dict[tuple[str, int], int] = {}
        for entry in self.counted:
            for topic, offset in entry.positions.items():
                positions[topic, 0] = max(offset, positions.get((topic, 0), 0))
        assert recovered.positions == positions
        there = {offset for offset, _ in tasks}
        unpublished = [placed.offset for placed in recovered.unpublished]
        assert unpublished == sorted(unpublished)
        noted = max((entry.published for entry in self.counted if entry.published is not None), default=0)
        commands = {entry.offset for entry in self.counted if entry.commands and entry.offset in there}
        assert set(unpublished) == {offset for offset in commands if offset >= noted}
        assert commands - self.published <= set(unpublished), "a command that was never published was forgotten"

    def append_to(
        self, owner: Owner, task_id: str, commands: int, fates: tuple[str, ...] = (), *, state: bool = True
    ) -> None:
        owner.wire.fates += fates
        self.sent += 1
        self.consumed += 1
        command = Command(kind=CommandKind.DISPATCH, event_id=f"{task_id}/1", topic="work.local.batch", attempt=1)
        task = TaskSubmitted(
            task_id=task_id, tenant="acme", messages=(Message(role="user", content=plain("?")),), submitted_at=0
        )
        entry = JournalEntry(
            kind=EntryKind.DECISION,
            task_id=task_id,
            positions=(Position(topic="tasks.submitted", partition=0, next_offset=self.consumed),),
            # Without: an owner writes over what does not count and what it knows nothing of.
            state=TaskState(phase=TaskPhase.RUNNING, task=task, route_key=b"k", home_partition=0) if state else None,
            commands=(command,) * commands,
            decided_at=0,
        )

        def append() -> None:
            try:
                owner.journal.append(entry).add_done_callback(note)
            except Fenced:
                return

        def note(done: asyncio.Future[int]) -> None:
            if done.exception() is None:
                owner.believed[done.result()] = task_id

        self.within(append)

    @precondition(lambda self: self.owners)
    @rule(
        data=st.data(),
        batches=st.lists(
            st.tuples(
                st.lists(st.sampled_from(TASKS), min_size=1, max_size=3),
                st.sampled_from([
                    "arrives", "arrives", "arrives", "arrives", "lost", "arrives, outcome unknown",
                    "never sent, outcome unknown", "held",
                ]),
            ),
            min_size=1, max_size=3,
        ),
        commands=st.integers(0, 1),
    )  # fmt: skip
    def append(self, data: st.DataObject, batches: list[tuple[list[str], str]], commands: int) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        for tasks, fate in batches:
            owner.wire.fates.append(fate)
            for task_id in tasks:
                self.append_to(owner, task_id, commands)
            # Those of one batch travel together; the next may overtake a lost one.
            self.run(asyncio.sleep(0))
        self.pump()

    @precondition(lambda self: any(owner.wire.held for owner in self.owners))
    @rule(data=st.data())
    def what_was_held_up_arrives(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from([owner for owner in self.owners if owner.wire.held]))
        owner.wire.held.pop(0).set()
        self.pump()

    @precondition(lambda self: any(owner.believed.keys() - owner.published for owner in self.owners))
    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from([o for o in self.owners if o.believed.keys() - o.published]))
        offset = data.draw(st.sampled_from(sorted(owner.believed.keys() - owner.published)))
        owner.published.add(offset)
        with_commands = {entry.offset for entry in self.counted if entry.commands}
        if offset in with_commands:
            owner.journal.published(offset)
            self.published.add(offset)

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), settled=st.booleans())
    def checkpoint(self, data: st.DataObject, settled: bool) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        if owner.journal.fenced is None and not owner.wire.held:
            if settled and owner is self.owners[-1] and owner.journal.epoch == self.newest_epoch_start():
                self.published |= {e.offset for e in self.counted if e.offset < owner.journal.epoch}
                owner.journal.settled(0)
            self.within(lambda: owner.journal.checkpoint((), 0))
        self.pump()

    def newest_epoch_start(self) -> int:
        return self.open[0] if self.open is not None else -1

    @precondition(lambda self: len(self.owners) > 1)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        self.owners.remove(owner)
        # What is on the wire may still arrive.
        owner.wire.dead = True
        for event in owner.wire.held:
            event.set()
        self.pump()
        owner.log.kill()

    @rule()
    def a_epoch_start_of_unknown_fate(self) -> None:
        wire = Wire()
        wire.fates = ["arrives, outcome unknown"]
        try:
            self.run(self.take_over(wire))
        except AppendUncertain:
            self.watch()
        else:
            raise AssertionError("the owner does not know its epoch")

    @rule(task_id=st.sampled_from(TASKS), tombstone=st.booleans())
    def somebody_else_writes(self, task_id: str, tombstone: bool) -> None:
        entry = JournalEntry(kind=EntryKind.DECISION, task_id=task_id, epoch=0, sequence=10_000, decided_at=0)
        value = None if tombstone else self.codec.encode(TASKS_JOURNAL, entry)
        self.cluster.append(ProducerRecord(TOPIC, value, task_id.encode(), 0))
        self.may_compact = False
        self.watch()

    @precondition(lambda self: self.may_compact and self.open is not None)
    @rule()
    def compact(self) -> None:
        # Whatever does not count was written over by the owner that has just taken over.
        newest = {record.key: record.offset for record in self.cluster.records(TOPIC, 0)}
        offsets = {entry.offset for entry in self.counted}
        if any(offset not in offsets for key, offset in newest.items() if key in {task.encode() for task in TASKS}):
            return
        self.cluster.compact(TOPIC)
        self.compacted = True

    @invariant()
    def who_is_told_that_an_entry_counts_is_told_the_truth(self) -> None:
        counted = {entry.offset: entry.task_id for entry in self.counted}
        for owner in self.owners:
            for offset, task_id in owner.believed.items():
                assert counted.get(offset) == task_id

    @invariant()
    def an_entry_is_acknowledged_to_one_owner(self) -> None:
        believed = [offset for owner in self.owners for offset in owner.believed]
        assert len(believed) == len(set(believed))

    @invariant()
    def whoever_is_fenced_stays_so(self) -> None:
        for owner in self.owners:
            if owner.journal.fenced is not None:
                assert owner.journal.in_flight == 0

    def teardown(self) -> None:
        for owner in self.owners:
            for event in owner.wire.held:
                event.set()
        self.pump()
        _, recovered, folded = self.run(self.take_over(Wire()))
        self.watch()
        self.check(recovered, folded)
        for owner in self.owners:
            owner.log.kill()
        self.run(asyncio.sleep(0))
        self.loop.close()


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
