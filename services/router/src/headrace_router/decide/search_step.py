"""One decision about the searches of a task, while it is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrace_contracts.events import (
    ResearchState,
    SearchState,
)

from headrace_router.decide.attempts_step import AttemptsStep
from headrace_router.decide.candidates import NotNow


@dataclass(slots=True)
class SearchStep(AttemptsStep):
    """The state as it has become, and what the decision has so far."""

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

    def name(self, place: int) -> str:
        """What a search is called in the trail."""
        return f"search {place + 1} of {len(self.research.searches)}"
