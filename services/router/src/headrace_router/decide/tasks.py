"""The tasks of one partition: a fold over its journal, the same in operation and in recovery."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from headrace_contracts.events import JournalEntry, TaskCompleted, TaskPhase, TaskState
from headrace_contracts.task_sizes import held_bytes
from headrace_contracts.topics import WORK_LOCAL, topic_named

from headrace_router.decide.attempt_windows import AttemptWindow, AttemptWindows, OutNow
from headrace_router.decide.model import CAUSES, AttemptEnded, Equal, WakeUp
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.sensitive_sessions import NO_SESSIONS, KnownSessions
from headrace_router.decide.sharing import may_be_kept, may_serve_followers
from headrace_router.decide.tenant_quota import LiveLoad, LiveLoads, size_of
from headrace_router.decide.terminal import task_of

_MOST_DECODED: Final = 256
_MOST_DECODED_BYTES: Final = 4 * 1024 * 1024
_MAY_ANSWER: Final = frozenset({CAUSES[AttemptEnded], CAUSES[WakeUp]})
"""Causes of ends that may be answers: several models may be given the time that is over."""


class Encoded(Protocol):
    """A journaled state of which only the beginning is at hand; the rest is decoded on demand."""

    @property
    def phase(self) -> TaskPhase | None: ...

    @property
    def digest(self) -> str: ...

    @property
    def wake_at(self) -> int | None: ...

    @property
    def work_topic(self) -> str | None: ...

    @property
    def turn(self) -> int | None: ...

    def entry(self) -> JournalEntry: ...


class Unread(Encoded, Protocol):
    """One that was read from the journal in a recovery."""

    @property
    def cause(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def task_bytes(self) -> int: ...

    @property
    def value(self) -> bytes: ...

    @property
    def session(self) -> str | None: ...

    @property
    def sensitive_session(self) -> bytes | None: ...


class PartitionTasks:
    """Live tasks with their states, leaders and followers, ids of ended tasks, and cached answers.

    States are held as the bytes that the journal has of them: decoded, each is dozens of objects, which a full garbage
    collection looks at, and several times as large. Only those used last are decoded.

    Args:
        cache: Limits of the answer cache.
        remembered: How many ids of ended tasks are held, so that a repeated submission is recognised.
    """

    def __init__(self, cache: CacheLimits, remembered: int) -> None:
        self._live: dict[str, TaskState | Encoded] = {}
        self._recent = _RecentStates()
        self._waiting: dict[str, None] = {}
        self._phases: Counter[TaskPhase] = Counter()
        self._loads = LiveLoads()
        self._windows = AttemptWindows()
        self._leaders: dict[str, str] = {}
        self._followers: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._remembered = remembered
        self._answers = _Answers(cache)
        self.sessions: KnownSessions = NO_SESSIONS
        """Which sessions are sensitive, as far as is known here."""
        # How the last leader ended, of digests that have followers: what was not kept in the cache, such as a refusal,
        # must still reach those who waited for it, also after a takeover between its end and theirs.
        self._ends: dict[str, TaskState | Unread] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._live

    @property
    def live(self) -> Mapping[str, TaskState]:
        """All live tasks, decoded for this call."""
        return {task_id: _read(state) for task_id, state in self._live.items()}

    def wake_times(self) -> Iterator[tuple[str, int | None]]:
        """The wake-up time of each live task, in milliseconds since the epoch."""
        return ((task_id, state.wake_at) for task_id, state in self._live.items())

    @property
    def phases(self) -> Mapping[TaskPhase, int]:
        """The number of live tasks per phase."""
        return self._phases

    def load_of(self, tenant: str) -> LiveLoad:
        """What a tenant has in flight: all its tasks that have not ended, followers included."""
        return self._loads.of(tenant)

    @property
    def loads(self) -> Mapping[str, LiveLoad]:
        """What each tenant has in flight."""
        return self._loads.all()

    @property
    def live_bytes(self) -> int:
        """Bytes that all live tasks are counted with."""
        return self._loads.bytes

    def out(self, tenant: str, topic: str) -> OutNow:
        """What a tenant has out in a topic of attempts."""
        return self._windows.out(tenant, topic)

    def attempts_in(self, topic: str) -> int:
        """How many attempts of all tenants are out in a topic."""
        return self._windows.attempts_in(topic)

    def site_of_session(self, tenant: str, session: str, but: str) -> str | None:
        """The site of the newest local attempt of a session's other tasks than `but`; None if none is out."""
        topic = self._windows.topic_of_session(tenant, session, but)
        return None if topic is None or not topic.startswith(WORK_LOCAL) else topic_named(topic).site

    def tasks_in(self, topics: Collection[str]) -> Sequence[str]:
        """The tasks with an attempt out in one of these topics, or that wait for their turn there, oldest first."""
        return self._windows.tasks_in(topics)

    @property
    def last_turn(self) -> int:
        """The highest turn of a task so far."""
        return self._windows.last_turn

    @property
    def behind_others(self) -> int:
        """How many tasks wait for their turn, for other attempts of their tenant to end."""
        return self._windows.waiting

    def take_ready(self, window: AttemptWindow) -> Sequence[str]:
        """The tasks whose turn has come since this was last asked."""
        return self._windows.take_ready(window)

    def ready(self, window: AttemptWindow) -> Sequence[str]:
        """All tasks whose turn has come."""
        return self._windows.ready(window)

    def waiting(self) -> Sequence[str]:
        """The tasks that wait for a candidate, longest wait first."""
        return list(self._waiting)

    def awaiting_turns(self) -> Sequence[str]:
        """The tasks that wait for their turn, for other attempts of their tenant to end."""
        return self._windows.awaiting_turns()

    def get(self, task_id: str) -> TaskState | None:
        """The state of a live task. Raises UnreadableValue if it cannot be decoded."""
        found = self._live.get(task_id)
        if found is None or isinstance(found, TaskState):
            return found
        state = self._recent.get(task_id)
        if state is None:
            state = _read(found)
            self._recent.keep(task_id, state, self._loads.one(task_id)[1])
        return state

    def may_lead(self, task_id: str) -> bool:
        """Whether equal tasks may follow this one."""
        found = self._live.get(task_id)
        return found is not None and bool(found.digest) and found.phase is not TaskPhase.FOLLOWING

    def has_ended(self, task_id: str) -> bool:
        return task_id in self._ended

    def apply(self, task_id: str, state: TaskState | Unread, encoded: Encoded | None = None) -> None:
        """Apply a journaled state as the task's newest; if it is live, hold it as `encoded`, where that is given."""
        before = self._live.pop(task_id, None)
        self._recent.drop(task_id)
        if before is not None and before.phase is not None:
            self._phases[before.phase] -= 1
            self._waiting.pop(task_id, None)
            self._windows.remove(task_id)
            self._unlink(task_id, before)
        if state.phase is TaskPhase.FINISHED:
            self._loads.remove(task_id)
            self._ended[task_id] = None
            self._ended.move_to_end(task_id)
            if len(self._ended) > self._remembered:
                self._ended.popitem(last=False)
            if state.digest:
                self._answers.keep(state.digest, state)
                if state.digest in self._followers and state.digest not in self._leaders and _may_be_an_answer(state):
                    self._ends[state.digest] = state
            return
        self._live[task_id] = encoded or state
        if task_id not in self._loads:
            self._loads.add(task_id, *_load(state))
        if encoded is not None and isinstance(state, TaskState):
            self._recent.keep(task_id, state, self._loads.one(task_id)[1])
        if state.phase is not None:
            self._phases[state.phase] += 1
        self._windows.note_turn(state.turn or 0)
        if state.work_topic is not None:
            tenant, size = self._loads.one(task_id)
            turn = (state.turn or 0) if state.phase is TaskPhase.WAITING else None
            self._windows.put(task_id, tenant, state.work_topic, size, turn, _session(state))
        elif state.phase is TaskPhase.WAITING:
            self._waiting[task_id] = None
        if not state.digest:
            return
        if state.phase is TaskPhase.FOLLOWING:
            self._followers[state.digest][task_id] = None
        else:
            self._leaders.setdefault(state.digest, task_id)
            self._ends.pop(state.digest, None)

    def limit_cache(self, cache: CacheLimits) -> None:
        """Other limits of the answer cache; answers beyond them go when the next one comes."""
        self._answers.limits = cache

    def equal_to(self, digest: str, now: int) -> Equal:
        """The task in flight that a new one with this digest would follow, and a cached answer."""
        return Equal(self._leaders.get(digest), self._answers.get(digest, now))

    def next_leaderless_follower(self, digest: str) -> str | None:
        """The follower that has waited longest, if this digest has no leader any more."""
        if digest in self._leaders:
            return None
        return next(iter(self._followers.get(digest, ())), None)

    def end_for_followers(self, digest: str, now: int) -> TaskCompleted | None:
        """What the followers of a leader that has ended may share, if anything: its own end, or a cached answer.

        Raises UnreadableValue if it cannot be decoded.
        """
        found = self._ends.get(digest)
        result = None if found is None else _read(found).result
        if result is not None and may_serve_followers(result):
            return result
        return self._answers.get(digest, now)

    def leaderless(self) -> Sequence[str]:
        """Digests with followers and without a leader."""
        return [digest for digest in self._followers if digest not in self._leaders]

    def _unlink(self, task_id: str, state: TaskState | Encoded) -> None:
        if self._leaders.get(state.digest) == task_id:
            del self._leaders[state.digest]
        followers = self._followers.get(state.digest)
        if followers is not None:
            followers.pop(task_id, None)
            if not followers:
                del self._followers[state.digest]
                self._ends.pop(state.digest, None)


