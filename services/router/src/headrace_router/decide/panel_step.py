"""One decision about the models that work on a task together, while it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace_contracts.events import (
    AttemptState,
    Command,
    CommandKind,
    MemberState,
    PanelState,
)
from headrace_contracts.ids import attempt_id
from headrace_contracts.topics import cancelled_topic

from headrace_router.decide.attempts_step import AttemptsStep, runs
from headrace_router.decide.candidates import Choice
from headrace_router.decide.panel_messages import speaks_of_others
from headrace_router.decide.terminal import task_of


@dataclass(slots=True)
class PanelStep(AttemptsStep):
    """The state as it has become, and what the decision has so far."""

    failed_now: dict[int, frozenset[str]] = field(default_factory=dict)
    """Models that have just failed, written `provider/model`, by the place of the member."""
    missed: Choice | None = None
    """The last choice that had no candidate."""
    may_come: bool = False
    """Whether one of those may have one later."""

    @property
    def panel(self) -> PanelState:
        assert self.state.panel is not None, "only a task of several models gets here"
        return self.state.panel

    def change(self, place: int, member: MemberState) -> None:
        members = list(self.panel.members)
        members[place] = member
        self.state = replace(self.state, panel=replace(self.panel, members=tuple(members)))

    def add(self, member: MemberState) -> int:
        """One more of them; returns its place."""
        self.state = replace(self.state, panel=replace(self.panel, members=(*self.panel.members, member)))
        return len(self.panel.members) - 1

    def stop(self) -> None:
        """Have workers stop the attempts that are out: nobody waits for them any more."""
        task_id = task_of(self.state).task_id
        self.commands += [
            Command(
                kind=CommandKind.CANCEL,
                event_id=f"{attempt_id(task_id, attempt.number)}/stopped",
                topic=cancelled_topic(attempt.place).name,
                attempt=attempt.number,
            )
            for attempt in running(self.panel)
        ]

    def name(self, place: int) -> str:
        """What one of them is called in the trail."""
        member = self.panel.members[place]
        if speaks_of_others(member):
            return member.part
        if self.panel.kind == "cascade":
            return f"rung {member.place + 1}"
        asked = [one for one in self.panel.members if not speaks_of_others(one)]
        return f"{member.part}, member {member.place + 1} of {len(asked)}"


def running(panel: PanelState) -> tuple[AttemptState, ...]:
    """The attempts that are out."""
    return tuple([member.attempts[-1] for member in panel.members if runs(member)])


def answers_in(panel: PanelState) -> Mapping[int, MemberState]:
    """Those that have answered the task itself, by place."""
    return {
        place: member
        for place, member in enumerate(panel.members)
        if member.answer is not None and not speaks_of_others(member)
    }
