"""A compacted topic, read entirely into memory and then followed."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Generic

from headrace_contracts.codec import Codec, E
from headrace_contracts.topics import TopicSpec

from headrace_streams.dead_letters import described
from headrace_streams.errors import OffsetOutOfRange, TopicMissing, TransientError
from headrace_streams.holding import DecodedInLanes
from headrace_streams.log_identity import Broken, Continue, Recreated, StoredPosition
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.reading import expect_ends
from headrace_streams.records import Record, TopicPartition
from headrace_streams.watching import LogWatch, OnDiscontinuity

_BATCH: Final = 1_000
_POLL_SECONDS: Final = 1.0
_TOPIC_PAUSE_SECONDS: Final = 0.2
_STANDS_STILL_SECONDS: Final = 10.0
"""Without a record, short of the end: time to say so."""

_log = logging.getLogger(__name__)

OnChange = Callable[[str, E | None], None]
"""Called with the key and its new value, None if the key was removed."""


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Table(Generic[E]):
    """The newest event of each key of a topic.

    Usage: `await start()`, read with `get` and `items`, `await close()`. A value that cannot be decoded is logged and
    leaves its key unchanged, since the topic's other keys are still good; so is one that `on_change` fails with. While
    the registry does not answer about a value's schema, its key alone waits.

    Added partitions are followed. A topic that was created again, or has lost records, is read once more as a whole;
    what is not in it is then removed.

    Attributes:
        failure: Done when following the topic has failed, with the error; the table then no longer changes.
        waiting: What the initial read waits for; None if it is not held up.

    Args:
        on_change: Called for every change, including the initial read, after it is visible in the table.
        on_discontinuity: See `watching.OnDiscontinuity`.
        admits: Whether a record was written by who may write it; others are as if they were not there.
        expires_at: When an event is as if removed, in milliseconds since the epoch: for topics with retention, which
            removes events without telling anybody. By default never.
        watch_seconds: Time between two looks at the topic's id and its number of partitions.
        keeps_rows: Whether it holds the events. Without, only `on_change` learns of them, and of no key that is gone
            when the topic is read anew: for many small facts that stay true.
        clock_ms: Milliseconds since the epoch.
    """

    def __init__(
        self,
        log: Log,
        codec: Codec,
        spec: TopicSpec,
        on_change: OnChange[E] | None = None,
        *,
        on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
        admits: Callable[[Record], bool] = lambda record: True,
        expires_at: Callable[[E], int] | None = None,
        watch_seconds: float = 30.0,
        keeps_rows: bool = True,
        clock_ms: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        self._log = log
        self._keeps_rows = keeps_rows
        self._codec = codec
        self._spec = spec
        self._topic = codec.topic_prefix + spec.name
        self._on_change = on_change
        self._watch = LogWatch(
            log.admin(), f"table {spec.name}", repeats_are_harmless=True, on_discontinuity=on_discontinuity
        )
        self._admits = admits
        self._expires_at = expires_at
        self._clock_ms = clock_ms
        # When to look at each key, which has one entry however often it changes: a newer event may have put it off.
        self._due: list[tuple[int, str]] = []
        self._looked_after: set[str] = set()
        self._watch_seconds = watch_seconds
        self._rows: dict[str, E] = {}
        # Keys met since the topic was last read from its start.
        self._met: set[str] = set()
        self._topic_id: str | None = None
        self._reader: PartitionReader | None = None
        self._following: asyncio.Task[None] | None = None
        self.waiting: str | None = None
        self._decoded: DecodedInLanes[E] = DecodedInLanes(
            f"table {spec.name}", codec, spec.record, lambda record: record.key, self._take
        )
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Read the topic up to its end, then follow it in the background; waits while the cluster is unavailable.

        Raises TopicMissing.
        """
        reader = self._reader = self._log.follower()
        await self._read_all(reader, (TransientError, OffsetOutOfRange))
        self._following = asyncio.create_task(self._follow(reader), name=f"table {self._spec.name}")

    async def _read_all(self, reader: PartitionReader, passing: tuple[type[Exception], ...]) -> None:
        while True:
            try:
                await self._read_to_the_end(reader)
                break
            except passing as error:
                self.waiting = str(error)
                _log.warning("table %s is waiting for its topic: %s", self._spec.name, error)
                await asyncio.sleep(_TOPIC_PAUSE_SECONDS)
        self.waiting = None

    async def _read_to_the_end(self, reader: PartitionReader) -> None:
        await self._decoded.close()
        self._met.clear()
        # Before the first record is read: another id afterwards means that it may have been one of another log.
        self._topic_id = (await self._watch.look([self._topic], {})).topic_ids.get(self._topic)
        partitions = await reader.partitions_of(self._topic)
        bounds = await reader.bounds(partitions)
        await reader.assign({partition: first for partition, (first, _) in bounds.items()})
        clock = asyncio.get_running_loop().time
        moved_at, before = clock(), reader.positions()
        while late := [name for name in partitions if reader.positions()[name] < bounds[name][1]]:
            await self._read(reader)
            # Whoever starts next relies on every key.
            await self._decoded.settled()
            if reader.positions() != before:
                moved_at, before, self.waiting = clock(), reader.positions(), None
            elif clock() - moved_at >= _STANDS_STILL_SECONDS:
                moved_at = clock()
                places = ", ".join(f"{name} stands at {before[name]} of {bounds[name][1]}" for name in late)
                self.waiting = f"{places}: look whether these partitions have a leader"
                _log.warning("table %s cannot be read to its end: %s", self._spec.name, self.waiting)
                await expect_ends(reader, {name: bounds[name][1] for name in late})
        for key in self._rows.keys() - self._met:
            self._change(key, None)

    def get(self, key: str) -> E | None:
        """The newest event of a key."""
        return self._rows.get(key)

    def items(self) -> Mapping[str, E]:
        """All keys and their newest events; a view that changes with the table."""
        return MappingProxyType(self._rows)

    async def close(self) -> None:
        """Stop following."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        await self._decoded.close()
        if self._reader is not None:
            await self._reader.close()
            self._reader = None

    async def _follow(self, reader: PartitionReader) -> None:
        clock = asyncio.get_running_loop().time
        try:
            look_at = clock() + self._watch_seconds
            while True:
                try:
                    await self._read(reader)
                    if clock() < look_at:
                        continue
                    await self._look(reader)
                except OffsetOutOfRange:
                    await self._read_anew(reader)
                look_at = clock() + self._watch_seconds
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - passed on through `failure`
            _log.error("table %s stopped following its topic: %s", self._spec.name, error)
            if not self.failure.done():
                self.failure.set_exception(error)
                # If nothing awaits `failure`, the log line above is enough; asyncio need not warn again.
                self.failure.exception()

    async def _look(self, reader: PartitionReader) -> None:
        """Whether it is still the same topic, with the same partitions."""
        looked = await self._watch.look([self._topic], {})
        topic_id = looked.topic_ids.get(self._topic)
        if topic_id is None:
            return
        self._topic_id = self._topic_id or topic_id
        if topic_id != self._topic_id:
            await self._read_anew(reader)
            return
        present = reader.positions()
        added = [TopicPartition(self._topic, number) for number in range(looked.partitions[self._topic])]
        added = [name for name in added if name not in present]
        if added:
            try:
                bounds = await reader.bounds(added)
                await reader.assign({**present, **{name: first for name, (first, _) in bounds.items()}})
            except (TransientError, TopicMissing) as error:
                _log.warning("table %s cannot read its new partitions yet: %s", self._spec.name, error)

    async def _read_anew(self, reader: PartitionReader) -> None:
        """Read the whole topic again: it is not the log that was read so far."""
        positions = {name: StoredPosition(offset, self._topic_id) for name, offset in reader.positions().items()}
        looked = await self._watch.look([self._topic], positions)
        broken: dict[TopicPartition, Broken] = {
            name: verdict for name, verdict in looked.verdicts.items() if not isinstance(verdict, Continue)
        }
        # Its topic may be missing for a while; what is in the table stays until it is back.
        former = self._topic_id
        await self._read_all(reader, (TransientError, OffsetOutOfRange, TopicMissing))
        if not broken and self._topic_id not in (None, former):
            broken = {name: Recreated(0) for name in positions}
        for name, verdict in broken.items():
            self._watch.tell(name, positions[name], verdict)

    async def _read(self, reader: PartitionReader) -> None:
        for record in await reader.poll(_BATCH, min(_POLL_SECONDS, self._watch_seconds)):
            await self._apply(record)
        self._expire()

    async def _apply(self, record: Record) -> None:
        if record.key is None:
            _log.warning("%s@%d has no key, so no table can hold it", record.topic_partition, record.offset)
            return
        if not self._admits(record):
            # Neither changed nor kept by it: a key that only such records name is not in the table after a reread.
            return
        if self._keeps_rows:
            self._met.add(record.key.decode("utf-8", "replace"))
        await self._decoded.put(record)

    async def _take(self, record: Record, outcome: E | Exception) -> None:
        key = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            self._change(key, None)
        elif isinstance(outcome, Exception):
            _log.warning("kept the former value of %s in table %s: %s", key, self._spec.name, described(outcome))
        else:
            self._change(key, outcome)

    def _expire(self) -> None:
        """Remove what has expired; constant or logarithmic time for each key that is looked at."""
        now = self._clock_ms()
        while self._due and self._due[0][0] <= now:
            _, key = heapq.heappop(self._due)
            self._looked_after.discard(key)
            event = self._rows.get(key)
            if event is not None and not self._look_after(key, event, now):
                self._change(key, None)

    def _look_after(self, key: str, event: E, now: int) -> bool:
        """Look at the key again when its event expires; returns whether it has not expired yet."""
        if self._expires_at is None:
            return True
        at = self._expires_at(event)
        if at <= now:
            return False
        if key not in self._looked_after:
            self._looked_after.add(key)
            heapq.heappush(self._due, (at, key))
        return True

    def _change(self, key: str, event: E | None) -> None:
        if event is not None and not self._look_after(key, event, self._clock_ms()):
            event = None
        if event is None:
            self._rows.pop(key, None)
        elif self._keeps_rows:
            self._rows[key] = event
        if self._on_change is not None:
            try:
                self._on_change(key, event)
            except Exception as error:  # noqa: BLE001 - one record must not end a table
                _log.error("a change of %s in table %s was not taken: %s", key, self._spec.name, described(error))
