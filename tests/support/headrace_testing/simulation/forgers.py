"""Others who want tasks cancelled that are not theirs, and write requests for it while attempts wait or run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from headrace_contracts import topics
from headrace_contracts.events import AttemptRequested, TaskCancelled
from headrace_streams.publishing import Publication

from headrace_testing.signatures import FORGERIES, OTHERS, signed
from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

MALLORY: Final = "mallory"
"""A tenant with a key, and without tasks."""
_KINDS: Final = (
    "no header", "another tenant's key", "revoked key", "changed value", "another record key", "two signatures",
    "another installation's code", "one's own key under another's id",
)  # fmt: skip
"""Those of `FORGERIES` that name the victim's tenant and cost no wait for a key."""
_EVERY_SECONDS: Final = (0.3, 1.0, 3.0)


class Forgers:
    """Among the other faults they write such a request now and then, of a kind that must have no effect.

    Their random generator is their own, so that seeds without them keep their schedules.
    """

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = random.Random(f"{world.plan.seed} forgers")
        self._every = self._rng.choice(_EVERY_SECONDS)

    def begin(self) -> None:
        if self._world.plan.rate(Fault.FORGED_CANCEL):
            self._later()

    def _later(self) -> None:
        self._world.loop.outside(self._every * self._rng.uniform(0.5, 1.5), self._go_on)

    def _go_on(self) -> None:
        world = self._world
        if world.calm:
            return
        known = world.judge.topics
        # They know the ids, as somebody does who may read the topics of work.
        live = [request for _, request in known.work.values() if request.task_id not in known.completed]
        if live and self._rng.random() < 0.7:
            self._write(self._rng.choice(live))
        self._later()

    def _write(self, request: AttemptRequested) -> None:
        world = self._world
        kind = self._rng.choice((MALLORY, *_KINDS))
        tenant = MALLORY if kind == MALLORY else request.tenant
        event = TaskCancelled(
            task_id=request.task_id, tenant=tenant, home_partition=request.home_partition, requested_at=world.now_ms()
        )
        world.trace.fault(Fault.FORGED_CANCEL.value, f"{request.task_id}: {kind}")
        world.cluster.client = "stranger"
        world.clients.write(
            Publication(
                spec=topics.TASKS_CANCELLED, event=event, event_id=f"{request.task_id}/forged", key=b"forged",
                tenant=tenant, time_ms=event.requested_at, partition=request.home_partition,
            ),
            inadmissible=kind != MALLORY,
            sign=signed(OTHERS) if kind == MALLORY else FORGERIES[kind].headers,
        )  # fmt: skip
