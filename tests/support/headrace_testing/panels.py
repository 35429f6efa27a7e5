"""Policies with a cascade and an ensemble, and what several models report, for tests."""

from __future__ import annotations

from functools import cache
from typing import Any

from headrace_contracts.content import plain
from headrace_contracts.events import AttemptState, Command, CommandKind, EntryKind, JournalEntry, Outcome, TaskState
from headrace_router.adapters.policy_file import parse_policy, policy_text
from headrace_router.decide.model import AttemptEnded, Decision, Ignored
from headrace_router.decide.policy import Policy
from headrace_router.decide.publications import publication
from headrace_router.decide.retry import panel_attempts
from headrace_streams.publishing import Publication

from headrace_testing.routing import Desk, finished

ROLES = """
  stepwise:
    models: [ollama/gemma2:2b]
    cascade:
      use: {use}
      rungs: [ollama/gemma2:2b, ollama/llama3:8b, groq/llama-3.3-70b-versatile]
      {tests}

  together:
    models: [ollama/gemma2:2b]
    system_prompt: Answer plainly.
    ensemble:
      use: {use}
      members:
        - {{part: primary, models: [ollama/gemma2:2b]}}
        - {{part: validation, models: [ollama/phi3:3.8b, ollama/qwen2.5-coder:1.5b]}}
        - {{part: technical, models: [ollama/llama3:8b, groq/llama-3.3-70b-versatile], system_prompt: Be technical.}}
      {combine}
"""
"""A role with a cascade, and one with an ensemble."""


@cache
def policy_with(
    *, use: str = "always", tests: str = "self_rating: 0.7", combine: str = "combine: vote", roles: str = ""
) -> Policy:
    """The shipped policy with the roles `stepwise` and `together`, and others as YAML."""
    text, source = policy_text(None)
    return parse_policy(text + ROLES.format(use=use, tests=tests, combine=combine) + roles, source)


def state_of(desk: Desk) -> TaskState:
    """The state of the desk's task."""
    assert desk.state is not None
    return desk.state


def out(desk: Desk) -> list[str]:
    """The attempts that are out, as number:provider/model."""
    return [f"{one.number}:{one.provider}/{one.model}" for one in attempts(desk) if one.outcome is None]


def attempts(desk: Desk) -> list[AttemptState]:
    """The attempts of all who work on the task, in order."""
    return sorted(panel_attempts(state_of(desk)), key=lambda one: one.number)


def report(
    desk: Desk, number: int, outcome: Outcome = Outcome.ANSWERED, text: str | None = None, **fields: Any
) -> AttemptEnded:
    """The report of an attempt, by the model that it was sent to."""
    sent = next((one for one in attempts(desk) if one.number == number), None)
    if text is not None:
        fields["content"] = plain(text)
    if sent is not None:
        fields = {"provider": sent.provider, "model": sent.model, **fields}
    return AttemptEnded(finished(outcome, number, **fields))


def say(desk: Desk, number: int, text: str, **fields: Any) -> Decision:
    """An attempt is answered."""
    return desk.decide(report(desk, number, text=text, **fields))


def end(desk: Desk, number: int, outcome: Outcome, **fields: Any) -> Decision:
    """An attempt ends otherwise."""
    return desk.decide(report(desk, number, outcome, **fields))


def ignored(desk: Desk, event: AttemptEnded) -> str:
    """Why an event changes nothing."""
    result = desk.give(event)
    assert isinstance(result, Ignored), result
    return result.reason


def published(desk: Desk, command: Command) -> Publication:
    """The record that a command of the last decision stands for."""
    entry = JournalEntry(
        kind=EntryKind.DECISION, state=desk.decisions[-1].state, commands=desk.decisions[-1].commands,
        decided_at=desk.now, policy_version="p",
    )  # fmt: skip
    assert JournalEntry.from_avro(entry.to_avro()) == entry
    return publication(entry, command)


def requests(desk: Desk) -> list[Any]:
    """What the last decision sends to workers."""
    dispatched = [one for one in desk.decisions[-1].commands if one.kind is CommandKind.DISPATCH]
    return [published(desk, one).event for one in dispatched]


def trail(desk: Desk) -> list[str]:
    """The words of the task's trail."""
    state = state_of(desk)
    steps = state.trail if state.result is None else state.result.trail
    return [step.step for step in steps]
