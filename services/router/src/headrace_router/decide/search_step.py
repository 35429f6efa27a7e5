"""One decision about the searches of a task, while it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from headrace_contracts.events import (
    AttemptState,
    Command,
    Rejection,
    ResearchState,
    SearchState,
    TaskState,
    TrailStep,
)

from headrace_router.decide.candidates import NotNow
from headrace_router.decide.model import Decision, Ignored
from headrace_router.decide.terminal import rejected_steps


@dataclass(slots=True)
class SearchStep:
    """The state as it has become, and what the decision has so far."""

    state: TaskState
    commands: list[Command] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    not_now: dict[int, NotNow] = field(default_factory=dict)
    """Sources that are passed over this time, by the place of the search."""

    @property
    def research(self) -> ResearchState:
        assert self.state.research is not None, "only a task that searches gets here"
        return self.state.research

    def change(self, place: int, search: SearchState) -> None:
        searches = list(self.research.searches)
        searches[place] = search
        self.state = replace(self.state, research=replace(self.research, searches=tuple(searches)))

    def reject(self, rejected: Iterable[Rejection], now: int) -> None:
        """Tell of sources that may not run a search, each once."""
        self.rejected += [one for one in rejected if one not in self.rejected]
        steps = rejected_steps(self.state, tuple(rejected), now)
        self.state = replace(self.state, trail=(*self.state.trail, *steps))

    def note(self, now: int, word: str, reason: str, attempt: AttemptState | None = None) -> None:
        told = TrailStep(
            at=now, step=word, reason=reason,
            provider=None if attempt is None else attempt.provider, model=None if attempt is None else attempt.model,
        )  # fmt: skip
        self.state = replace(self.state, trail=(*self.state.trail, told))

    def decided(self, decision: Decision | Ignored) -> Decision:
        assert isinstance(decision, Decision), "a task that does not wait is never left as it is"
        return replace(
            decision, commands=(*self.commands, *decision.commands), rejected=(*self.rejected, *decision.rejected)
        )

    def name(self, place: int) -> str:
        """What a search is called in the trail."""
        return f"search {place + 1} of {len(self.research.searches)}"


def runs(search: SearchState) -> bool:
    """Whether an attempt at a search is out."""
    return bool(search.attempts) and search.attempts[-1].outcome is None
