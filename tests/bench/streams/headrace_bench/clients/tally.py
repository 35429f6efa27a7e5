"""What every contestant keeps of a round: which records it has handled, in what time and processor time.

The clock runs from the first record in hand to the last one done, so that joining a group and leaving it do not count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, TopicPartition


class NotExactly(Exception):
    """A contestant handled a record twice, or not at all, or out of order, or committed something else."""


class Clock:
    """Wall clock and processor time of this process between two readings, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def start(self) -> None:
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()

    def answer(self, records: int) -> dict[str, object]:
        """What goes back to the one who compares."""
        return {"records": records, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}


def check_seen(seen: bytearray) -> None:
    """Raises NotExactly unless every offset was seen once."""
    if seen.count(1) != len(seen):
        missing = seen.count(0)
        repeated = len(seen) - missing - seen.count(1)
        raise NotExactly(f"of {len(seen)} records {missing} were not handled, {repeated} more than once")


def check_committed(bootstrap: str, group: str, committed: Mapping[str, int]) -> None:
    """Raises NotExactly unless the group has committed these offsets of partition 0 of these topics."""
    asking = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        for found in asking.committed([TopicPartition(topic, 0) for topic in committed], 10.0):
            if found.error is not None or found.offset != committed[found.topic]:
                raise NotExactly(f"{group} has committed {found}, not {committed[found.topic]}")
    finally:
        asking.close()


class KeyOrder:
    """Watches that of each key one record is in hand at a time, in order of offsets."""

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}
        self._running: set[bytes] = set()

    def begin(self, key: bytes, offset: int) -> None:
        """Raises NotExactly."""
        if key in self._running or self._last.get(key, -1) >= offset:
            raise NotExactly(f"{key!r} is out of order at offset {offset}")
        self._last[key] = offset
        self._running.add(key)

    def end(self, key: bytes) -> None:
        self._running.remove(key)


def work_seconds(value: bytes) -> float:
    """How long a record's work waits: its value begins with eight digits, microseconds."""
    return int(value[:8]) / 1e6
