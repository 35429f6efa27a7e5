"""Promises to operators: what a router has read as switched off it does not use, and the journal names the policy of
each decision before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.events import EntryKind, Place, SwitchedOff, SwitchKind, TaskPhase, TaskState

from headrace_testing.simulation.processes import RouterBody

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.processes import SimulatedProcess


def check_sent(judge: Judge, process: SimulatedProcess, state: TaskState) -> None:
    """No attempt is sent to what is off; to be called with each decision, when it is made."""
    body, now = process.body, process.clock()
    if not isinstance(body, RouterBody) or state.phase is not TaskPhase.RUNNING:
        return
    sent = state.attempts[-1]
    # A state that is only written again says when its attempt was sent.
    if sent.dispatched_at != now:
        return
    for off in body.off(now):
        if _names(off, sent.provider, sent.model, sent.place):
            judge.violated(f"{process.name} sends to {sent.provider}/{sent.model} while {off.kind}/{off.name} is off")


def _names(off: SwitchedOff, provider: str, model: str, place: Place) -> bool:
    match off.kind:
        case SwitchKind.PROVIDER:
            return off.name == provider
        case SwitchKind.MODEL:
            return off.name in (model, f"{provider}/{model}")
        case SwitchKind.FEATURE:
            return off.name == "cloud" and place is Place.CLOUD
        case _:
            return False


def verdict(judge: Judge) -> Sequence[str]:
    """All violations that the journals show."""
    return list(_by_another_policy(judge))


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
