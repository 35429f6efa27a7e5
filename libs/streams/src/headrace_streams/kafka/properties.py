"""librdkafka properties of each kind of client: what the installation sets, and what Headrace requires."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_contracts.limits import DEFAULT_REQUEST_BYTES, record_bytes

Properties = Mapping[str, str | int | bool]

_PRODUCER_ONLY = frozenset({
    "acks", "batch.num.messages", "batch.size", "compression.codec", "compression.level", "compression.type",
    "delivery.report.only.error", "delivery.timeout.ms", "enable.gapless.guarantee", "enable.idempotence", "linger.ms",
    "message.send.max.retries", "message.timeout.ms", "partitioner", "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes", "queue.buffering.max.messages", "queue.buffering.max.ms", "queuing.strategy",
    "request.timeout.ms", "retries", "sticky.partitioning.linger.ms",
    "transaction.timeout.ms", "transactional.id",
})  # fmt: skip
_CONSUMER_ONLY = frozenset({
    "auto.commit.interval.ms", "auto.offset.reset", "check.crcs", "coordinator.query.interval.ms",
    "enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof", "fetch.error.backoff.ms",
    "fetch.max.bytes", "fetch.message.max.bytes", "fetch.min.bytes", "fetch.queue.backoff.ms", "fetch.wait.max.ms",
    "group.id", "group.instance.id", "group.protocol", "group.protocol.type", "group.remote.assignor",
    "heartbeat.interval.ms", "isolation.level", "max.partition.fetch.bytes", "max.poll.interval.ms",
    "offset.store.method", "partition.assignment.strategy", "queued.max.messages.kbytes", "queued.min.messages",
    "session.timeout.ms",
})  # fmt: skip
_GROUP_ONLY = frozenset({
    "group.instance.id", "group.protocol", "group.protocol.type", "group.remote.assignor", "heartbeat.interval.ms",
    "max.poll.interval.ms", "partition.assignment.strategy", "session.timeout.ms",
})  # fmt: skip

_ALL: dict[str, str | int | bool] = {
    "socket.nagle.disable": True,
    "socket.keepalive.enable": True,
    # A broker that restarts is back within seconds, and so should we be.
    "reconnect.backoff.max.ms": 1000,
    # A broker that hangs closes no connection and says nothing of the new leaders of its partitions. With librdkafka's
    # 60 s, records appended to one of them waited 60 s, and were read after 71 s; with these, both took 15 s, of which
    # the cluster itself needs 9 s to elect another leader.
    "socket.timeout.ms": 10_000,
    # Also how soon members of a group and producers see added partitions.
    "topic.metadata.refresh.interval.ms": 10_000,
    "allow.auto.create.topics": False,
}
_PRODUCER: dict[str, str | int | bool] = {
    **_ALL,
    "linger.ms": 0,
    "delivery.timeout.ms": 120_000,
    # Matches the limit of the topics.
    "message.max.bytes": record_bytes(DEFAULT_REQUEST_BYTES),
    # How long a topic may be unknown after its creation before records for it are refused.
    "topic.metadata.propagation.max.ms": 5000,
}
# The guarantees of the ports depend on these, so they cannot be overridden.
_PRODUCER_FIXED: dict[str, str | int | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",
    "delivery.report.only.error": False,
}
DEFAULT_QUEUE_KBYTES = 16_384
_CONSUMER: dict[str, str | int | bool] = {
    **_ALL,
    # Enough to keep a service busy; with the defaults, librdkafka queues 64 MiB and then pauses for a second.
    "queued.min.messages": 10_000,
    # A client holds more than this: librdkafka asks again while its queue is shorter, and each broker may answer with
    # as much once more (it lowers fetch.max.bytes to it). What it has handed over is limited by `inbox_bytes`.
    "queued.max.messages.kbytes": DEFAULT_QUEUE_KBYTES,
    "fetch.queue.backoff.ms": 10,
    # librdkafka has one fetch in flight per broker, so this is how long a partition that was just assigned or
    # resumed may wait while the others are quiet. New records in those are returned at once in any case.
    "fetch.wait.max.ms": 100,
}
_CONSUMER_FIXED: dict[str, str | int | bool] = {"enable.auto.commit": False, "enable.auto.offset.store": False}
_CLASSIC_GROUP: dict[str, str | int | bool] = {
    # Topics with the same number of partitions are assigned alike.
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 10_000,
    # Members learn of a rebalance through their heartbeats.
    "heartbeat.interval.ms": 1000,
}
_INBOX_SHARE = 2
"""The inbox may hold this many times what librdkafka's queue may."""
READER_GROUP = "headrace-reader"
"""Group id of clients that read chosen partitions and join no group."""


def producer_properties(properties: Properties) -> dict[str, str | int | bool]:
    """For producers. Raises ValueError for a setting that would break their guarantees."""
    _insist(properties, _PRODUCER_FIXED)
    return {**_PRODUCER, **_without(properties, _CONSUMER_ONLY), **_PRODUCER_FIXED}


def consumer_properties(
    properties: Properties, group: str, instance_id: str | None, *, from_start: bool
) -> dict[str, str | int | bool]:
    """For members of a group. Raises ValueError for a setting that would break their guarantees."""
    _insist(properties, _CONSUMER_FIXED)
    protocol = {} if properties.get("group.protocol") == "consumer" else _CLASSIC_GROUP
    static = {} if instance_id is None else {"group.instance.id": instance_id}
    return {
        **_CONSUMER,
        **protocol,
        "auto.offset.reset": "earliest" if from_start else "latest",
        **_without(properties, _PRODUCER_ONLY),
        **static,
        **_CONSUMER_FIXED,
        "group.id": group,
    }


def reader_properties(properties: Properties) -> dict[str, str | int | bool]:
    """For readers of chosen partitions; librdkafka requires a group id, but no group is joined."""
    return {
        **_CONSUMER,
        **_without(properties, _PRODUCER_ONLY | _GROUP_ONLY),
        **_CONSUMER_FIXED,
        "group.id": READER_GROUP,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
    }


def inbox_bytes(properties: Properties) -> int:
    """Bytes that a consumer or reader with these properties may buffer beside librdkafka's own queue."""
    return _INBOX_SHARE * 1024 * int(properties["queued.max.messages.kbytes"])


def admin_properties(properties: Properties) -> dict[str, str | int | bool]:
    """For the admin client."""
    return {**_ALL, **_without(properties, _PRODUCER_ONLY | _CONSUMER_ONLY)}


def is_incremental(properties: Properties) -> bool:
    """Whether a group with these properties rebalances incrementally, members keeping their other partitions."""
    strategy = str(properties.get("partition.assignment.strategy", ""))
    return properties.get("group.protocol") == "consumer" or "cooperative" in strategy


def spreads_by_number(properties: Properties) -> bool:
    """Whether a group with these properties spreads partitions by their number, whatever topics they are of."""
    strategy = str(properties.get("partition.assignment.strategy", ""))
    return properties.get("group.protocol") != "consumer" and "cooperative" in strategy


def _without(properties: Properties, names: frozenset[str]) -> dict[str, str | int | bool]:
    return {name: value for name, value in properties.items() if name not in names}


def _insist(properties: Properties, fixed: Properties) -> None:
    for name, value in fixed.items():
        given = properties.get(name, value)
        if _text(given) != _text(value):
            raise ValueError(f"the Kafka property {name} must be {_text(value)}, not {_text(given)}: leave it out")


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
