"""The network between the twin's clients and its cluster: every operation passes here, so faults have one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from headrace_streams.records import TopicPartition

T = TypeVar("T")


class Operation(StrEnum):
    """The kinds of requests that clients make."""

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
    CREATE_PARTITIONS = "create_partitions"


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """One operation of one client.

    Attributes:
        client: Name of the client, as given to its MemoryLog.
        partitions: Partitions concerned; empty for operations on groups and topics.
    """

    client: str
    operation: Operation
    partitions: tuple[TopicPartition, ...] = ()


class Network(Protocol):
    """Carries requests. One that injects faults may delay a request or its response, raise instead of performing it
    (TransientError), or perform it and still raise (AppendUncertain). What it raises is raised by the client's method,
    except that clients repeat by themselves what keeps them in a group; a fetch may only be delayed."""

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        """Have the cluster perform the request, and return its response."""
        ...


class PerfectNetwork:
    """No delay, no loss; but other tasks get their turn, as with every real request."""

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return perform()
