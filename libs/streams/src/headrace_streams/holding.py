"""Decodes records one lane at a time, so that one whose schema is still being looked up holds back its own lane only.

For readers that follow several partitions or keys in one loop: while the registry does not answer, the loop goes on
with the other lanes, and the records of the lane that waits follow in order when it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Generic

from headrace_contracts.codec import Codec, E
from headrace_contracts.errors import Origin, RegistryUnavailable, SchemaNotCached

from headrace_streams.records import Record

MOST_HELD: Final = 5_000
"""Records held back in all; then the oldest one is given up."""
MOST_HELD_BYTES: Final = 32 * 1024 * 1024

_PAUSE_SECONDS: Final = 1.0
_SAY_EVERY_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class HeldTooLong(RegistryUnavailable):
    """Given up: too many records wait behind this one for the registry."""


class DecodedInLanes(Generic[E]):
    """Call `put` for each record in order; `take` gets it with its event, or with the error that it cannot be read.

    `take` is awaited for one record of a lane at a time; it must not raise.
    """

    def __init__(
        self,
        what: str,
        codec: Codec,
        event: type[Any],
        lane_of: Callable[[Record], Hashable],
        take: Callable[[Record, E | Exception], Awaitable[None]],
    ) -> None:
        self._what = what
        self._codec = codec
        self._event = event
        self._lane_of = lane_of
        self._take = take
        self._held: dict[Hashable, deque[Record]] = {}
        self._resolving: dict[Hashable, asyncio.Task[None]] = {}
        self._records = 0
        self._bytes = 0
        self._say_at = 0.0

    @property
    def held(self) -> int:
        """Number of records that wait."""
        return self._records

    def is_held(self, lane: Hashable) -> bool:
        """Whether records of this lane wait."""
        return lane in self._held

    async def put(self, record: Record) -> None:
        """Pass the record on, now or when the schema of the first one of its lane is known."""
        lane = self._lane_of(record)
        waiting = self._held.get(lane)
        if waiting is None:
            missing = await self._pass_on(record)
            if missing is None:
                return
            waiting = self._held[lane] = deque()
            self._resolving[lane] = asyncio.create_task(self._resolve(lane, waiting), name=f"{self._what}: held back")
        waiting.append(record)
        self._count(record, 1)
        while self._records > MOST_HELD or self._bytes > MOST_HELD_BYTES:
            # The lane that has waited longest goes on without its first record.
            await self._give_up(next(iter(self._held)))

    async def settled(self) -> None:
        """Returns when no record waits any more."""
        while self._resolving:
            await asyncio.wait(self._resolving.values())

    async def close(self) -> None:
        """Forget what waits."""
        resolving = list(self._resolving.values())
        for task in resolving:
            task.cancel()
        await asyncio.gather(*resolving, return_exceptions=True)
        self._held.clear()
        self._resolving.clear()
        self._records = self._bytes = 0

    async def _pass_on(self, record: Record) -> SchemaNotCached | None:
        """Returns the schema that must be looked up first, if so."""
        outcome: E | Exception
        try:
            outcome = self._codec.decode(
                self._event, record.value, Origin(record.topic, record.partition, record.offset)
            )
        except SchemaNotCached as missing:
            return missing
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            outcome = error
        await self._take(record, outcome)
        return None

    async def _resolve(self, lane: Hashable, waiting: deque[Record]) -> None:
        try:
            # The one who put the first record is about to append it.
            await asyncio.sleep(0)
            while waiting:
                record = waiting[0]
                missing = await self._pass_on(record)
                if missing is None:
                    if waiting and waiting[0] is record:
                        self._count(waiting.popleft(), -1)
                    continue
                try:
                    await self._codec.fetch(missing.schema_id, missing.origin)
                except RegistryUnavailable as error:
                    self._say(error)
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            if self._held.get(lane) is waiting:
                del self._held[lane]
                del self._resolving[lane]

    def _say(self, error: RegistryUnavailable) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._say_at:
            self._say_at = now + _SAY_EVERY_SECONDS
            _log.warning("%s: %d records are held back: %s", self._what, self._records, error)

    async def _give_up(self, lane: Hashable) -> None:
        record = self._held[lane].popleft()
        self._count(record, -1)
        # What is left of the lane may be readable; it goes behind the others.
        self._held[lane] = self._held.pop(lane)
        await self._take(record, HeldTooLong(f"{self._records} records wait for the schema registry"))

    def _count(self, record: Record, sign: int) -> None:
        self._records += sign
        self._bytes += sign * (len(record.value or b"") + len(record.key or b""))
