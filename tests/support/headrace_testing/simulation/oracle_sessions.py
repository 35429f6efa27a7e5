"""Promises about sessions that have held sensitive content: from the decision on that shows it, in the partition's
journal, nothing of them is sent to the cloud, whoever owns the partition since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.events import CommandKind, Privacy, ServedFrom, TaskSubmitted
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_streams.records import TopicPartition

from headrace_testing.router_twin import PREFIX

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning sessions."""
    return [what for number in judge.topics.journal for what in _of_partition(judge, number)]


def _of_partition(judge: Judge, number: int) -> Iterator[str]:
    sensitive: dict[tuple[str, str], str] = {}
    known: dict[str, TaskSubmitted] = {}
    # Simulated routers do not hear of the sessions of other partitions, so what retention has removed nobody knows.
    kept_from = judge.world.cluster.partition(TopicPartition(PREFIX + TASKS_JOURNAL.name, number)).start
    for seen, entry in judge.topics.journal[number].counted:
        state = entry.state
        # What only takes the place of a record that does not count knows nothing of its task.
        if state is None or entry.cause == "replaced":
            continue
        if state.task is not None:
            known[entry.task_id] = state.task
        task = known.get(entry.task_id)
        # Of a task that ends with its first entry, its end says which session it was of.
        about = task if task is not None else state.result
        if about is None or about.session is None:
            continue
        session = (about.tenant, about.session)
        if session in sensitive:
            clouds = [c for c in entry.commands if c.kind is CommandKind.DISPATCH and c.topic.startswith("work.cloud")]
            for command in clouds:
                yield f"{command.event_id} goes to the cloud, though {sensitive[session]} made its session sensitive"
            sent = any(command.kind is CommandKind.DISPATCH for command in entry.commands)
            if sent and state.privacy is not Privacy.SENSITIVE:
                yield f"{entry.task_id} runs as {state.privacy}, though {sensitive[session]} made its session sensitive"
            end = state.result
            if end is not None and end.served_from is ServedFrom.CACHE and end.privacy is not Privacy.SENSITIVE:
                yield f"{entry.task_id} was served as {end.privacy} in a session that is sensitive"
        asked = None if task is None else task.privacy
        if seen.record.offset >= kept_from and Privacy.SENSITIVE in (state.privacy, asked):
            sensitive.setdefault(session, f"{entry.task_id} at offset {seen.record.offset}")
