"""Trouble of the schema registry that lasts: ids are lost, or given to other schemas, until they are repaired."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, ClassVar, Final

from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.events import TaskSubmitted
from headrace_contracts.topics import TOPICS
from headrace_streams.records import TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.log import SharedCodec
from headrace_testing.simulation.plan import Fault
from headrace_testing.simulation.troubles import Trouble
from headrace_testing.unruly_registry import UnrulyRegistry

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

CHECK_SECONDS: Final = 10.0
"""How often services ask whether the ids that they write still stand for their schemas."""
_LATE_SECONDS: Final = 0.5
"""How long after a process goes on what it had encoded before may still be written."""
_LOST: Final = (
    "tasks.journal", "tasks.completed", "audit.recorded", "usage.recorded", "attempts.finished", "tasks.replies",
    "work.local.batch",
)  # fmt: skip
_OTHER: Final = '{"type": "record", "name": "Other", "namespace": "elsewhere", "fields": []}'


class LostIds(Trouble):
    """The registry has nothing, or another schema, under ids that services write."""

    fault: ClassVar = Fault.SCHEMA_IDS_LOST

    def __init__(self, rng: random.Random) -> None:
        self._registry = UnrulyRegistry()
        self._how = rng.choice(("emptied", "forgotten", "given away"))
        self._texts = {name: schema_text(spec.record) for name, spec in TOPICS.items()}
        lost = self._texts[rng.choice(_LOST)]
        self.topics: Collection[str] = [
            name for name, text in self._texts.items() if self._how == "emptied" or text == lost
        ]
        self._ids: dict[str, int] = {}
        self._began_at = 0.0
        self._over = False
        super().__init__(rng, f"the registry had {self._how} the schemas of {', '.join(sorted(self.topics)[:4])}")

    def codec(self, clock: Callable[[], float]) -> Codec:
        """The services' own, which asks this trouble's registry. It gives the ids of every other simulation."""

        async def prepared() -> Codec:
            await Codec(self._registry, PREFIX).prepare(TOPICS.values(), register=True)
            for name, spec in TOPICS.items():
                self._ids[name] = await self._registry.id_of(PREFIX + spec.subject, self._texts[name])
            codec = SharedCodec(self._registry, PREFIX, clock=clock)
            await codec.prepare(TOPICS.values())
            return codec

        return asyncio.run(prepared())

    def begin(self, world: SimulatedWorld) -> None:
        self._began_at = world.loop.time()
        if self._how == "emptied":
            self._registry.wipe()
        else:
            lost = {self._ids[name] for name in self.topics}
            for schema_id in lost:
                self._registry.forget(schema_id)
                if self._how == "given away":
                    self._registry.put(schema_id, "elsewhere-value", _OTHER)
        self._checking = world.loop.create_task(self._check(world))

    async def _check(self, world: SimulatedWorld) -> None:
        while not self._over:
            try:
                await world.kit.codec.check()
            except RegistryUnavailable as error:
                world.defect("the registry answers, but counts as unavailable", error)
            await asyncio.sleep(CHECK_SECONDS)
        await world.kit.codec.check()

    def mend(self, world: SimulatedWorld) -> None:
        """As `headrace schemas repair`."""
        for name in self.topics:
            self._registry.put(self._ids[name], PREFIX + TOPICS[name].subject, self._texts[name])
        self._over = True

    def delays_decision(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        # A router that takes a partition over publishes the ends that its predecessor left, before it decides anything.
        return not {"tasks.journal", "tasks.completed"}.isdisjoint(self.topics)

    def leaves_out(self, topic: str) -> bool:
        return topic == "tasks.replies" and topic in self.topics

    def verdict(self, world: SimulatedWorld) -> Iterator[str]:
        """No service writes with an id that it must know to be lost."""
        known_at, ends_at = self._began_at + CHECK_SECONDS, world.trouble.ends_at
        services = {process.name for process in world.processes}
        thaws = {process.name: process.thawed_at for process in world.processes}
        for topic in self.topics:
            for number in range(world.cluster.describe_topics([PREFIX + topic])[PREFIX + topic].partitions):
                name = TopicPartition(PREFIX + topic, number)
                for seen in world.cluster.history.partition(name.topic, name.partition):
                    # What was encoded before a process stood still is written when it goes on.
                    late = any(0 <= seen.at - at < _LATE_SECONDS for at in thaws.get(seen.client, ()))
                    if known_at < seen.at < ends_at and seen.client in services and not late:
                        yield f"{name} got {seen.event_id} from {seen.client}, though {self.about}"
