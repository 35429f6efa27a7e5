"""How many attempts a tenant may have out at once, so that a backlog of one does not stand before others.

A topic of attempts is a queue that workers read from its start, and they look only so far ahead. What one tenant has in
it is therefore limited: of each home partition, to a *window* of attempts that are out. Its other tasks wait in the
router, where they are nobody else's concern, and take their turns as its attempts end: in the order in which they
arrived, so that a session keeps its order, and so that a task that comes back from another topic goes first.

A task has a place in the window of a topic from its dispatch until it ends, waits or is sent to another topic; it keeps
it through a retry. Everything here follows from the journaled states: `TaskState.work_topic` and `.turn`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

_BYTES_PER_ATTEMPT: Final = 65_536


@dataclass(frozen=True, slots=True)
class AttemptWindow:
    """Most attempts that a tenant may have out in one topic, of one home partition, and most bytes of their tasks.

    A single one may have any size: it would never run otherwise.
    """

    attempts: int = 256
    bytes: int = 256 * _BYTES_PER_ATTEMPT

    @classmethod
    def of(cls, attempts: int) -> AttemptWindow:
        """With 64 KiB for each attempt, which they share."""
        return cls(attempts, attempts * _BYTES_PER_ATTEMPT)


DEFAULT_WINDOW: Final = AttemptWindow()


@dataclass(frozen=True, slots=True)
class OutNow:
    """What a tenant has out in one topic.

    Attributes:
        attempts, bytes: Tasks with an attempt out, and what they are counted with (`task_bytes`).
        next_task: The task that waits for its turn and is next; None if none waits.
    """

    attempts: int = 0
    bytes: int = 0
    next_task: str | None = None

    def has_room(self, size: int, window: AttemptWindow) -> bool:
        """Whether an attempt of a task of this size fits."""
        if self.attempts == 0:
            return True
        return self.attempts < window.attempts and self.bytes + size <= window.bytes

    def lets_go(self, task_id: str, size: int, window: AttemptWindow) -> bool:
        """Whether this task may be dispatched: there is room, and nobody is before it."""
        return self.next_task in (None, task_id) and self.has_room(size, window)


NOTHING_OUT: Final = OutNow()

_Name = tuple[str, str]
"""Tenant and topic, or tenant and session."""


@dataclass(slots=True)
class _Window:
    attempts: int = 0
    bytes: int = 0
    waiting: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Turn and size by task."""
    turns: list[tuple[int, str]] = field(default_factory=list)
    """A heap with lazy deletion: `waiting` says what is valid."""

    def next_task(self) -> str | None:
        while self.turns:
            turn, task_id = self.turns[0]
            if task_id in self.waiting and self.waiting[task_id][0] == turn:
                return task_id
            heapq.heappop(self.turns)
        return None


class AttemptWindows:
    """The windows of all tenants in one home partition: exactly the tasks that were put and not removed since."""

    def __init__(self) -> None:
        self._windows: dict[_Name, _Window] = {}
        # Of each task its window, and its size if it has a place, None if it waits.
        self._tasks: dict[str, tuple[_Name, int | None]] = {}
        self._changed: dict[_Name, None] = {}
        # Of each topic how many tasks have a place, of all tenants.
        self._places: Counter[str] = Counter()
        # Of the sessions of these tasks, by tenant and name, the topic of each task, in order; and each task's session.
        self._sessions: dict[_Name, dict[str, str]] = {}
        self._session_of: dict[str, _Name] = {}
        self.last_turn = 0
        """The highest turn so far."""

    @property
    def waiting(self) -> int:
        """How many tasks wait for their turn."""
        return sum(len(window.waiting) for window in self._windows.values())

    def awaiting_turns(self) -> Sequence[str]:
        """The tasks that wait for their turn."""
        return [task_id for window in self._windows.values() for task_id in window.waiting]

    def put(
        self,
        task_id: str,
        tenant: str,
        topic: str,
        size: int,
        waits_with: int | None = None,
        session: str | None = None,
    ) -> None:
        """Give a task a place, or have it wait for one with its turn.

        Args:
            size: Bytes that it is counted with.
            waits_with: Its turn; None if it has a place.
            session: Its session, if it is of one.
        """
        if session is not None:
            self._session_of[task_id] = tenant, session
            self._sessions.setdefault((tenant, session), {})[task_id] = topic
        name = tenant, topic
        window = self._windows.setdefault(name, _Window())
        self._tasks[task_id] = name, None if waits_with is not None else size
        self._changed[name] = None
        if waits_with is None:
            window.attempts += 1
            window.bytes += size
            self._places[topic] += 1
        else:
            window.waiting[task_id] = waits_with, size
            heapq.heappush(window.turns, (waits_with, task_id))

    def remove(self, task_id: str) -> None:
        """The task neither has a place any more nor waits for one."""
        found = self._tasks.pop(task_id, None)
        if found is None:
            return
        name, size = found
        window = self._windows[name]
        if size is None:
            del window.waiting[task_id]
        else:
            window.attempts -= 1
            window.bytes -= size
            self._places[name[1]] -= 1
        if (session := self._session_of.pop(task_id, None)) is not None:
            del self._sessions[session][task_id]
            if not self._sessions[session]:
                del self._sessions[session]
        self._changed[name] = None
        if not window.attempts and not window.waiting:
            del self._windows[name]

    def note_turn(self, turn: int) -> None:
        """A task has this turn."""
        self.last_turn = max(self.last_turn, turn)

    def out(self, tenant: str, topic: str) -> OutNow:
        """What a tenant has out in a topic."""
        window = self._windows.get((tenant, topic))
        return NOTHING_OUT if window is None else OutNow(window.attempts, window.bytes, window.next_task())

    def attempts_in(self, topic: str) -> int:
        """How many tasks of all tenants have a place in a topic."""
        return self._places[topic]

    def topic_of_session(self, tenant: str, session: str, but: str) -> str | None:
        """The topic in which the newest of a session's tasks, but for one, has a place or waits for one."""
        found = self._sessions.get((tenant, session), {})
        return next((topic for task_id, topic in reversed(found.items()) if task_id != but), None)

    def tasks_in(self, topics: Collection[str]) -> Sequence[str]:
        """The tasks that have a place in one of these topics, or wait for one, in the order in which they were put."""
        return [task_id for task_id, (name, _) in self._tasks.items() if name[1] in topics]

    def take_ready(self, limit: AttemptWindow) -> Sequence[str]:
        """The tasks that are next and may go now, of the windows that have changed since this was last asked."""
        changed, self._changed = self._changed, {}
        return self._ready(changed, limit)

    def ready(self, limit: AttemptWindow) -> Sequence[str]:
        """The tasks that are next and may go now, of all windows."""
        self._changed.clear()
        return self._ready(list(self._windows), limit)

    def _ready(self, names: Iterable[_Name], limit: AttemptWindow) -> Sequence[str]:
        ready = []
        for name in names:
            window = self._windows.get(name)
            if window is None or (task_id := window.next_task()) is None:
                continue
            out = OutNow(window.attempts, window.bytes, task_id)
            if out.has_room(window.waiting[task_id][1], limit):
                ready.append(task_id)
        return ready
