"""Creates, resizes and changes topics, and answers queries about topics, offsets and groups."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    admin,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from confluent_kafka.cimpl import NewTopic as KafkaTopic

from headrace_streams.errors import RecordRefused, TopicMissing, TransientError
from headrace_streams.kafka import errors
from headrace_streams.kafka.polling import from_kafka, to_kafka
from headrace_streams.kafka.properties import Properties, admin_properties
from headrace_streams.records import (
    GroupMember,
    GroupPhase,
    GroupState,
    NewTopic,
    OffsetAndMetadata,
    PartitionReplicas,
    Replication,
    TopicDescription,
    TopicPartition,
)

_SECONDS = 10.0
_METADATA_SECONDS = 3.0
"""Short, because a process that is shutting down waits for the request in flight."""
_LEADER_PAUSE_SECONDS = 0.05
_UNKNOWN = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_LIMIT = "max.message.bytes"
_UNKNOWABLE = frozenset({
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
})  # fmt: skip
# confluent-kafka does not annotate them.
_OFFSET_SPEC: Any = admin.OffsetSpec  # type: ignore[attr-defined]
_CONFIG_RESOURCE: Any = admin.ConfigResource  # type: ignore[attr-defined]
_CONFIG_ENTRY: Any = admin.ConfigEntry  # type: ignore[attr-defined]
_SET: Any = admin.AlterConfigOpType.SET  # type: ignore[attr-defined]
_READ: Any = admin.AclOperation.READ  # type: ignore[attr-defined]
_GROUP_PARTITIONS: Any = ConsumerGroupTopicPartitions
_PHASES = {
    ConsumerGroupState.STABLE: GroupPhase.STABLE,
    ConsumerGroupState.EMPTY: GroupPhase.EMPTY,
    # A group that the broker has never heard of is as dead as one whose last trace has expired.
    ConsumerGroupState.DEAD: GroupPhase.MISSING,
}


class KafkaAdmin:
    """Has connections of its own: on a consumer's, queries would wait behind its fetches."""

    def __init__(self, properties: Properties, logger: logging.Logger) -> None:
        self._client = AdminClient({**admin_properties(properties)}, logger=logger)

    async def create_topics(self, topics: Collection[NewTopic]) -> Collection[str]:
        if not topics:
            return []
        creating = self._client.create_topics(
            [KafkaTopic(t.name, t.partitions, t.replication_factor, config=dict(t.config)) for t in topics],
            operation_timeout=_SECONDS,
            request_timeout=2 * _SECONDS,
        )
        created = []
        for name, future in creating.items():
            try:
                await _answer(future)
            except KafkaException as exception:
                error = errors.error_of(exception)
                if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise errors.creating(error, name) from exception
            else:
                created.append(name)
        await self._until_known(dict.fromkeys(created, 1), "{} created")
        return created

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        try:
            return await asyncio.to_thread(self._partition_counts, topics)
        except KafkaException as exception:
            raise errors.asking(errors.error_of(exception), f"topics {', '.join(topics)}") from exception

    async def topic_names(self, prefix: str) -> frozenset[str]:
        try:
            listed = await asyncio.to_thread(self._client.list_topics, timeout=_SECONDS)
        except KafkaException as exception:
            raise errors.asking(errors.error_of(exception), f"topics {prefix}*") from exception
        return frozenset(name for name in listed.topics if name.startswith(prefix))

    async def describe_topics(self, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        return {
            name: TopicDescription(str(described.topic_id), len(described.partitions))
            for name, described in (await self._descriptions(topics)).items()
        }

    async def readable(self, topics: Collection[str]) -> frozenset[str]:
        closed = (*_UNKNOWN, KafkaError.TOPIC_AUTHORIZATION_FAILED)
        described = await self._descriptions(topics, left_out=closed, include_authorized_operations=True)
        return frozenset(name for name, each in described.items() if _READ in each.authorized_operations)

    async def _descriptions(
        self, topics: Collection[str], left_out: Collection[int] = _UNKNOWN, **options: Any
    ) -> Mapping[str, Any]:
        """The client's own descriptions of the topics, without those that have one of these errors."""
        if not topics:
            return {}
        found: dict[str, Any] = {}
        describing = self._client.describe_topics(TopicCollection(sorted(topics)), request_timeout=_SECONDS, **options)
        for name, future in describing.items():
            try:
                found[name] = await _answer(future)
            except KafkaException as exception:
                error = errors.error_of(exception)
                if error.code() not in left_out:
                    raise errors.asking(error, f"topic {name}") from exception
        return found

    async def add_partitions(self, counts: Mapping[str, int]) -> None:
        present = await self.check_topics(list(counts))
        for name, count in counts.items():
            if count < present[name]:
                raise RecordRefused(f"{name} has {present[name]} partitions, and can never have fewer: not {count}")
        grown = [NewPartitions(name, count) for name, count in counts.items() if count > present[name]]
        if not grown:
            return
        for name, future in self._client.create_partitions(grown, request_timeout=2 * _SECONDS).items():
            try:
                await _answer(future)
            except KafkaException as exception:
                raise errors.creating(errors.error_of(exception), name) from exception
        await self._until_known(counts, "partitions of {} added")

    async def topic_limits(self, topics: Collection[str]) -> Mapping[str, int]:
        return {name: int(settings[_LIMIT]) for name, settings in (await self.topic_settings(topics)).items()}

    async def topic_settings(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        if not topics:
            return {}
        asking = self._client.describe_configs(
            [_CONFIG_RESOURCE(_CONFIG_RESOURCE.Type.TOPIC, name) for name in topics], request_timeout=_SECONDS
        )
        settings: dict[str, Mapping[str, str]] = {}
        for resource, future in asking.items():
            try:
                described = await _answer(future)
            except KafkaException as exception:
                error = errors.error_of(exception)
                if error.code() in _UNKNOWABLE:
                    continue
                raise errors.asking(error, f"the settings of {resource.name}") from exception
            settings[resource.name] = {key: entry.value for key, entry in described.items() if entry.value is not None}
        return settings

    async def change_topic_settings(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        for name, changed in settings.items():
            entries = [_CONFIG_ENTRY(key, value, incremental_operation=_SET) for key, value in sorted(changed.items())]
            resource = _CONFIG_RESOURCE(_CONFIG_RESOURCE.Type.TOPIC, name, incremental_configs=entries)
            changing = self._client.incremental_alter_configs([resource], request_timeout=_SECONDS)
            for future in changing.values():
                try:
                    await _answer(future)
                except KafkaException as exception:
                    error = errors.error_of(exception)
                    if errors.is_missing(error):
                        raise errors.asking(error, f"topic {name}") from exception
                    raise errors.creating(error, name) from exception

    async def replication(self, topics: Collection[str]) -> Replication:
        try:
            cluster = await _answer(self._client.describe_cluster(request_timeout=_SECONDS))
        except KafkaException as exception:
            raise errors.asking(errors.error_of(exception), "the brokers") from exception
        found: dict[TopicPartition, PartitionReplicas] = {}
        for name, described in (await self._descriptions(topics)).items():
            for each in described.partitions:
                # librdkafka has a node numbered -1 where there is no leader.
                leader = None if each.leader is None or each.leader.id < 0 else int(each.leader.id)
                found[TopicPartition(name, each.id)] = PartitionReplicas(
                    leader, tuple(node.id for node in each.replicas), tuple(node.id for node in each.isr)
                )
        return Replication(frozenset(node.id for node in cluster.nodes), found)

    async def newest_timestamps(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        found = await self._listed(partitions, _OFFSET_SPEC.max_timestamp())
        return {name: result.timestamp for name, result in found.items() if result.timestamp >= 0}

    async def group_states(self, groups: Collection[str]) -> Mapping[str, GroupState]:
        if not groups:
            return {}
        found: dict[str, GroupState] = {}
        for name, future in self._client.describe_consumer_groups(sorted(groups), request_timeout=_SECONDS).items():
            try:
                found[name] = _group_state(await _answer(future))
            except KafkaException as exception:
                error = errors.error_of(exception)
                if error.code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise errors.asking(error, f"group {name}") from exception
                found[name] = GroupState(GroupPhase.MISSING)
        return found

    async def committed(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        asking = self._client.list_consumer_group_offsets([_GROUP_PARTITIONS(group)], request_timeout=_SECONDS)
        try:
            (answer,) = [await _answer(future) for future in asking.values()]
        except KafkaException as exception:
            error = errors.error_of(exception)
            if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
                return {}
            raise errors.asking(error, f"what {group} has committed") from exception
        return {
            from_kafka(each): OffsetAndMetadata(each.offset, each.metadata or "")
            for each in answer.topic_partitions
            if each.offset >= 0 and each.error is None
        }

    async def check_topics(self, topics: Collection[str]) -> Mapping[str, int]:
        """Their numbers of partitions. Raises TopicMissing, TransientError."""
        counts = await self.partition_counts(topics)
        missing = sorted(set(topics) - counts.keys())
        if missing:
            raise TopicMissing(f"{', '.join(missing)} missing on this cluster: provision the topics first")
        return counts

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """First and next offset. Raises TopicMissing, TransientError."""
        first, following = await asyncio.gather(
            self._offsets(partitions, _OFFSET_SPEC.earliest()), self._offsets(partitions, _OFFSET_SPEC.latest())
        )
        return {name: (first[name], following[name]) for name in partitions}

    async def offsets_at(
        self, partitions: Collection[TopicPartition], timestamp_ms: int
    ) -> Mapping[TopicPartition, int]:
        """First offset at or after a time, or the next offset. Raises TopicMissing, TransientError."""
        found = await self._offsets(partitions, _OFFSET_SPEC.for_timestamp(timestamp_ms))
        later = [name for name, offset in found.items() if offset < 0]
        return {**found, **await self._offsets(later, _OFFSET_SPEC.latest())}

    async def _until_known(self, counts: Mapping[str, int], changed: str) -> None:
        """Brokers learn of topics and partitions shortly after the controller has created them."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SECONDS
        while True:
            present = await self.partition_counts(list(counts))
            late = sorted(name for name, count in counts.items() if present.get(name, 0) < count)
            if not late:
                return
            if loop.time() > deadline:
                raise TransientError(f"{changed.format(', '.join(late))}, but not known to the brokers yet")
            await asyncio.sleep(_LEADER_PAUSE_SECONDS)

    async def _offsets(self, partitions: Collection[TopicPartition], which: Any) -> dict[TopicPartition, int]:
        return {name: result.offset for name, result in (await self._listed(partitions, which)).items()}

    async def _listed(self, partitions: Collection[TopicPartition], which: Any) -> dict[TopicPartition, Any]:
        """Offset and timestamp of what is asked for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SECONDS
        found: dict[TopicPartition, Any] = {}
        while missing := [name for name in partitions if name not in found]:
            # Read-committed, as all clients of ours: what stands behind an open transaction cannot be read yet, and
            # whoever reads up to the end would wait for as long as it is open.
            asking = self._client.list_offsets(
                {to_kafka(name): which for name in missing},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=_SECONDS,
            )
            for partition, future in asking.items():
                name = from_kafka(partition)
                try:
                    found[name] = await _answer(future)
                except KafkaException as exception:
                    error = errors.error_of(exception)
                    if not errors.is_leader_moving(error) or loop.time() > deadline:
                        raise errors.asking(error, f"offsets of {name}") from exception
                    await asyncio.sleep(_LEADER_PAUSE_SECONDS)
        return found

    def _partition_counts(self, topics: Collection[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for topic in topics:
            found = self._client.list_topics(topic, _METADATA_SECONDS).topics[topic]
            if found.error is None:
                counts[topic] = len(found.partitions)
            elif found.error.code() not in _UNKNOWN:
                raise KafkaException(found.error)
        return counts


async def _answer(future: Future[Any]) -> Any:
    """The client's answer. A caller that waits no longer must not cancel it: the client could not deliver it then."""
    answer = asyncio.wrap_future(future)
    # Nobody may be left to take the error, as when the client ends with the question open.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(answer)


def _group_state(described: Any) -> GroupState:
    members = tuple(
        GroupMember(
            each.member_id, each.group_instance_id or None, each.client_id, each.host,
            frozenset(from_kafka(name) for name in (each.assignment.topic_partitions if each.assignment else ())),
        )
        for each in described.members
    )  # fmt: skip
    return GroupState(_PHASES.get(described.state, GroupPhase.REBALANCING), members)
