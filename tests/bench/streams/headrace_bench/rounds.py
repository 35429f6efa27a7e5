"""Alternating rounds: every contestant once per round, in an order that turns, after a round that does not count."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from headrace_bench.children import Answer, Child, ContestantFailed, running

ROUND_SECONDS = 300.0
"""After so long a contestant counts as stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One row of a comparison.

    Attributes:
        name: As the table shows it.
        command: Starts its process.
        request: What its process is asked to do in a round.
        warm_up: What is different in the request of the round that does not count.
        warm_ups: How often it does that one; a compiler needs more than one to see what is hot.
        settings: Which settings it has, for the report.
        missing: Why there is no such contestant here; its row says so.
    """

    name: str
    command: Sequence[str]
    request: Mapping[str, object]
    warm_up: Mapping[str, object] = field(default_factory=dict)
    warm_ups: int = 1
    settings: str = ""
    missing: str | None = None


@dataclass(slots=True)
class Outcome:
    """What a contestant did in each round that counts; `failure` says why it was left out from some round on."""

    contestant: Contestant
    answers: list[Answer] = field(default_factory=list)
    failure: str | None = None

    def figures(self, name: str) -> list[float]:
        """One figure of each round."""
        return [float(answer[name]) for answer in self.answers]

    @property
    def rates(self) -> list[float]:
        """Records a second, round by round."""
        return [answer["records"] / answer["seconds"] for answer in self.answers]

    @property
    def cpu_microseconds(self) -> list[float]:
        """Processor time of the contestant's process for a record, round by round."""
        return [1e6 * answer["cpu_seconds"] / answer["records"] for answer in self.answers]


def module(name: str) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", f"headrace_bench.clients.{name}"]


async def alternate(contestants: Sequence[Contestant], rounds: int, folder: Path, label: str = "") -> list[Outcome]:
    """All rounds of a comparison. A contestant that fails is left out from then on, and its row says why.

    Args:
        label: Names the comparison in the lines that tell of progress.
    """
    outcomes = [Outcome(contestant, failure=contestant.missing) for contestant in contestants]
    async with AsyncExitStack() as stack:
        children: dict[str, Child] = {}
        for contestant in contestants:
            if contestant.missing is not None:
                continue
            started = running(contestant.name, contestant.command, folder)
            children[contestant.name] = await stack.enter_async_context(started)
        for number in range(rounds + 1):
            turn = number % len(outcomes)
            for outcome in outcomes[turn:] + outcomes[:turn]:
                if outcome.failure is not None:
                    continue
                contestant = outcome.contestant
                request = contestant.request if number else {**contestant.request, **contestant.warm_up}
                try:
                    for _ in range(1 if number else contestant.warm_ups):
                        answer = await children[contestant.name].round(request, ROUND_SECONDS)
                except ContestantFailed as error:
                    outcome.failure = str(error)
                    sys.stderr.write(f"  {contestant.name}: left out. {error}\n")
                    continue
                if number > 0:
                    outcome.answers.append(answer)
                when = f"round {number}" if number else "warm-up"
                rate = answer["records"] / answer["seconds"]
                sys.stderr.write(f"  {label} {when:8} {contestant.name:60} {rate:12,.0f} /s\n")
                sys.stderr.flush()
    return outcomes
