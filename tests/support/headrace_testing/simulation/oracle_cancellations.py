"""Promises about cancellations: workers stop what its own tenant has had cancelled, and hear of it from the router."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headrace_contracts.events import AttemptFinished, AttemptsCancelled, CommandKind, Outcome, TaskStatus
from headrace_contracts.ids import attempt_id

from headrace_testing.simulation.cluster import Seen

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

_STOPPED = "attempts.cancelled."


def check(judge: Judge, seen: Seen, topic: str, event: Any) -> None:
    """What a router tells workers follows from a request; what a worker has stopped follows from what it was told."""
    if isinstance(event, AttemptsCancelled):
        _check_told(judge, seen, topic, event)
    elif (
        isinstance(event, AttemptFinished)
        and event.outcome is Outcome.CANCELLED
        # What a stranger reports, no worker has stopped.
        and judge.topics.place(seen) not in judge.topics.forged
    ):
        _check_stopped(judge, seen, event)


def _check_told(judge: Judge, seen: Seen, topic: str, event: AttemptsCancelled) -> None:
    topics, place = judge.topics, topic.removeprefix(_STOPPED)
    if event.number:
        _check_taken_back(judge, seen, topic, event)
        return
    states = [each.entry.state for each in topics.commands.get((topic, seen.event_id), ())]
    results = [state.result for state in states if state is not None and state.result is not None]
    told = (event.task_id, event.tenant, TaskStatus.CANCELLED)
    if told not in [(result.task_id, result.tenant, result.status) for result in results]:
        judge.violated(f"{topic} got {seen.event_id}, which no journal entry that counts commands (by {seen.client})")
    if not any(request.tenant == event.tenant for _, request in topics.cancelled.get(event.task_id, ())):
        judge.violated(f"{topic} got {seen.event_id}, which its tenant has not asked for")
    sent = [c.topic for _, entry in topics.decisions[event.task_id] for c in entry.commands
            if c.kind is CommandKind.DISPATCH]  # fmt: skip
    if not any(name.startswith(f"work.{place}.") for name in sent):
        judge.violated(f"{topic} got {seen.event_id}, though no such worker was sent an attempt")


def _check_taken_back(judge: Judge, seen: Seen, topic: str, event: AttemptsCancelled) -> None:
    """An attempt is taken back by a decision that counts, for a later one on our own nodes, or to wait for one; or it
    is stopped, as the task of several models that it is for has ended."""
    if seen.event_id.endswith("/stopped"):
        sent = [request for _, request in judge.topics.of_task(event.task_id) if request.number == event.number]
        if (topic, seen.event_id) not in judge.topics.commands or not all(_of(one.provider, topic) for one in sent):
            judge.violated(f"{topic} got {seen.event_id}, which no journal entry that counts commands")
        return
    states = [each.entry.state for each in judge.topics.commands.get((topic, seen.event_id), ())]
    if not any(state is not None and (state.attempts or state.result is not None) for state in states):
        judge.violated(f"{topic} got {seen.event_id}, which no journal entry that counts commands (by {seen.client})")
    sent = [request for _, request in judge.topics.of_task(event.task_id) if request.number == event.number]
    if topic != f"{_STOPPED}local" or any(request.provider != "ollama" for request in sent):
        judge.violated(f"{topic} got {seen.event_id}, which is about no attempt on our own nodes")


def _of(provider: str, topic: str) -> bool:
    return (provider == "ollama") is topic.endswith("local")


def _check_stopped(judge: Judge, seen: Seen, event: AttemptFinished) -> None:
    places = {topic.split(".")[1] for (topic, *_), (_, request) in judge.topics.work.items()
              if request.attempt_id == event.attempt_id}  # fmt: skip
    names = [(f"{_STOPPED}{place}", name) for place in places for name in (event.task_id, event.attempt_id)]
    if not any((topic, name, event.tenant) in judge.topics.told for topic, name in names):
        judge.violated(f"{seen.client} has stopped {event.attempt_id}, and the router has not told it to")


def unsettled(judge: Judge) -> Iterator[str]:
    """Cancellations that workers have not been told of yet."""
    told = {(topic, task_id) for topic, task_id, _ in judge.topics.told}
    for (topic, event_id), commanded in judge.topics.commands.items():
        command, task_id = commanded[-1].command, commanded[-1].entry.task_id
        name = attempt_id(task_id, command.attempt) if command.attempt else task_id
        if command.kind is CommandKind.CANCEL and (topic, name) not in told:
            yield f"{topic} lacks {event_id}"


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning cancellations."""
    return list(unsettled(judge))
