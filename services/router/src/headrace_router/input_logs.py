"""Whether the inputs of a partition are still the logs that its journaled positions were taken from.

An input may be deleted and created again, restored from a backup, cut short, or cleaned by retention before it was
read. Without this comparison its router would wait for offsets that never come, or ignore all records as read before.
The rules are those of `headrace_streams.log_identity`; what differs here is a truncated input: it is read from a minute
before the last decision on, since tasks that were seen already are recognised by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headrace_contracts.groups import ROUTER
from headrace_contracts.topics import ATTEMPTS_FINISHED_CLOUD
from headrace_streams.journal import Recovered
from headrace_streams.log_identity import Continue, DataLost, Recreated, StoredPosition, Truncated, explained
from headrace_streams.ports import PartitionReader
from headrace_streams.records import TopicPartition
from headrace_streams.watching import LogWatch

from headrace_router.partition import PartitionRouter

INPUTS: Final = ROUTER.topics
NOT_IN_01: Final = frozenset({ATTEMPTS_FINISHED_CLOUD.name})
"""Inputs that routers of release 0.1 do not read. In a group with some of those, a partition of such an input and that
of the others may be assigned to different members. It is routed all the same; what the input has waits until all
members are new.
"""
_OVERLAP_MS: Final = 60_000
_READER: Final = "router"


@dataclass(frozen=True, slots=True)
class InputPositions:
    """Where to go on in the inputs of a partition.

    Attributes:
        offsets: By topic without prefix; an input that was never read is missing.
        topic_ids: Ids of the topics that these offsets belong to, or future ones, as far as known.
    """

    offsets: Mapping[str, int]
    topic_ids: Mapping[str, str]


class InputLogs:
    """Compares positions with the inputs: when a partition is taken over, and now and then while it is routed.

    Args:
        watch: Asks the cluster.
    """

    def __init__(self, watch: LogWatch, topic_prefix: str) -> None:
        self._watch = watch
        self._prefix = topic_prefix
        # Positions that were beyond the end at the last look, and first offsets that were told of.
        self._beyond: dict[TopicPartition, int] = {}
        self._told: dict[TopicPartition, int] = {}

    async def starts(self, recovered: Recovered, partition: int, reader: PartitionReader) -> InputPositions:
        """Where a new owner goes on. Raises what the reader raises."""
        stored = {
            TopicPartition(self._prefix + topic, number): StoredPosition(
                offset, recovered.topic_ids.get((topic, number))
            )
            for (topic, number), offset in recovered.positions.items()
            if number == partition
        }
        looked = await self._watch.look({self._prefix + spec.name for spec in INPUTS}, stored)
        offsets: dict[str, int] = {}
        ids = {topic.removeprefix(self._prefix): topic_id for topic, topic_id in looked.topic_ids.items()}
        for name, position in stored.items():
            topic = name.topic.removeprefix(self._prefix)
            verdict = looked.verdicts.get(name)
            if verdict is None:
                # Compared as soon as the partition answers; until then it is a position of the stored log.
                offsets[topic] = position.next_offset
                if position.topic_id is None:
                    ids.pop(topic, None)
                else:
                    ids[topic] = position.topic_id
                continue
            offsets[topic] = verdict.start_at
            if isinstance(verdict, Truncated) and recovered.last is not None:
                since = recovered.last.decided_at - _OVERLAP_MS
                offsets[topic] = (await reader.offsets_at([name], since))[name]
                verdict = Truncated(offsets[topic])
            if not isinstance(verdict, Continue):
                self._watch.tell(name, position, verdict)
        return InputPositions(offsets, ids)

    async def look(self, routers: Mapping[int, PartitionRouter]) -> Mapping[int, str]:
        """Which of these partitions must be taken over again, and why.

        A position beyond the end is believed when it is seen twice: a broker that has just become a leader may not know
        yet how far its log is committed.
        """
        positions = {
            TopicPartition(self._prefix + topic, number): StoredPosition(offset, router.topic_ids.get(topic))
            for number, router in routers.items()
            for topic, offset in router.positions.items()
        }
        looked = await self._watch.look({self._prefix + spec.name for spec in INPUTS}, positions)
        self._learn_ids(routers, positions, looked.topic_ids)
        again: dict[int, str] = {}
        beyond: dict[TopicPartition, int] = {}
        for name, verdict in looked.verdicts.items():
            topic, position = name.topic.removeprefix(self._prefix), positions[name]
            match verdict:
                case Continue():
                    routers[name.partition].topic_ids.setdefault(topic, looked.topic_ids[name.topic])
                case DataLost(start_at=start_at):
                    # The client goes on at the first record by itself, and the router's position follows.
                    if self._told.get(name) != start_at:
                        self._told[name] = start_at
                        self._watch.tell(name, position, verdict)
                case Truncated():
                    beyond[name] = position.next_offset
                    if self._beyond.get(name) == position.next_offset:
                        again[name.partition] = explained(_READER, name, position, verdict)
                case Recreated():
                    again[name.partition] = explained(_READER, name, position, verdict)
        self._beyond = beyond
        return again

    def _learn_ids(
        self,
        routers: Mapping[int, PartitionRouter],
        positions: Mapping[TopicPartition, StoredPosition],
        topic_ids: Mapping[str, str],
    ) -> None:
        """Give routers the ids of inputs that they have not read yet. Without them a topic that is created again later,
        and has as many records by then, could not be told from the former one."""
        for number, router in routers.items():
            for topic, topic_id in topic_ids.items():
                name = topic.removeprefix(self._prefix)
                if TopicPartition(topic, number) not in positions and name not in router.positions:
                    router.topic_ids.setdefault(name, topic_id)
            router.doubtful |= len(topic_ids) < len(INPUTS)
