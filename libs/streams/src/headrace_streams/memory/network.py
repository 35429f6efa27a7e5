"""The way between a client of the twin and its cluster: every operation passes here, so faults have one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from headrace_streams.records import TopicPartition

T = TypeVar("T")


class Operation(StrEnum):
    """What a client asks of the cluster."""

    APPEND = "append"
    FETCH = "fetch"
    JOIN = "join"
    HEARTBEAT = "heartbeat"
    LEAVE = "leave"
    COMMIT = "commit"
    COMMITTED = "committed"
    OFFSETS = "offsets"
    METADATA = "metadata"
    CREATE_TOPICS = "create_topics"


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """One operation of one client.

    Attributes:
        client: Name of the client, as given to its MemoryLog.
        partitions: What it is about; empty for operations on groups and topics.
    """

    client: str
    operation: Operation
    partitions: tuple[TopicPartition, ...] = ()


class Network(Protocol):
    """Carries requests. One that injects faults may wait before and after, raise instead of performing
    (TransientError), or perform and raise all the same (AppendUncertain). What it raises comes out of the client's
    method, except that clients repeat by themselves what keeps them in a group; a fetch may only be delayed."""

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        """Have the cluster perform the request, and bring back its answer."""
        ...


class PerfectNetwork:
    """No delay, no loss; only, others get their turn, as with every real request."""

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return perform()
