"""Promises to operators: what a router or a worker has read as switched off it does not use, and the journal names the
policy of each decision before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.events import EntryKind, TaskPhase, TaskState

from headrace_testing.simulation.processes import RouterBody, names

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.processes import SimulatedProcess


def check_sent(judge: Judge, process: SimulatedProcess, state: TaskState) -> None:
    """No attempt is sent to what is off; to be called with each decision, when it is made."""
    body, now = process.body, process.clock()
    if not isinstance(body, RouterBody) or state.phase not in (TaskPhase.RUNNING, TaskPhase.CONSULTING):
        return
    members = () if state.panel is None else state.panel.members
    of_members = [one.attempts[-1] for one in members if one.attempts]
    newest = state.attempts[-1:] if state.phase is TaskPhase.RUNNING else of_members
    for sent in newest:
        # A state that is only written again says when its attempt was sent.
        if sent.dispatched_at != now:
            continue
        for off in body.off(now):
            if names(off, sent.provider, sent.model, sent.place):
                judge.violated(
                    f"{process.name} sends to {sent.provider}/{sent.model} while {off.kind}/{off.name} is off"
                )


def verdict(judge: Judge) -> Sequence[str]:
    """All violations that the journals show."""
    return [*_called_while_off(judge), *_by_another_policy(judge)]


def _called_while_off(judge: Judge) -> Iterator[str]:
    begun: set[str] = set()
    for call in judge.world.models.calls:
        # An execution that has begun is finished, by as many calls as it takes.
        if call.off and call.execution not in begun:
            yield f"{call.run} begins a call of {call.provider}/{call.model} at {call.at:.3f} s while it is off"
        begun.add(call.execution)


def _by_another_policy(judge: Judge) -> Iterator[str]:
    for number, journal in sorted(judge.topics.journal.items()):
        epoch, said = -1, ""
        for seen, entry in journal.counted:
            if entry.epoch != epoch:
                epoch, said = entry.epoch, journal.policies.get(entry.epoch, "")
            if entry.kind is EntryKind.CHECKPOINT:
                said = entry.policy_version
            elif entry.kind is EntryKind.DECISION and entry.policy_version not in ("", said):
                place = f"journal {number}, the entry at {seen.record.offset}"
                yield f"{place}: it was decided by policy {entry.policy_version}, and {said} was announced"