class _RecentStates:
    """Decoded states, those used last, bounded by number and bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[TaskState, int]] = OrderedDict()
        self._bytes = 0

    def get(self, task_id: str) -> TaskState | None:
        found = self._kept.get(task_id)
        if found is None:
            return None
        self._kept.move_to_end(task_id)
        return found[0]

    def keep(self, task_id: str, state: TaskState, size: int) -> None:
        self._kept[task_id] = state, size
        self._bytes += size
        while len(self._kept) > _MOST_DECODED or (self._bytes > _MOST_DECODED_BYTES and len(self._kept) > 1):
            self.drop(next(iter(self._kept)))

    def drop(self, task_id: str) -> None:
        found = self._kept.pop(task_id, None)
        if found is not None:
            self._bytes -= found[1]


class _Answers:
    """Terminal states by digest, oldest first, bounded by number, bytes and age."""

    def __init__(self, limits: CacheLimits) -> None:
        self.limits = limits
        # The newest last. An end that has not been read may turn out to be a failure, and must not have replaced an
        # answer then: whoever takes a partition over serves what its former owner did.
        self._kept: OrderedDict[str, tuple[TaskCompleted | Unread, ...]] = OrderedDict()
        self._bytes = 0

    def keep(self, digest: str, state: TaskState | Unread) -> None:
        ends: tuple[TaskCompleted | Unread, ...]
        if isinstance(state, TaskState):
            if state.result is None or not may_be_kept(state.result):
                return
            ends = (state.result,)
        elif state.cause in _MAY_ANSWER:
            # Whether it is an answer or a failure is found out on demand.
            ends = (*self._kept.get(digest, ()), state)
        else:
            return
        self._drop(digest)
        self._kept[digest] = ends
        self._bytes += _sizes(ends)
        while len(self._kept) > self.limits.entries or self._bytes > self.limits.bytes:
            self._drop(next(iter(self._kept)))

    def get(self, digest: str, now: int) -> TaskCompleted | None:
        ends = self._kept.get(digest, ())
        found: TaskCompleted | None = None
        for end in reversed(ends):
            found = end if isinstance(end, TaskCompleted) else _read(end).result
            if found is not None and may_be_kept(found):
                break
            found = None
        if found is None:
            self._drop(digest)
            return None
        self._bytes += _size(found) - _sizes(ends)
        self._kept[digest] = (found,)
        return found if now < found.completed_at + self.limits.ttl else None

    def _drop(self, digest: str) -> None:
        dropped = self._kept.pop(digest, None)
        if dropped is not None:
            self._bytes -= _sizes(dropped)


def _may_be_an_answer(state: TaskState | Unread) -> bool:
    if isinstance(state, TaskState):
        return state.result is not None and may_serve_followers(state.result)
    # Whether it is one is found out on demand.
    return state.cause in _MAY_ANSWER


def _sizes(ends: Iterable[TaskCompleted | Unread]) -> int:
    return sum(map(_size, ends))


def _size(answer: TaskCompleted | Unread) -> int:
    if not isinstance(answer, TaskCompleted):
        return len(answer.value)
    text = 0 if answer.answer is None else len(answer.answer.data)
    return text + held_bytes(answer.choices) + held_bytes(answer.embeddings)


def _load(state: TaskState | Unread) -> tuple[str, int]:
    """The tenant of a live task, and the bytes that it is counted with."""
    if not isinstance(state, TaskState):
        return state.tenant, state.task_bytes
    task = task_of(state)
    return task.tenant, size_of(task)


def _session(state: TaskState | Unread) -> str | None:
    return task_of(state).session if isinstance(state, TaskState) else state.session


def _read(state: TaskState | Encoded) -> TaskState:
    if isinstance(state, TaskState):
        return state
    read = state.entry().state
    assert read is not None, "an entry without a state cannot be applied"
    return read
