"""Records of work, read again by their positions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from headrace_streams.errors import OffsetOutOfRange, TransientError
from headrace_streams.ports import Log
from headrace_streams.records import Record, TopicPartition

_MOST: Final = 500
_POLL_SECONDS: Final = 1.0
_WAIT_SECONDS: Final = 60.0
_GAP: Final = 1_000
"""Records between two wanted ones that are rather read than jumped over."""


class WorkRecords:
    """Reads from the topics of this installation, whoever reads them otherwise."""

    def __init__(self, log: Log, topic_prefix: str) -> None:
        self._log = log
        self._prefix = topic_prefix

    async def read(self, topic: str, wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], Record]:
        """The records of a topic (without the prefix) at these partitions and offsets; those that are gone are missing.

        Raises TransientError.
        """
        reader = self._log.reader()
        found: dict[tuple[int, int], Record] = {}
        left: dict[TopicPartition, list[int]] = {}
        for partition, offset in sorted(wanted):
            left.setdefault(TopicPartition(self._prefix + topic, partition), []).append(offset)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                there = set(await reader.partitions_of(self._prefix + topic))
                bounds = await reader.bounds([name for name in left if name in there])
                left = {
                    name: kept
                    for name, offsets in left.items()
                    if name in bounds and (kept := [one for one in offsets if bounds[name][0] <= one < bounds[name][1]])
                }
                await reader.assign(_starts(left))
                while left:
                    for record in await reader.poll(_MOST, _POLL_SECONDS):
                        offsets = left.get(record.topic_partition, [])
                        if record.offset in offsets:
                            found[record.partition, record.offset] = record
                    if _pass_on(left, reader.positions()):
                        await reader.assign(_starts(left))
        except (TimeoutError, OffsetOutOfRange) as error:
            raise TransientError(f"records of {topic} cannot be read: {type(error).__name__}") from error
        finally:
            await reader.close()
        return found


def _starts(left: Mapping[TopicPartition, Sequence[int]]) -> dict[TopicPartition, int]:
    return {name: offsets[0] for name, offsets in left.items()}


def _pass_on(left: dict[TopicPartition, list[int]], positions: Mapping[TopicPartition, int]) -> bool:
    """Leave out what has been passed; whether the reader should be assigned anew, to jump or to leave partitions."""
    anew = False
    for name in list(left):
        position = positions[name]
        left[name] = [offset for offset in left[name] if offset >= position]
        if not left[name]:
            del left[name]
            anew = True
        elif left[name][0] > position + _GAP:
            anew = True
    return anew and bool(left)
