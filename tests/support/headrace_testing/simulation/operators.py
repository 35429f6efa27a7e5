"""What operators do while everything runs: they switch things off for a while, and publish policies.

All of it is drawn from a generator of its own, so that the seeds without it keep their schedules.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import yaml
from headrace_contracts import topics
from headrace_contracts.events import PolicyPublished, SwitchedOff
from headrace_contracts.switches import switch_key, switch_of
from headrace_contracts.topics import TopicSpec
from headrace_router.decide.revisions import INSTALLATION, revision_key
from headrace_streams.publishing import Publication

from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

_SWITCHES: Final = (
    "provider/groq", "provider/anthropic", "provider/ollama", "feature/cloud", "feature/cache", "feature/coalescing",
    "model/gemma2:2b", "model/groq/llama-3.3-70b-versatile",
)  # fmt: skip
_MOST: Final = 4


class Operators:
    """Writes switches and policies."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = random.Random(f"{world.plan.seed} operate")
        self._revision = 0

    def begin(self) -> None:
        """Draw when they do what."""
        plan, rng = self._world.plan, self._rng
        for fault, act in ((Fault.SWITCHED_OFF, self._switch_off), (Fault.POLICY_CHANGED, self._publish_policy)):
            if plan.rate(fault):
                for _ in range(rng.randint(1, _MOST)):
                    self._world.loop.outside(rng.uniform(0.0, plan.fault_seconds), act)

    def _switch_off(self) -> None:
        now = self._world.now_ms()
        kind, name = switch_of(self._rng.choice(_SWITCHES))
        seconds = self._rng.choice((1.0, 5.0, 15.0))
        off = SwitchedOff(kind=kind, name=name, until=now + round(seconds * 1000), switched_at=now)
        self._world.trace.fault(Fault.SWITCHED_OFF.value, f"{switch_key(off)} for {seconds} s")
        self._write(topics.SWITCHES, off, switch_key(off), now)

    def _publish_policy(self) -> None:
        self._revision += 1
        policy = self._world.kit.policy
        document = policy.model_dump(mode="json")
        # Every judgement of the others holds under all of them.
        document["attempts"]["max_output_tokens"] = policy.attempts.max_output_tokens - self._revision
        text = yaml.safe_dump(document) if self._rng.random() < 0.9 else "roles: []"
        made = PolicyPublished(
            scope=INSTALLATION, revision=self._revision, version=f"v{self._revision}", text=text,
            published_at=self._world.now_ms(),
        )  # fmt: skip
        self._world.trace.fault(Fault.POLICY_CHANGED.value, f"revision {self._revision}")
        self._write(topics.POLICIES, made, revision_key(made), made.published_at)

    def _write(self, spec: TopicSpec, event: Any, key: str, now: int) -> None:
        self._world.cluster.client = "clients"
        self._world.clients.write(
            Publication(
                spec=spec, event=event, event_id=f"{key}/{now}", key=key.encode(), tenant="", time_ms=now, subject=key
            )
        )
