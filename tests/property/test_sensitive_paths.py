"""No path of events lets a sensitive task, or one of a sensitive session, reach a cloud command, a third party's model
or the stored answers: random lives of sessions over partitions, restarts, changes of partition, and hostile rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from headrace_contracts.content import plain
from headrace_contracts.events import (
    CommandKind,
    EntryKind,
    JournalEntry,
    Message,
    Mode,
    Outcome,
    Place,
    Preferences,
    Privacy,
    PrivacyLevel,
    TaskPhase,
    TaskState,
    TaskSubmitted,
)
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.fleet import Fleet
from headrace_router.decide.machine import decide
from headrace_router.decide.model import (
    CAUSES,
    AttemptEnded,
    Cancelled,
    Decision,
    DecisionContext,
    LeaderFinished,
    RouterEvent,
    StoredAnswer,
    Submitted,
    WakeUp,
)
from headrace_router.decide.publications import publication
from headrace_router.decide.sensitive_sessions import SensitiveSessions, session_mark
from headrace_router.decide.stored_answers import digest_to_look_up, for_storing, may_be_stored
from headrace_router.limits import RouterLimits
from headrace_router.partition_state import PartitionState
from headrace_streams.journal import JournaledDecision
from headrace_streams.journal_reading import outline_of_task
from headrace_testing.routing import ANTHROPIC_NODE, GROQ, GROQ_NODE, LOCAL, NOW, cancelled, finished, preferences, task
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

SHIPPED = load_policy(None)
POLICY = SHIPPED.model_copy(
    update={
        "detectors": {"card_number": Privacy.SENSITIVE},
        "cache": SHIPPED.cache.model_copy(update={"ttl": 2_000}),
    }
)
PRICES = load_price_book()
CARD = "Pay with 4111 1111 1111 1111."
SESSIONS = st.sampled_from((None, "s", "t"))
LEVELS = st.sampled_from((None, *Privacy))
PARTITIONS = st.sampled_from((0, 1))


@dataclass
class Partition:
    """A partition with the journal that its state is a fold of."""

    state: PartitionState
    journal: list[JournalEntry]
    told: SensitiveSessions


class SensitivePaths(RuleBasedStateMachine):
    """Two partitions of one installation."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.count = 0
        self.nodes = (LOCAL, GROQ_NODE, ANTHROPIC_NODE)
        self.tenant: Preferences | None = preferences(allowed_providers=("groq",))
        self.topic: list[tuple[bytes, int]] = []
        self.partitions = [self.empty(), self.empty()]
        self.stored: dict[tuple[str, str], StoredAnswer] = {}
        # What the test knows itself: sessions that were sensitive, and the partitions that must know of it.
        self.tainted: dict[tuple[str, str], set[int]] = {}
        self.given: dict[str, TaskSubmitted] = {}
        self.homes: dict[str, int] = {}

    def empty(self) -> Partition:
        """As another process begins: with what is in the topic, and no journal read yet."""
        told = SensitiveSessions(2, 32)
        for mark, at in self.topic:
            told.note(mark, at)
        state = PartitionState(POLICY.cache, RouterLimits(remembered=50), lambda: 0.0, told)
        return Partition(state, [], told)

    def context(self, number: int) -> DecisionContext:
        return DecisionContext(
            now=self.now, policy=POLICY, prices=PRICES, fleet=Fleet(self.nodes),
            peers=self.partitions[number].state.tasks, tenant_preferences=self.tenant,
            sessions=self.partitions[number].state.sessions,
        )  # fmt: skip

    def give(self, number: int, task_id: str, event: RouterEvent) -> None:
        partition = self.partitions[number]
        before = partition.state.tasks.get(task_id)
        if before is None and partition.state.tasks.has_ended(task_id):
            return
        result = decide(before, event, self.context(number))
        if not isinstance(result, Decision):
            return
        entry = JournalEntry(
            kind=EntryKind.DECISION, task_id=task_id, cause=CAUSES[type(event)], state=result.state,
            commands=result.commands, rejected=result.rejected, decided_at=self.now,
        )  # fmt: skip
        partition.journal.append(entry)
        partition.state.apply(task_id, result.state)
        partition.state.mark(result.state, self.now)
        self.check(number, entry)
        end = result.state.result
        if end is not None and may_be_stored(end, result.state.digest):
            self.stored[end.tenant, result.state.digest] = StoredAnswer(result.state.digest, for_storing(end))

    def check(self, number: int, entry: JournalEntry) -> None:
        assert entry.state is not None
        state, submitted = entry.state, self.given[entry.task_id]
        kept_inside = self.must_stay(number, submitted) or state.privacy is Privacy.SENSITIVE
        for command in entry.commands:
            if command.kind is CommandKind.DISPATCH and kept_inside:
                request = publication(entry, command).event
                assert not command.topic.startswith("work.cloud"), command
                assert request.privacy is Privacy.SENSITIVE
                assert request.provider == "ollama"
        if state.result is not None and kept_inside and state.result.source_task_id is not None:
            # A shared answer comes from a task of the same level, of its own partition.
            assert state.result.privacy is Privacy.SENSITIVE
            assert self.homes[state.result.source_task_id] == number
        if submitted.session is not None and (state.privacy is Privacy.SENSITIVE or self.says_so(submitted)):
            self.tainted.setdefault((submitted.tenant, submitted.session), set()).add(number)

    def must_stay(self, number: int, submitted: TaskSubmitted) -> bool:
        if self.says_so(submitted):
            return True
        if submitted.session is None:
            return False
        return number in self.tainted.get((submitted.tenant, submitted.session), ())

    def says_so(self, submitted: TaskSubmitted) -> bool:
        return (
            submitted.privacy is Privacy.SENSITIVE
            or any(message.privacy is Privacy.SENSITIVE for message in submitted.messages)
            or any(b"4111" in message.content.data for message in submitted.messages)
        )

    @rule(
        number=PARTITIONS,
        session=SESSIONS,
        tenant=st.sampled_from(("acme", "other")),
        privacy=LEVELS,
        mode=st.sampled_from((None, *Mode)),
        model=st.sampled_from((None, GROQ, "gemma2:2b")),
        preferred=st.sampled_from((None, "groq")),
        text=st.sampled_from(("How deep?", "How wide?", CARD)),
        mark=LEVELS,
        cached=st.booleans(),
        hostile=st.booleans(),
    )
    def submit(
        self, number: int, text: str, mark: Privacy | None, cached: bool, hostile: bool, preferred: str | None,
        **fields: Any,
    ) -> None:  # fmt: skip
        self.count += 1
        name = f"task-{self.count}"
        said = (Message(role="user", content=plain(text)), Message(role="user", content=plain("it"), privacy=mark))
        submitted = task(name, messages=said, preferred_provider=preferred, allow_cached=cached, **fields)
        self.given[name], self.homes[name] = submitted, number
        context = self.context(number)
        digest = digest_to_look_up(submitted, context)
        if self.must_stay(number, submitted):
            assert not digest, "a sensitive task is asked for among stored answers"
        stored = self.stored.get((submitted.tenant, digest))
        if hostile and self.stored:
            # As if somebody had written rows: whatever is there is offered under any digest.
            other = next(iter(self.stored.values()))
            probe = decide(None, Submitted(submitted, b"key", number), context)
            held = probe.state.digest if isinstance(probe, Decision) else ""
            stored = StoredAnswer(held, replace(other.end, tenant=submitted.tenant))
        self.give(number, name, Submitted(submitted, b"key", number, stored=stored))

    def live(self, pick: int) -> tuple[int, str, TaskState] | None:
        found = [
            (number, name, state)
            for number, partition in enumerate(self.partitions)
            for name, state in partition.state.tasks.live.items()
        ]
        return found[pick % len(found)] if found else None

    @rule(
        pick=st.integers(0, 20),
        outcome=st.sampled_from((Outcome.ANSWERED, Outcome.ANSWERED, Outcome.ANSWERED, *Outcome)),
        cloud=st.booleans(),
    )
    def end(self, pick: int, outcome: Outcome, cloud: bool) -> None:
        if (chosen := self.live(pick)) is None or not chosen[2].attempts:
            return
        number, name, state = chosen
        last = state.attempts[-1]
        said = finished(
            outcome, last.number, task_id=name, provider=last.provider, model=last.model,
            tenant=self.given[name].tenant,
        )  # fmt: skip
        self.give(number, name, AttemptEnded(said, Place.CLOUD if cloud else last.place))

    @rule(pick=st.integers(0, 20), later=st.sampled_from((0, 5, 60_000)))
    def wake(self, pick: int, later: int) -> None:
        self.now += later
        if (chosen := self.live(pick)) is not None:
            self.give(chosen[0], chosen[1], WakeUp())

    @rule(pick=st.integers(0, 20))
    def lead_or_cancel(self, pick: int) -> None:
        if (chosen := self.live(pick)) is None:
            return
        number, name, state = chosen
        if state.phase is TaskPhase.FOLLOWING:
            result = self.partitions[number].state.tasks.end_for_followers(state.digest, self.now)
            self.give(number, name, LeaderFinished(result))
        else:
            self.give(number, name, Cancelled(cancelled(name, self.given[name].tenant)))

    @rule(nodes=st.sampled_from(((LOCAL, GROQ_NODE), (GROQ_NODE, ANTHROPIC_NODE), (LOCAL,), ())))
    def change_fleet(self, nodes: Any) -> None:
        self.nodes = nodes

    @rule(
        level=st.sampled_from((None, *PrivacyLevel)), providers=st.sampled_from(((), ("groq",), ("groq", "anthropic")))
    )
    def change_preferences(self, level: PrivacyLevel | None, providers: tuple[str, ...]) -> None:
        self.tenant = preferences(privacy_level=level, allowed_providers=providers)

    @rule(number=PARTITIONS)
    def tell(self, number: int) -> None:
        """What a partition tells reaches the routers of all."""
        for mark, at in self.partitions[number].state.sessions.untold(self.now):
            self.topic.append((mark, at))
            for partition in self.partitions:
                partition.told.note(mark, at)
        for known in self.tainted.values():
            if number in known:
                known.update((0, 1))

    @rule(number=PARTITIONS)
    def restart(self, number: int) -> None:
        """Another process takes a partition over: its state is a fold of the journal."""
        journal = self.partitions[number].journal
        self.partitions[number] = self.empty()
        self.partitions[number].journal = journal
        for offset, entry in enumerate(journal):
            assert entry.state is not None
            state, work = entry.state, entry.state.task
            tenant, size = ("", 0) if work is None else outline_of_task(work.to_avro())
            self.partitions[number].state.restore(
                JournaledDecision(
                    offset, entry.decided_at, entry.task_id, entry.cause, state.phase, state.digest, state.wake_at,
                    b"x", lambda *_, entry=entry: entry, tenant, size, state.work_topic, state.turn,
                    None if work is None else work.session, state.sensitive_session,
                ),
                self.now,
            )  # fmt: skip

    @invariant()
    def nothing_sensitive_is_stored(self) -> None:
        for answer in self.stored.values():
            assert answer.end.privacy is not Privacy.SENSITIVE

    @invariant()
    def partitions_know_their_sessions(self) -> None:
        for (tenant, session), known in self.tainted.items():
            for number in known:
                assert self.partitions[number].state.sessions.has(session_mark(tenant, session), self.now)


TestSensitivePaths = SensitivePaths.TestCase
TestSensitivePaths.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
