"""One decision about several attempts of a task side by side, while it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from headrace_contracts.events import (
    AttemptState,
    Command,
    MemberState,
    Rejection,
    SearchState,
    TaskState,
    TrailStep,
)

from headrace_router.decide.model import Decision, Ignored
from headrace_router.decide.terminal import rejected_steps


@dataclass(slots=True)
class AttemptsStep:
    """The state as it has become, and what the decision has so far."""

    state: TaskState
    commands: list[Command] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def reject(self, rejected: Iterable[Rejection], now: int) -> None:
        """Tell of models or sources that may not run an attempt, each once."""
        self.rejected += [one for one in rejected if one not in self.rejected]
        steps = rejected_steps(self.state, tuple(rejected), now)
        self.state = replace(self.state, trail=(*self.state.trail, *steps))

    def note(self, now: int, word: str, reason: str, attempt: AttemptState | None = None) -> None:
        step = TrailStep(
            at=now, step=word, reason=reason,
            provider=None if attempt is None else attempt.provider, model=None if attempt is None else attempt.model,
        )  # fmt: skip
        self.state = replace(self.state, trail=(*self.state.trail, step))

    def decided(self, decision: Decision | Ignored) -> Decision:
        assert isinstance(decision, Decision), "a task that does not wait is never left as it is"
        return replace(
            decision, commands=(*self.commands, *decision.commands), rejected=(*self.rejected, *decision.rejected)
        )


def runs(part: MemberState | SearchState) -> bool:
    """Whether an attempt of it is out."""
    return bool(part.attempts) and part.attempts[-1].outcome is None
