"""Promises about attempts that are out: never more of a tenant in a topic than its window, and whoever may go goes.

Some seeds have small windows, drawn from a generator of their own, so that all others are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import JournalEntry, TaskPhase, TaskState
from headrace_contracts.topics import work_topic
from headrace_router.decide.attempt_windows import DEFAULT_WINDOW, AttemptWindow
from headrace_router.decide.tenant_quota import size_of
from headrace_router.decide.terminal import task_of

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

_SMALL_SHARE: Final = 0.2
_SETTLE_SECONDS: Final = 20.0
_SOON_SECONDS: Final = 3.0

_Name = tuple[str, str]
"""Tenant and topic."""


def window_of(seed: int) -> AttemptWindow:
    """What a tenant may have out in a topic, of one partition, in this seed."""
    rng = random.Random(f"{seed} window")
    if rng.random() >= _SMALL_SHARE:
        return DEFAULT_WINDOW
    return AttemptWindow(attempts=rng.choice((1, 1, 2)), bytes=rng.choice((DEFAULT_WINDOW.bytes, 5_000)))


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning windows."""
    return [*_kept(judge), *_told(judge)]


def _kept(judge: Judge) -> Iterator[str]:
    window = window_of(judge.world.plan.seed)
    for number, partition in judge.topics.journal.items():
        out: dict[str, tuple[_Name, int]] = {}
        for _, entry in partition.counted:
            state = entry.state
            if state is None:
                continue
            before = out.pop(entry.task_id, None)
            if state.phase not in (TaskPhase.RUNNING, TaskPhase.SEARCHING, TaskPhase.CONSULTING):
                continue
            task = task_of(state)
            if state.phase is not TaskPhase.RUNNING:
                # It has one place, however many searches, or members, are out.
                assert state.work_topic is not None
                name = task.tenant, state.work_topic
            else:
                last = state.attempts[-1]
                name = task.tenant, work_topic(last.place, state.lane, last.site).name
            out[entry.task_id] = name, size_of(task)
            sizes = [size for other, size in out.values() if other == name]
            # A repeat of the same state adds nothing.
            if before is not None and before[0] == name:
                continue
            if len(sizes) > window.attempts or (len(sizes) > 1 and sum(sizes) > window.bytes):
                yield f"{name[0]} has {len(sizes)} attempts of {sum(sizes)} bytes in {name[1]} of {number}"


def _told(judge: Judge) -> Iterator[str]:
    """A task that is next goes, or goes elsewhere, soon after there is room."""
    window = window_of(judge.world.plan.seed)
    for partition in judge.topics.journal.values():
        states: dict[str, TaskState] = {}
        ready: dict[str, float] = {}
        for seen, entry in partition.counted:
            state = entry.state
            if state is None:
                continue
            since = ready.get(entry.task_id)
            if since is not None and entry.cause == "wake_up":
                # A router that has taken over since learns it only then, and lets its predecessor settle first.
                log = judge.world.cluster.history.partition(seen.record.topic, seen.record.partition)
                known = log[entry.epoch].at
                settled = max(since, known + _SETTLE_SECONDS if known > since else since)
                if _decided(judge, seen.client, entry, seen.at) > settled + _SOON_SECONDS:
                    yield f"task {entry.task_id} was not told that its turn had come"
            states.pop(entry.task_id, None)
            if state.phase is not TaskPhase.FINISHED:
                states[entry.task_id] = state
            ready = {name: ready.get(name, seen.at) for name in _next(states, window)}


def _decided(judge: Judge, router: str, entry: JournalEntry, written: float) -> float:
    """When an entry was decided, in seconds since the start: what the network does to it then is no delay of ours."""
    world = judge.world
    skew = next((one.skew_ms for one in world.processes if one.name == router), 0)
    since_start = entry.decided_at - skew - (world.now_ms() - round(world.loop.time() * 1000))
    return min(written, since_start / 1000)


def _next(states: Mapping[str, TaskState], window: AttemptWindow) -> Iterator[str]:
    """The tasks that may go."""
    out: dict[_Name, list[int]] = {}
    waiting: dict[_Name, list[tuple[int, str]]] = {}
    for task_id, state in states.items():
        if state.work_topic is None or state.task is None:
            continue
        name = state.task.tenant, state.work_topic
        if state.phase is TaskPhase.WAITING:
            waiting.setdefault(name, []).append((state.turn or 0, task_id))
        else:
            out.setdefault(name, []).append(size_of(state.task))
    for name, turns in waiting.items():
        task_id, sizes = min(turns)[1], out.get(name, [])
        size = size_of(task_of(states[task_id]))
        if not sizes or (len(sizes) < window.attempts and sum(sizes) + size <= window.bytes):
            yield task_id
