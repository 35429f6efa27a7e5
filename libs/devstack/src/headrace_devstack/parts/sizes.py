"""How much memory the parts that are not ours may take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Sizes:
    """Limits and initial sizes.

    Attributes:
        kafka_heap_megabytes: Most heap of a broker.
        registry_heap_megabytes: Most heap of the registry.
        java: Further options of both.
        environment: Variables of both.
        broker: Properties of a broker that differ.
        shared_buffers: Postgres's page cache; the system caches its files as well.
        connections: Most connections to Postgres.
        pool: Most connections of one service; None for its default.
    """

    kafka_heap_megabytes: int = 256
    registry_heap_megabytes: int = 192
    java: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    broker: Mapping[str, str] = field(default_factory=dict)
    shared_buffers: str = "64MB"
    connections: int = 100
    pool: int | None = None


ROOMY: Final = Sizes()
"""Where each service has its process."""

SMALL: Final = Sizes(
    # Alive after the start: 42 MB in Kafka with the buffer below, 34 in the registry.
    kafka_heap_megabytes=128,
    registry_heap_megabytes=80,
    # Without these the heap grows to twice what is alive before it is collected, and is not given back.
    java=("-Xms32m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=30", "-XX:ReservedCodeCacheSize=64m"),
    # glibc keeps some memory for each of up to 16 groups of threads otherwise.
    environment={"MALLOC_ARENA_MAX": "2"},
    broker={"log.cleaner.dedupe.buffer.size": str(2 * 1024 * 1024), "num.io.threads": "2", "background.threads": "2"},
    shared_buffers="16MB",
    connections=40,
    pool=4,
)
"""For one process for all services: for the work of one person, not of thousands."""
