"""Reading partitions up to the end that they had at one moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.ports import PartitionReader
from headrace_streams.records import Record, TopicPartition

_STANDS_STILL_SECONDS: Final = 5.0


async def up_to(
    reader: PartitionReader, ends: Mapping[TopicPartition, int], *, most: int, poll_seconds: float
) -> AsyncGenerator[Sequence[Record]]:
    """Yield batches of at most `most` records until all these partitions, which are assigned, have been read to `ends`.

    Records beyond an end may be among them. Waits while partitions cannot be read. Raises OffsetOutOfRange if a log no
    longer reaches its end, since its topic was created again or it was truncated: what was read may be of another log.
    """
    clock = asyncio.get_running_loop().time
    moved_at, before = clock(), reader.positions()
    while any(reader.positions()[name] < end for name, end in ends.items()):
        if records := await reader.poll(most, poll_seconds):
            yield records
        if reader.positions() != before:
            moved_at, before = clock(), reader.positions()
        elif clock() - moved_at >= _STANDS_STILL_SECONDS:
            moved_at = clock()
            await expect_ends(reader, ends)


async def expect_ends(reader: PartitionReader, ends: Mapping[TopicPartition, int]) -> None:
    """Raises OffsetOutOfRange if one of these logs ends before the offset that was its end."""
    bounds = await reader.bounds(list(ends))
    for name, end in ends.items():
        if bounds[name][1] < end:
            raise OffsetOutOfRange(
                f"{name} ended at {end} and now ends at {bounds[name][1]}: it was created again or truncated"
            )
