"""Runs the team: all agents concurrently, each performing its jobs one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from headrace_devstack.demo.corpus import Agent, Plan
from headrace_devstack.demo.exchange import Exchange
from headrace_devstack.demo.outcomes import JobOutcome
from headrace_devstack.demo.working import Workplace, do_job

_STAGGER_SECONDS = 0.01


@dataclass(slots=True)
class TeamProgress:
    """The team's progress; `changed` is called on every step."""

    jobs: int
    changed: Callable[[], None] = lambda: None
    running: int = 0
    outcomes: list[JobOutcome] = field(default_factory=list)


async def work(
    plan: Plan, place_of: Mapping[str, Workplace], exchange: Exchange, progress: TeamProgress
) -> list[JobOutcome]:
    """Run all jobs; `place_of` has each agent's workplace by name. Returns the outcomes in the order the jobs ended."""

    async def agent_at_work(place: int, agent: Agent) -> None:
        # Agents do not all start at the same instant, but closely enough for equal jobs to coalesce.
        await asyncio.sleep(place * _STAGGER_SECONDS)
        for job in agent.jobs:
            progress.running += 1
            progress.changed()
            outcome = await do_job(place_of[agent.name], job, agent)
            progress.running -= 1
            progress.outcomes.append(outcome)
            progress.changed()
            if outcome.answered:
                await exchange.publish(agent, job)

    async with asyncio.TaskGroup() as group:
        for place, agent in enumerate(plan.agents):
            group.create_task(agent_at_work(place, agent))
    return progress.outcomes
