"""What is told of the models that worked on a task together, at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import CascadeSummary, EnsembleSummary, MemberState, MemberSummary, PanelState

from headrace_router.decide.panel_messages import speaks_of_others

CASCADE: Final = "cascade"
ENSEMBLE: Final = "ensemble"
"""Kinds of panels."""


@dataclass(frozen=True, slots=True)
class PanelVerdict:
    """What was decided about the answers of several models.

    Attributes:
        place: Whose answer it is, by its place among them.
        combined_by, coherence, goal: Of an ensemble, as `EnsembleSummary` has them.
        rungs, sufficient, confidence, reason, saved_nanodollars: Of a cascade, as `CascadeSummary` has them.
    """

    place: int
    combined_by: str = ""
    coherence: float | None = None
    goal: float | None = None
    rungs: int = 0
    sufficient: bool = False
    confidence: float | None = None
    reason: str = ""
    saved_nanodollars: int = 0


def ensemble_of(panel: PanelState | None, verdict: PanelVerdict | None) -> EnsembleSummary | None:
    """How several models have answered together; None if they have not."""
    if panel is None or panel.kind != ENSEMBLE:
        return None
    answered = sum(member.answer is not None and not speaks_of_others(member) for member in panel.members)
    members = _members(panel, verdict)
    if verdict is None:
        return EnsembleSummary(members=tuple(members), answered=answered)
    return EnsembleSummary(
        members=tuple(members),
        answered=answered,
        combined_by=verdict.combined_by,
        coherence=verdict.coherence,
        goal=verdict.goal,
    )


def cascade_of(panel: PanelState | None, verdict: PanelVerdict | None) -> CascadeSummary | None:
    """How far up its ladder a task had to go; None if it had none."""
    if panel is None or panel.kind != CASCADE:
        return None
    members = _members(panel, verdict)
    if verdict is None:
        return CascadeSummary(members=tuple(members))
    return CascadeSummary(
        members=tuple(members),
        rungs=verdict.rungs,
        rung=panel.members[verdict.place].place + 1,
        sufficient=verdict.sufficient,
        confidence=verdict.confidence,
        reason=verdict.reason,
        saved_nanodollars=verdict.saved_nanodollars,
    )


def _members(panel: PanelState, verdict: PanelVerdict | None) -> Sequence[MemberSummary]:
    return [
        _member(member, chosen=verdict is not None and place == verdict.place)
        for place, member in enumerate(panel.members)
    ]


def _member(member: MemberState, *, chosen: bool) -> MemberSummary:
    last, answer = (member.attempts[-1] if member.attempts else None), member.answer
    return MemberSummary(
        part=member.part,
        provider=None if last is None else last.provider,
        model=None if last is None else last.model,
        node=None if answer is None else answer.node,
        outcome=None if last is None else last.outcome,
        score=member.score,
        cost_nanodollars=sum(attempt.cost_nanodollars for attempt in member.attempts),
        model_ms=0.0 if answer is None else answer.model_ms,
        chosen=chosen,
    )
