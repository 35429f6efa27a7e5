"""Work for cloud providers only, whose workers are killed while they call them."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from headrace_contracts.content import plain
from headrace_contracts.events import Message, Privacy, TaskSubmitted

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

_FROZEN_SECONDS = 20.0
"""Twice a session."""
_MODELS = ("groq/llama-3.3-70b-versatile", "anthropic/claude-haiku-4-5")


class PaidWork:
    """The tasks of a seed that is about money, and what happens to the workers that run them."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = random.Random(f"{world.plan.seed} paid work")

    def for_cloud(self, task: TaskSubmitted) -> TaskSubmitted:
        """The same task, for a provider that bills, unless its content must not go there."""
        if task.privacy is Privacy.SENSITIVE or task.role == "security_reviewer":
            return task
        return replace(
            task, messages=(Message(role="user", content=plain(f"What of {task.task_id[-3:]}?")),),
            privacy=Privacy.PUBLIC, mode=None, role=None, user="", model=self._rng.choice(_MODELS),
            budget_nanodollars=self._rng.choice((None, None, 2_500_000, 10_000_000)), allow_cached=False,
        )  # fmt: skip

    def begin(self) -> None:
        """Schedule the kills, and a freeze now and then, from which a worker wakes that was believed to be dead."""
        cloud = [process for process in self._world.processes if process.name.startswith("cloud-")]
        for _ in range(self._rng.randint(2, 6)):
            at = self._rng.uniform(0.5, self._world.plan.fault_seconds)
            process = self._rng.choice(cloud)
            kills = self._rng.random() < 0.75
            self._world.loop.outside(at, process.crash if kills else partial(process.freeze, _FROZEN_SECONDS))
