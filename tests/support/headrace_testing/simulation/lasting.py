"""Trouble of one place that lasts for minutes, drawn for some seeds, and what should go on and come back meanwhile.

The trouble has random generators of its own, so that the seeds without it keep their schedules.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from headrace_testing.simulation.outsiders import Outsiders
from headrace_testing.simulation.processes import RouterBody
from headrace_testing.simulation.registry_troubles import LostIds
from headrace_testing.simulation.topic_troubles import RecreatedTopic, ResizedTopics, TruncatedTopic
from headrace_testing.simulation.troubles import HeldInput, JournalJunk, RefusedRecords, SickPartition, Trouble

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

SHARE: Final = 0.2
"""Share of seeds with such trouble."""
LOST_IDS_SHARE: Final = 0.04
"""Share of the others in which the registry loses ids."""
RECOVERY_SECONDS: Final = 60.0
"""After the other faults end, their traces have gone within this time: sessions, restarts, waits before retries."""
STEADY_SECONDS: Final = 20.0
"""Time over which tasks are then submitted in spite of the trouble."""
STEADY_TASKS: Final = 6
HEALED_SECONDS: Final = 90.0
"""After the trouble ends, all partitions are routed again within this time: a little more than the longest wait."""
_LOOK_SECONDS: Final = 2.0
_LATE_SECONDS: Final = 30.0

_KINDS: Final[tuple[tuple[Callable[[random.Random], Trouble], int], ...]] = (
    (SickPartition, 5),
    (RefusedRecords, 3),
    (Outsiders, 2),
    (RecreatedTopic, 2),
    (TruncatedTopic, 1),
    (ResizedTopics, 2),
    (HeldInput, 2),
    (JournalJunk, 2),
)


class LastingTrouble:
    """The trouble of one seed, if it has any. It begins among the other faults and outlasts them.

    Attributes:
        trouble: None if this seed has none.
        quiet_at: When the traces of the other faults have gone.
        ends_at: When the trouble ends.
    """

    def __init__(self, world: SimulatedWorld) -> None:
        rng = random.Random(f"{world.plan.seed} trouble")
        self._world = world
        self.trouble: Trouble | None = None
        if rng.random() < SHARE:
            makers, weights = zip(*_KINDS, strict=True)
            self.trouble = rng.choices(makers, weights)[0](rng)
        elif rng.random() < LOST_IDS_SHARE:
            self.trouble = LostIds(rng)
            world.kit = replace(world.kit, codec=self.trouble.codec(world.loop.time))
        self._rng = rng
        self.quiet_at = self.ends_at = 0.0
        self._lives: Mapping[str, int] = {}
        self.ended = self.trouble is None

    @property
    def changes_logs(self) -> bool:
        """Whether offsets of an input may stand for other records than before."""
        return isinstance(self.trouble, RecreatedTopic | TruncatedTopic)

    @property
    def limits_are_known(self) -> bool:
        """Whether routers ask the cluster how large records may be."""
        return isinstance(self.trouble, RefusedRecords) and self.trouble.known

    def begin(self) -> None:
        trouble = self.trouble
        if trouble is None:
            return
        loop, calm_at = self._world.loop, self._world.plan.fault_seconds
        begins_at = calm_at + _LATE_SECONDS if trouble.late else self._rng.uniform(0.5, calm_at)
        self.quiet_at = max(calm_at + RECOVERY_SECONDS, begins_at + trouble.delay_seconds)
        self.ends_at = self.quiet_at + STEADY_SECONDS + self._rng.choice((10.0, 20.0, 100.0))
        loop.outside(begins_at, self._begin, trouble)
        loop.outside(self.quiet_at, self._submit, trouble)
        loop.outside(self.ends_at, self._mend, trouble)

    def _begin(self, trouble: Trouble) -> None:
        self._world.trace.fault(trouble.fault.value, trouble.about)
        trouble.begin(self._world)

    def _submit(self, trouble: Trouble) -> None:
        self._lives = self._now_living()
        self._world.clients.begin(STEADY_TASKS, STEADY_SECONDS, trouble.steady_task)

    def _mend(self, trouble: Trouble) -> None:
        self._world.trace.note(f"mended: {trouble.about}")
        trouble.mend(self._world)
        self._look(trouble)

    def _look(self, trouble: Trouble) -> None:
        """All is routed again in time, and nothing had to be restarted because of the trouble, or to end it."""
        world = self._world
        routed = {number for process in world.processes if isinstance(process.body, RouterBody)
                  for number in process.body.service.partitions}  # fmt: skip
        missing = sorted(set(range(world.partitions)) - routed)
        if missing and world.loop.time() < self.ends_at + HEALED_SECONDS:
            world.loop.outside(_LOOK_SECONDS, self._look, trouble)
            return
        self.ended = True
        for number in missing:
            world.judge.violated(
                f"partition {number} is not routed {HEALED_SECONDS:.0f} s after the trouble's end: {trouble.about}"
            )
        for name, lives in self._now_living().items():
            if lives != self._lives[name]:
                world.judge.violated(f"{name} ended because {trouble.about}")

    def _now_living(self) -> Mapping[str, int]:
        # One that is still away comes back, whatever the trouble.
        return {process.name: process.lives + (not process.running) for process in self._world.processes}
