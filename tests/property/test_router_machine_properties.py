"""Random lives of several tasks at once: what must hold whatever happens, in whatever order."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    CommandKind,
    EntryKind,
    Failure,
    JournalEntry,
    Lane,
    Mode,
    NodeStatus,
    Outcome,
    Place,
    Preferences,
    Privacy,
    PrivacyLevel,
    Sampling,
    TaskPhase,
    TaskState,
    TaskSubmitted,
    Usage,
)
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_COMPLETED, TASKS_JOURNAL, topics_with, work_topic
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.attempt_windows import AttemptWindow
from headrace_router.decide.costs import most_tokens
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
    Submitted,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.publications import publication
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.decide.tenant_quota import LiveLoad, TenantQuota, size_of
from headrace_streams.journal import JournaledDecision
from headrace_streams.journal_reading import outline_of_task
from headrace_testing import routing_events, routing_laws
from headrace_testing.routing import ANTHROPIC_NODE, GROQ_NODE, LOCAL, NOW, cancelled, finished, task
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

SHIPPED = load_policy(None)
# Fewer attempts than all models of a role together would get. The laws are those of attempts at an answer: searches
# before it have random lives of their own in test_router_research.
POLICY = SHIPPED.model_copy(
    update={
        "retry": SHIPPED.retry.model_copy(update={"attempts": 3}),
        "roles": {name: role.model_copy(update={"research": None}) for name, role in SHIPPED.roles.items()},
    }
)
PRICES = load_price_book()
STRICTNESS = [Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE]
TASKS = [f"task-{number}" for number in range(7)]
NODES = (
    replace(LOCAL, slots=2), replace(LOCAL, node="a", site="a"), replace(LOCAL, node="b", site="b", busy=1),
    GROQ_NODE, ANTHROPIC_NODE,
)  # fmt: skip
WINDOW = AttemptWindow(attempts=1)


class Lives(RuleBasedStateMachine):
    """One partition whose world changes at random."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.nodes: tuple[NodeStatus, ...] = NODES
        self.preferences: Preferences | None = None
        self.of_user: Preferences | None = None
        self.quota = TenantQuota()
        self.tasks = PartitionTasks(POLICY.cache, 100)
        self.journal: list[JournalEntry] = []
        self.submitted: set[str] = set()
        self.budgets: dict[str, int | None] = {}
        self.privacy: dict[str, Privacy] = {}
        self.produced: Counter[str] = Counter()
        self.ends: dict[str, TaskState] = {}
        self.given: dict[str, TaskSubmitted] = {}

    def give(self, task_id: str, event: RouterEvent) -> None:
        state = self.tasks.get(task_id)
        if state is None and self.tasks.has_ended(task_id):
            return
        context = self.context()
        result = decide(state, event, context)
        routing_laws.check(state, event, result, context)
        assert decide(state, event, context) == result, "the same again was decided differently"
        if isinstance(result, Decision):
            self.record(task_id, event, result, context)

    def context(self) -> DecisionContext:
        return DecisionContext(
            now=self.now,
            policy=POLICY,
            prices=PRICES,
            fleet=Fleet(self.nodes),
            peers=self.tasks,
            tenant_preferences=self.preferences,
            user_preferences=self.of_user,
            quota=self.quota,
            window=WINDOW,
        )

    def record(self, task_id: str, event: RouterEvent, decision: Decision, context: DecisionContext) -> None:
        entry = JournalEntry(
            kind=EntryKind.DECISION,
            task_id=task_id,
            cause=CAUSES[type(event)],
            state=decision.state,
            commands=decision.commands,
            rejected=decision.rejected,
            policy_version=POLICY.version,
            decided_at=self.now,
        )
        assert JournalEntry.from_avro(entry.to_avro()) == entry
        if isinstance(event, Submitted) and decision.state.phase is not TaskPhase.FINISHED:
            load = self.tasks.load_of(event.task.tenant)
            assert load.tasks < self.quota.tasks, "admitted beyond the quota"
            assert not load.tasks or load.bytes + size_of(event.task) <= self.quota.bytes, "admitted beyond the quota"
        before = self.privacy.get(task_id)
        now = decision.state.privacy
        assert before is None or STRICTNESS.index(now) >= STRICTNESS.index(before), "the level was lowered"
        self.privacy[task_id] = now
        for command in decision.commands:
            self.produced[command.event_id] += 1
            # Time stands still here: the same wait may begin again within one millisecond, and be told again.
            again = self.produced[command.event_id] > 1 and "/waiting/" not in command.event_id
            assert not again, f"{command.event_id} was produced twice"
            made = publication(entry, command)
            if command.kind is CommandKind.DISPATCH:
                self.check_dispatch(decision.state, made.event, made.spec.name)
            assert CODEC.encode(made.spec, made.event) == CODEC.encode(made.spec, publication(entry, command).event)
        self.journal.append(entry)
        self.ends.update({task_id: decision.state} if decision.state.phase is TaskPhase.FINISHED else {})
        self.tasks.apply(task_id, decision.state)
        for ready in self.tasks.take_ready(WINDOW):
            self.give(ready, WakeUp())
        self.settle(decision.state, context)

    def check_dispatch(self, state: TaskState, request: Any, topic: str) -> None:
        cloud = topic.startswith("work.cloud")
        assert cloud == (request.provider != "ollama")
        assert request.privacy is state.privacy
        if cloud:
            assert request.privacy is not Privacy.SENSITIVE
            if request.privacy is Privacy.INTERNAL:
                named = self.preferences
                assert named is not None
                assert request.provider in {*named.allowed_providers, named.preferred_provider}
                if self.of_user is not None and self.of_user.allowed_providers:
                    assert request.provider in {*self.of_user.allowed_providers, self.of_user.preferred_provider}
        asked = [attempt for attempt in state.attempts if attempt.asked]
        assert len(asked) <= POLICY.retry.attempts
        per_model = Counter((attempt.provider, attempt.model) for attempt in asked)
        assert max(per_model.values()) <= POLICY.retry.attempts_per_model

    def settle(self, state: TaskState, context: DecisionContext) -> None:
        if state.phase is not TaskPhase.FINISHED or not state.digest:
            return
        leaderless_follower = self.tasks.next_leaderless_follower(state.digest)
        if leaderless_follower is not None:
            self.give(leaderless_follower, LeaderFinished(state.result))
            self.settle(state, context)

    @initialize()
    def begin(self) -> None:
        # A task of the most travelled kind, so that no example is spent on nothing at all.
        first = task(TASKS[0], role="research", sampling=Sampling(max_output_tokens=200))
        self.given[TASKS[0]] = first
        self.submitted.add(TASKS[0])
        self.give(TASKS[0], Submitted(first, b"key", 0))

    @rule(
        again=st.sampled_from([False, False, False, True]),
        like_the_first=st.booleans(),
        same=st.booleans(),
        privacy=st.sampled_from([None, *Privacy]),
        role=st.sampled_from([None, "research", "research", "security_reviewer", "devops", "nobody"]),
        model=st.sampled_from([None, None, None, None, "claude-haiku-4-5", "groq/llama-3.1-8b-instant", "nothing:1b"]),
        mode=st.sampled_from([None, None, *Mode]),
        lane=st.sampled_from([None, *Lane]),
        budget=st.sampled_from([None, None, 0, 300_000, 1_500_000]),
        deadline=st.sampled_from([None, None, None, 1, 5_000, 10**10]),
        preferred=st.sampled_from([None, "groq", "anthropic", "nobody"]),
        allow_cached=st.booleans(),
        longest=st.sampled_from([200, 200, None]),
        early_cancellation=st.booleans(),
        session=st.sampled_from([None, None, "s1", "s2"]),
    )
    def submit(
        self,
        again: bool,
        like_the_first: bool,
        same: bool,
        privacy: Privacy | None,
        role: str | None,
        model: str | None,
        mode: Mode | None,
        lane: Lane | None,
        budget: int | None,
        deadline: int | None,
        preferred: str | None,
        allow_cached: bool,
        longest: int | None,
        early_cancellation: bool,
        session: str | None,
    ) -> None:
        fresh = [name for name in TASKS if name not in self.submitted]
        task_id = TASKS[1] if again or not fresh else fresh[0]
        if task_id not in self.submitted:
            self.budgets[task_id] = budget
        self.submitted.add(task_id)
        submitted = task(
            task_id,
            "the same" if same else task_id,
            privacy=privacy,
            role=role,
            model=model,
            mode=mode,
            lane=lane,
            budget_nanodollars=budget,
            sampling=Sampling(max_output_tokens=longest),
            deadline_at=None if deadline is None else self.now + deadline,
            preferred_provider=preferred,
            allow_cached=allow_cached,
            session=session,
            reply_partition=0,
            stream=True,
            labels={"of": "the first"} if same else {},
            submitted_at=self.now,
        )
        if like_the_first and task_id != TASKS[0]:
            # Equal in all that matters, so that it follows or is served.
            submitted = replace(self.given[TASKS[0]], task_id=task_id, submitted_at=self.now)
            self.budgets[task_id] = submitted.budget_nanodollars
        self.given.setdefault(task_id, submitted)
        cancellation = cancelled(task_id) if early_cancellation and task_id == TASKS[2] else None
        self.give(task_id, Submitted(submitted, b"key", 0, None, cancellation))

    @precondition(lambda self: self.tasks.phases.get(TaskPhase.RUNNING))
    @rule(
        data=st.data(),
        outcome=st.sampled_from([*[Outcome.FAILED_RETRYABLE] * 5, *[Outcome.ANSWERED] * 3, *Outcome]),
        code=st.sampled_from(
            [*["overloaded"] * 4, "timeout", "empty_answer", "answered_remotely", "invalid_request", "too_little_time"]
        ),
        wait=st.sampled_from([None, None, 100, 3_000, 60_000]),
        output=st.sampled_from([0, 200, 200, -7, 10**15]),
        finish_reason=st.sampled_from(["stop", "stop", "length", "unheard_of"]),
        patient=st.booleans(),
        asked=st.sampled_from([True, True, False]),
    )
    def end_attempt(
        self,
        data: st.DataObject,
        outcome: Outcome,
        code: str,
        wait: int | None,
        output: int,
        finish_reason: str,
        patient: bool,
        asked: bool,
    ) -> None:
        running = sorted(t for t, state in self.tasks.live.items() if state.phase is TaskPhase.RUNNING)
        task_id = data.draw(st.sampled_from(running))
        state = self.tasks.live[task_id]
        assert state.task is not None
        last = state.attempts[-1]
        usage = Usage(input_tokens=most_tokens(state.task.messages, state.system_prompt), output_tokens=output)
        if not asked:
            usage = Usage()
        failure = None if outcome is Outcome.ANSWERED else Failure(code=code, retry_after_ms=wait)
        fields: dict[str, Any] = {"provider": last.provider, "model": last.model, "usage": usage, "failure": failure}
        if outcome is Outcome.ANSWERED:
            fields["finish_reason"] = finish_reason
        self.give(task_id, AttemptEnded(finished(outcome, last.number, task_id=task_id, **fields)))
        after = self.tasks.get(task_id)
        if patient and after is not None and after.phase is TaskPhase.BACKING_OFF:
            assert after.wake_at is not None
            self.let_time_pass(after.wake_at - self.now)

    @rule(
        task_id=st.sampled_from(TASKS), number=st.integers(1, 6), outcome=st.sampled_from(Outcome), remote=st.booleans()
    )
    def hear_of_any_attempt(self, task_id: str, number: int, outcome: Outcome, remote: bool) -> None:
        nothing: dict[str, Any] = {"usage": Usage(), "execution_id": "late"}
        if remote:
            nothing["failure"] = Failure(code="answered_remotely", message="ollama.com made the answer")
        self.give(task_id, AttemptEnded(finished(outcome, number, task_id=task_id, **nothing)))

    @rule(task_id=st.sampled_from(TASKS[1:]), tenant=st.sampled_from(["acme", "mallory", "mallory"]))
    def cancel(self, task_id: str, tenant: str) -> None:
        self.give(task_id, Cancelled(cancelled(task_id, tenant)))

    @rule(tasks=st.sampled_from([1, 2, 3, 10_000]), size=st.sampled_from([1, 5_000, 10**9, 10**9]))
    def change_quota(self, tasks: int, size: int) -> None:
        self.quota = TenantQuota(tasks, size)

    @rule(milliseconds=st.sampled_from([1, 200, 5_000, 70_000]))
    def wait(self, milliseconds: int) -> None:
        self.let_time_pass(milliseconds)

    @precondition(lambda self: len(self.submitted) == len(TASKS))
    @rule()
    def wait_beyond_deadlines(self) -> None:
        self.let_time_pass(4_000_000)

    def let_time_pass(self, milliseconds: int) -> None:
        self.now += milliseconds
        for task_id, state in list(self.tasks.live.items()):
            if state.wake_at is not None and state.wake_at <= self.now:
                self.give(task_id, WakeUp())

    @rule(states=st.tuples(*[st.sampled_from(["healthy", "sick", "silent"])] * len(NODES)))
    def change_fleet(self, states: tuple[str, ...]) -> None:
        self.nodes = tuple(
            replace(node, healthy=state == "healthy", valid_for_ms=0 if state == "silent" else node.valid_for_ms)
            for node, state in zip(NODES, states, strict=True)
        )
        for task_id in self.tasks.waiting():
            self.give(task_id, WakeUp())
        silent = {work_topic(Place.LOCAL, lane, node.site).name for node in self.nodes[:3] if not node.valid_for_ms
                  for lane in Lane}  # fmt: skip
        for task_id in self.tasks.tasks_in(silent):
            self.give(task_id, WakeUp())

    @rule(
        mode=st.sampled_from([None, *Mode]),
        level=st.sampled_from([None, *PrivacyLevel]),
        preferred=st.sampled_from([None, "groq", "anthropic"]),
        allowed=st.sets(st.sampled_from(["groq", "anthropic"])),
        user=st.sampled_from(["", "", "eve"]),
    )
    def change_preferences(
        self, mode: Mode | None, level: PrivacyLevel | None, preferred: str | None, allowed: set[str], user: str
    ) -> None:
        changed = Preferences(
            tenant="acme",
            user=user,
            ai_mode=mode,
            privacy_level=level,
            preferred_provider=preferred,
            allowed_providers=tuple(sorted(allowed)),
            updated_at=self.now,
        )
        if user:
            self.of_user = changed
        else:
            self.preferences = changed

    @precondition(lambda self: len(self.tasks) > 2)
    @rule(data=st.data())
    def outgrow_the_journal(self, data: st.DataObject) -> None:
        self.give(data.draw(st.sampled_from(sorted(self.tasks.live))), Unrecordable(9, 8))

    @precondition(lambda self: len(self.given) > 1)
    @rule(data=st.data(), unknown=st.booleans())
    def try_everything(self, data: st.DataObject, unknown: bool) -> None:
        """Every event there is, in season and out of season, on one task; none of it happens."""
        task_id = data.draw(st.sampled_from(sorted(self.given)))
        state = None if unknown else self.tasks.get(task_id) or self.ends.get(task_id)
        for event, context in routing_events.variants(state, self.given[task_id], self.context()):
            result = decide(state, event, context)
            routing_laws.check(state, event, result, context)

    @invariant()
    def a_task_is_live_or_has_ended_once(self) -> None:
        for task_id in self.submitted:
            ends = [e for e in self.journal if e.task_id == task_id and e.state and e.state.phase is TaskPhase.FINISHED]
            completes = [
                command
                for entry in self.journal
                if entry.task_id == task_id
                for command in entry.commands
                if command.topic == TASKS_COMPLETED.name
            ]
            assert len(ends) == len(completes) == (0 if self.tasks.get(task_id) else 1)

    @invariant()
    def a_live_task_will_be_looked_at_again(self) -> None:
        for state in self.tasks.live.values():
            assert state.wake_at is not None
            assert state.deadline_at is not None
            assert state.wake_at <= max(state.deadline_at, self.now)

    @invariant()
    def who_waits_is_known(self) -> None:
        waiting = {t: state for t, state in self.tasks.live.items() if state.phase is TaskPhase.WAITING}
        assert set(self.tasks.waiting()) == {t for t, state in waiting.items() if state.work_topic is None}
        assert self.tasks.behind_others == len(waiting) - len(self.tasks.waiting())

    @invariant()
    def loads_are_what_a_recount_finds(self) -> None:
        live = [state.task for state in self.tasks.live.values() if state.task is not None]
        load = LiveLoad(len(live), sum(map(size_of, live)))
        assert self.tasks.loads == ({"acme": load} if live else {})
        assert self.tasks.live_bytes == load.bytes

    @invariant()
    def followers_have_a_leader(self) -> None:
        assert self.tasks.leaderless() == []

    @invariant()
    def what_sensitive_tasks_asked_stayed_here(self) -> None:
        for state in self.tasks.live.values():
            if state.task is not None and state.task.privacy is Privacy.SENSITIVE:
                assert all(attempt.place is Place.LOCAL for attempt in state.attempts)

    @invariant()
    def nobody_has_more_out_than_the_window_and_whoever_may_go_has_gone(self) -> None:
        out: Counter[tuple[str, str]] = Counter()
        for state in self.tasks.live.values():
            if state.phase is TaskPhase.RUNNING and state.task is not None:
                last = state.attempts[-1]
                out[state.task.tenant, work_topic(last.place, state.lane, last.site).name] += 1
        assert max(out.values(), default=0) <= WINDOW.attempts
        assert not self.tasks.ready(WINDOW)

    @invariant()
    def no_budget_is_overspent(self) -> None:
        for entry in self.journal:
            budget = self.budgets.get(entry.task_id)
            if entry.state is not None and entry.state.result is not None and budget is not None:
                assert entry.state.result.cost_nanodollars <= budget

    def teardown(self) -> None:
        rebuilt = PartitionTasks(POLICY.cache, 100)
        for entry in self.journal:
            assert entry.state is not None
            rebuilt.apply(entry.task_id, entry.state)
        self.compare(rebuilt)
        # The same from bytes, of which only the beginning is read before somebody asks.
        unread = PartitionTasks(POLICY.cache, 100)
        for offset, entry in enumerate(self.journal):
            unread.apply(entry.task_id, recorded(offset, entry))
        assert dict(unread.wake_times()) == {task_id: state.wake_at for task_id, state in self.tasks.live.items()}
        self.compare(unread)

    def compare(self, rebuilt: PartitionTasks) -> None:
        assert rebuilt.live == self.tasks.live
        assert +Counter(rebuilt.phases) == +Counter(self.tasks.phases)
        assert (rebuilt.loads, rebuilt.live_bytes) == (self.tasks.loads, self.tasks.live_bytes)
        assert rebuilt.waiting() == self.tasks.waiting()
        assert rebuilt.leaderless() == self.tasks.leaderless()
        assert rebuilt.behind_others == self.tasks.behind_others
        for topic in [topic for topic in topics_with(["a", "b"]) if topic.startswith("work.")]:
            for tenant in ("acme", "globex"):
                assert rebuilt.out(tenant, topic) == self.tasks.out(tenant, topic)
            assert rebuilt.attempts_in(topic) == self.tasks.attempts_in(topic)
            assert set(rebuilt.tasks_in([topic])) == set(self.tasks.tasks_in([topic]))
        for session in ("s1", "s2"):
            of = [tasks.site_of_session("acme", session, "") for tasks in (rebuilt, self.tasks)]
            assert of[0] == of[1]
        for state in {entry.state.digest: entry.state for entry in self.journal if entry.state}.values():
            assert rebuilt.equal_to(state.digest, self.now) == self.tasks.equal_to(state.digest, self.now)
        for task_id in self.given:
            assert rebuilt.has_ended(task_id) == self.tasks.has_ended(task_id) == (task_id in self.ends)


def recorded(offset: int, entry: JournalEntry) -> JournaledDecision:
    """An entry as a recovery finds it."""
    value = CODEC.encode(TASKS_JOURNAL, entry)
    where = Origin("tasks.journal", 0, offset)
    paths = ("kind", "task_id", "cause", "state.phase", "state.digest", "state.wake_at", "state.task.labels",
             "state.task.session")  # fmt: skip
    found = CODEC.first_fields(JournalEntry, value, where, paths)
    phase = TaskPhase(found["state"]["phase"])
    task = found["state"]["task"]
    return JournaledDecision(
        offset, NOW, found["task_id"], found["cause"], phase, found["state"]["digest"], found["state"]["wake_at"],
        value, lambda _, data: CODEC.decode(JournalEntry, data, where),
        *(("", 0) if task is None else outline_of_task(task)), found["state"]["work_topic"], found["state"]["turn"],
        None if task is None else task["session"],
    )  # fmt: skip


def _prepared() -> Codec:
    codec = Codec(MemoryRegistry())
    asyncio.run(codec.prepare(topics_with(["a", "b"]).values(), register=True))
    return codec


CODEC = _prepared()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
