"""Trouble of one place that lasts for minutes, drawn for some seeds, and what should go on and come back meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import TaskSubmitted
from headrace_streams.errors import AppendUncertain, RecordRefused, TransientError
from headrace_streams.memory import HANGS, Ailment
from headrace_streams.records import TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.network import PATIENCE_SECONDS
from headrace_testing.simulation.oracle_lasting import touches
from headrace_testing.simulation.plan import Fault
from headrace_testing.simulation.processes import RouterBody

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

SHARE: Final = 0.25
"""Share of seeds with such trouble."""
RECOVERY_SECONDS: Final = 90.0
"""After the other faults end, their traces have gone within this time: sessions, restarts, waits before retries."""
STEADY_SECONDS: Final = 30.0
"""Time over which tasks are then submitted in spite of the trouble."""
STEADY_TASKS: Final = 8
HEALED_SECONDS: Final = 90.0
"""After the trouble ends, all partitions are routed again within this time: a little more than the longest wait."""

_WRITTEN_BY_ROUTERS: Final = (
    "tasks.journal", "tasks.completed", "audit.recorded", "work.local.interactive", "work.local.batch",
)  # fmt: skip
_READ_BY_GROUPS: Final = (
    "tasks.submitted", "attempts.finished", "work.local.interactive", "work.local.batch", "usage.recorded",
)  # fmt: skip
_WRITTEN_BY_WORKERS: Final = ("attempts.finished", "usage.recorded")


@dataclass(frozen=True, slots=True)
class Sickness:
    """How one partition is sick; see `MemoryCluster.sicken`."""

    partition: TopicPartition
    ailments: Mapping[str, Ailment]


class LastingTrouble:
    """The trouble of one seed, if it has any. It begins among the other faults and outlasts them.

    Attributes:
        sickness: None if this seed has no such trouble.
        quiet_at: When the traces of the other faults have gone.
        ends_at: When the trouble ends.
    """

    def __init__(self, world: SimulatedWorld) -> None:
        # A generator of its own: the schedules of the seeds without trouble stay as they were.
        self._rng = rng = random.Random(f"{world.plan.seed} trouble")
        self._world = world
        self.sickness = _draw(rng) if rng.random() < SHARE else None
        self.quiet_at = self.ends_at = 0.0
        self._lives: Mapping[str, int] = {}
        self.ended = self.sickness is None

    def touches(self, home: int, task: TaskSubmitted) -> bool:
        """Whether something of a task is in the sick partition, so that it may wait."""
        assert self.sickness is not None
        name = self.sickness.partition
        return touches(name.topic, name.partition, self._world.partitions, home, task)

    def begin(self) -> None:
        if self.sickness is None:
            return
        loop, calm_at = self._world.loop, self._world.plan.fault_seconds
        self.quiet_at = calm_at + RECOVERY_SECONDS
        self.ends_at = self.quiet_at + STEADY_SECONDS + self._rng.choice((30.0, 60.0, 150.0))
        loop.outside(self._rng.uniform(0.5, calm_at), self._fall_ill)
        loop.outside(self.quiet_at, self._submit)
        loop.outside(self.ends_at, self._heal)
        loop.outside(self.ends_at + HEALED_SECONDS, self._look)

    def _fall_ill(self) -> None:
        sickness, world = self.sickness, self._world
        assert sickness is not None
        about = ", ".join(f"{sense}: {ailment.error or 'hangs'!r}" for sense, ailment in sickness.ailments.items())
        world.trace.fault(Fault.SICK_FOR_MINUTES.value, f"{sickness.partition} {about}")
        world.cluster.sicken(sickness.partition, **sickness.ailments)

    def _submit(self) -> None:
        self._lives = self._now_living()
        self._world.clients.begin(STEADY_TASKS, STEADY_SECONDS)

    def _heal(self) -> None:
        assert self.sickness is not None
        self._world.trace.note(f"{self.sickness.partition} is healed")
        self._world.cluster.heal(self.sickness.partition)
        self.ended = True

    def _look(self) -> None:
        """Nothing had to be restarted, neither because of the trouble nor to end it."""
        world = self._world
        for name, lives in self._now_living().items():
            if lives != self._lives[name]:
                world.judge.violated(f"{name} ended because {self._about()}")
        routed = {number for process in world.processes if isinstance(process.body, RouterBody)
                  for number in process.body.service.partitions}  # fmt: skip
        for number in sorted(set(range(world.partitions)) - routed):
            world.judge.violated(
                f"partition {number} is not routed {HEALED_SECONDS:.0f} s after the trouble's end: {self._about()}"
            )

    def _now_living(self) -> Mapping[str, int]:
        return {process.name: process.lives for process in self._world.processes}

    def _about(self) -> str:
        assert self.sickness is not None
        return f"{self.sickness.partition} was sick ({', '.join(self.sickness.ailments)})"


def _draw(rng: random.Random) -> Sickness:
    number = rng.randrange(2)
    draw, topics = rng.choice(_KINDS)
    return Sickness(TopicPartition(PREFIX + rng.choice(topics), number), draw(rng))


def _appends_fail(rng: random.Random) -> Mapping[str, Ailment]:
    """Appends are answered with errors. None takes place later than any request can arrive."""
    return {
        "appends": rng.choice((
            Ailment(TransientError("no leader (simulated)"), rng.choice((0.01, 1.0))),
            Ailment(AppendUncertain("no answer (simulated)"), PATIENCE_SECONDS),
            Ailment(AppendUncertain("no answer (simulated)"), rng.choice((0.05, 1.0)), performed=True),
        ))
    }  # fmt: skip


def _appends_refused(_rng: random.Random) -> Mapping[str, Ailment]:
    return {"appends": Ailment(RecordRefused("invalid record (simulated)"), 0.01)}


def _reads_hang(_rng: random.Random) -> Mapping[str, Ailment]:
    return {"reads": HANGS}


def _unavailable(rng: random.Random) -> Mapping[str, Ailment]:
    """Its brokers are gone: nothing of it works."""
    failure = Ailment(TransientError("no leader (simulated)"), rng.choice((0.05, PATIENCE_SECONDS)))
    return {"appends": failure, "reads": HANGS, "bounds": failure}


_KINDS: Final[tuple[tuple[Callable[[random.Random], Mapping[str, Ailment]], tuple[str, ...]], ...]] = (
    (_appends_fail, _WRITTEN_BY_ROUTERS),
    (_appends_fail, _WRITTEN_BY_WORKERS),
    (_appends_refused, _WRITTEN_BY_ROUTERS),
    (_reads_hang, _READ_BY_GROUPS),
    (_unavailable, _WRITTEN_BY_ROUTERS),
    (_unavailable, _READ_BY_GROUPS),
)
