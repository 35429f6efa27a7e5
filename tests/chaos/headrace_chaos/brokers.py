"""Three brokers as their operator sees and moves them: plain Kafka clients, and the files of the controllers."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from headrace_testing.raw_kafka import raw_client

from headrace_chaos.wire import quiet_logger

NODES: Final = (1, 2, 3)
_SECONDS = 10.0
_SETTLE_SECONDS = 180.0

Partition = tuple[str, int]
"""Topic, with its prefix, and number."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The brokers that have a partition; `leader` is -1 while it has none."""

    leader: int
    all: tuple[int, ...]
    in_sync: tuple[int, ...]


class Brokers:
    """Questions and orders to the cluster. Raises KafkaException while it does not answer."""

    def __init__(self, kafka: Mapping[str, str], data: Path) -> None:
        self._kafka = kafka
        self._data = data
        properties: dict[str, str | int | float | bool] = {
            **kafka,
            "reconnect.backoff.max.ms": 500,
        }
        self._admin = AdminClient(properties, logger=quiet_logger())

    def controller(self) -> int:
        """The active controller. Kafka's clients are told some broker instead, so this reads what each has voted."""
        states = []
        for node in NODES:
            file = self._data / f"kafka-{node}" / "data" / "__cluster_metadata-0" / "quorum-state"
            with contextlib.suppress(FileNotFoundError, ValueError):
                state = json.loads(file.read_text())
                states.append((state["leaderEpoch"], state["leaderId"]))
        return int(max(states)[1])

    async def partitions(self) -> dict[Partition, Replicas]:
        """Every partition there is."""
        return await asyncio.to_thread(self._partitions)

    async def trouble(self) -> str | None:
        """A partition without all of its replicas, or a broker that is missing; None if there is none."""
        try:
            found = await self.partitions()
        except KafkaException as problem:
            return f"brokers: {problem}"
        short = [name for name, held in found.items() if len(held.in_sync) < len(held.all) or held.leader < 0]
        return f"{len(short)} partitions are not replicated, such as {short[0]}" if short else None

    async def reassign(self, plan: Mapping[Partition, Sequence[int]]) -> None:
        """Give partitions to other brokers, of which the first is the preferred leader; waits until they have them.

        Raises TimeoutError, RuntimeError when the controller refuses.
        """
        topics: dict[str, list[Any]] = {}
        for (topic, number), replicas in plan.items():
            topics.setdefault(topic, []).append((number, list(replicas), {}))
        # It has annotations that its own encoder does not agree with, or none.
        request: Any = AlterPartitionReassignmentsRequest
        order = request(10_000, [(topic, each, {}) for topic, each in topics.items()], {})
        async with asyncio.timeout(_SETTLE_SECONDS):
            while True:
                client = raw_client(self._kafka)
                try:
                    await client.bootstrap()
                    answer = await client.send(client.get_random_node(), order)
                    break
                except (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError):
                    # A broker that has just come back, or is about to go.
                    await asyncio.sleep(0.5)
                finally:
                    await client.close()
        if answer.error_code:
            raise RuntimeError(f"the controller refuses to reassign: {answer}")
        async with asyncio.timeout(_SETTLE_SECONDS):
            while not _is_done(plan, await self.partitions()):  # noqa: ASYNC110 - a cluster
                await asyncio.sleep(0.2)

    async def elect_preferred(self) -> None:
        """Let the first replica of every partition lead it."""
        # confluent-kafka does not export it.
        from confluent_kafka import ElectionType

        electing = self._admin.elect_leaders(ElectionType.PREFERRED, None)
        await asyncio.wrap_future(electing)

    async def add_partitions(self, topics: Iterable[str], more: int) -> None:
        """Enlarge each of these topics."""
        counts: dict[str, int] = {}
        for topic, _ in await self.partitions():
            counts[topic] = counts.get(topic, 0) + 1
        orders = [NewPartitions(topic, counts[topic] + more) for topic in topics]
        for made in self._admin.create_partitions(orders, request_timeout=_SECONDS).values():
            await asyncio.wrap_future(made)

    def _partitions(self) -> dict[Partition, Replicas]:
        topics = self._admin.list_topics(timeout=_SECONDS).topics
        return {
            (topic, number): Replicas(partition.leader, tuple(partition.replicas), tuple(partition.isrs))
            for topic, known in topics.items()
            for number, partition in known.partitions.items()
        }


def rotated(found: Mapping[Partition, Replicas]) -> dict[Partition, tuple[int, ...]]:
    """The same replicas with another one first: no data moves, and another broker may lead."""
    return {name: (*held.all[1:], held.all[0]) for name, held in found.items() if len(held.all) > 1}


def without_leader(found: Mapping[Partition, Replicas]) -> dict[Partition, tuple[int, ...]]:
    """Every partition without the broker that leads it."""
    return {name: tuple(node for node in held.all if node != held.leader) for name, held in found.items()}


def pick(found: Mapping[Partition, Replicas], topic: str, random_: random.Random) -> Partition:
    """Some partition of a topic."""
    return random_.choice(sorted(name for name in found if name[0] == topic))


def _is_done(plan: Mapping[Partition, Sequence[int]], found: Mapping[Partition, Replicas]) -> bool:
    return all(tuple(replicas) == found[name].all for name, replicas in plan.items())
