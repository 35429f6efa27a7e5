"""Topics that are not what they were: created again, cut short, given more partitions."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from headrace_streams.errors import RecordRefused, StreamsError
from headrace_streams.memory import MemoryLog
from headrace_streams.records import TopicPartition
from headrace_streams.resizing import GROUPS, ResizeRefused, resize

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.chaos import PARTITIONS_AT_FIRST
from headrace_testing.simulation.plan import Fault
from headrace_testing.simulation.troubles import Trouble, of_some_worker, with_what_workers_hear

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

_INPUTS: Final = ("tasks.submitted", "tasks.submitted", "tasks.cancelled", "attempts.finished")
_NOTICED_SECONDS: Final = 80.0
"""Routers compare their positions every 30 s, believe a log that was cut short when they see it twice, and then take
its partition over again."""


class RecreatedTopic(Trouble):
    """An input of the routers is deleted and created again, perhaps under what groups have committed before."""

    fault = Fault.TOPIC_RECREATED
    delay_seconds = _NOTICED_SECONDS

    def __init__(self, rng: random.Random) -> None:
        self._topic = of_some_worker(rng, rng.choice(_INPUTS))
        super().__init__(rng, f"{self._topic} was created again")

    def begin(self, world: SimulatedWorld) -> None:
        forget_commits = self.rng.random() < 0.7
        for topic in with_what_workers_hear(self._topic):
            world.cluster.recreate_topic(PREFIX + topic, forget_commits=forget_commits)
            for number in range(world.partitions):
                world.judge.retire(topic, number, 0)


class TruncatedTopic(Trouble):
    """A partition of an input of the routers has lost its newest records."""

    fault = Fault.TOPIC_TRUNCATED
    # What is appended before somebody looks would hide that anything was lost.
    late = True
    delay_seconds = _NOTICED_SECONDS

    def __init__(self, rng: random.Random) -> None:
        self._topic = of_some_worker(rng, rng.choice(("tasks.submitted", "attempts.finished")))
        self._number = rng.randrange(PARTITIONS_AT_FIRST)
        super().__init__(rng, f"{self._topic}[{self._number}] was cut short")

    def begin(self, world: SimulatedWorld) -> None:
        name = TopicPartition(PREFIX + self._topic, self._number)
        log = world.cluster.partition(name)
        at = max(log.start, log.end - self.rng.randint(1, 3))
        world.cluster.truncate_after(name, at)
        world.judge.retire(self._topic, self._number, at)


class ResizedTopics(Trouble):
    """All topics that tasks go through get more partitions, as `headrace topics resize tasks` does it."""

    fault = Fault.TOPICS_RESIZED
    delay_seconds = 45.0

    def __init__(self, rng: random.Random) -> None:
        self._more = rng.randint(1, 2)
        super().__init__(rng, f"the topics of tasks got {self._more} more partitions")

    def begin(self, world: SimulatedWorld) -> None:
        world.loop.as_process(None, lambda: asyncio.create_task(self._resize(world)))

    async def _resize(self, world: SimulatedWorld) -> None:
        names = [PREFIX + name for name in GROUPS["tasks"]]
        admin = MemoryLog(world.cluster, world.now_ms, client="operator", network=world.clients.network).admin()
        while True:
            wanted = max(world.cluster.partition_counts(names).values())
            try:
                await resize(admin, "tasks", max(wanted, PARTITIONS_AT_FIRST + self._more), PREFIX)
            except (ResizeRefused, RecordRefused):
                # Somebody has given one of the topics more partitions meanwhile.
                continue
            except StreamsError:
                await asyncio.sleep(1.0)
                continue
            break
        world.partitions = world.cluster.partition_counts(names)[PREFIX + "tasks.submitted"]
        world.trace.note(f"{world.partitions} partitions")
