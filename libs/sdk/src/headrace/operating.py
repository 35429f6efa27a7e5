"""Records that operators write: decisions about an installation, in topics that its services follow."""

from __future__ import annotations

from typing import Final

from headrace_contracts.topics import Event, TopicSpec
from headrace_streams.publishing import Publication, Publisher

from headrace.connecting import Cluster

_SOURCE: Final = "headrace/operator"


async def publish(cluster: Cluster, spec: TopicSpec, key: str, event: Event, time_ms: int) -> None:
    """Write an event under a key, and wait until it is on disk. Raises StreamsError, ContractError."""
    await cluster.codec.prepare([spec])
    producer = cluster.log.producer()
    try:
        await Publisher(producer, cluster.codec, _SOURCE).send(
            Publication(
                spec=spec,
                event=event,
                event_id=f"{key}/{time_ms}",
                key=key.encode(),
                tenant="",
                time_ms=time_ms,
                subject=key,
            )
        )
    finally:
        await producer.close()


async def remove(cluster: Cluster, spec: TopicSpec, *keys: str) -> None:
    """Write tombstones for keys. Raises StreamsError."""
    producer = cluster.log.producer()
    try:
        publisher = Publisher(producer, cluster.codec, _SOURCE)
        for key in keys:
            await publisher.send_tombstone(spec, key.encode())
    finally:
        await producer.close()
