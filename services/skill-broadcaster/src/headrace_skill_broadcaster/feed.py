"""Pushes the feed to agents: one reader of `skills.feed`, one encoding per event, many connections.

Agents with the same tenant and interests share a channel, and with it the bytes of each event. Recent events stay in
memory, so that agents that reconnect, even all at once after a restart, are served without reading the log.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.events import SkillChanged
from headrace_contracts.topics import SKILLS_FEED
from headrace_runtime.logging import get_logger
from headrace_runtime.sse import ServerEvent
from headrace_streams.dead_letters import described
from headrace_streams.errors import OffsetOutOfRange, TransientError
from headrace_streams.holding import DecodedInLanes
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.records import Record

from headrace_skill_broadcaster.decide.answers import change_document
from headrace_skill_broadcaster.decide.catalog import interest_key
from headrace_skill_broadcaster.decide.feed_positions import encode_places
from headrace_skill_broadcaster.metrics import SkillMetrics
from headrace_skill_broadcaster.recent import AnnouncedVersion, Recent, RecentVersions

EVENT_NAME = "skill"

_POLL = 500
_POLL_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_READ_AT_START = 1_000
"""Events per partition that are read into memory at the start."""
_BREATH = 500
"""Consecutive writes before yielding to the event loop."""
_REMEMBERED_VERSIONS = 64
"""Per channel; the copies of a version for several interests arrive within milliseconds."""

_log = get_logger("headrace.skills.feed")


@dataclass(frozen=True, slots=True)
class Audience:
    """Agents of one tenant that follow the same interests.

    Attributes:
        keys: Keys of their feed records.
        partitions: Partitions of the feed that contain these keys, in order.
    """

    keys: frozenset[bytes]
    partitions: tuple[int, ...]


class FeedConnection:
    """An agent's open stream, as the feed sees it."""

    def __init__(self, write: Callable[[bytes], bool], *, chunked: bool) -> None:
        """`write` accepts bytes without waiting, and returns False when nothing more can be sent to the agent."""
        self.write = write
        self.chunked = chunked
        self.ended = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return not self.ended.is_set()


class _Channel:
    __slots__ = ("audience", "connections", "versions")

    def __init__(self, audience: Audience) -> None:
        self.audience = audience
        self.connections: set[FeedConnection] = set()
        self.versions = RecentVersions(_REMEMBERED_VERSIONS)


class Feed:
    """Follows all partitions of `skills.feed` and writes each event to the connections that joined.

    Args:
        partition_of: The partition of a key among a number of partitions, as producers choose it.
        memory_bytes: How many bytes of recent events to hold, all partitions together.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        log: Log,
        codec: Codec,
        measures: SkillMetrics,
        *,
        partition_of: Callable[[bytes, int], int],
        memory_bytes: int,
        clock: Callable[[], int],
    ) -> None:
        self._log = log
        self._codec = codec
        self._measures = measures
        self._partition_of = partition_of
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._topic = codec.topic_prefix + SKILLS_FEED.name
        self._reader: PartitionReader | None = None
        self._recent: dict[int, Recent] = {}
        self._channels: dict[Audience, _Channel] = {}
        # In the order in which they came, and each found at once: many audiences may share an interest.
        self._by_key: dict[bytes, dict[_Channel, None]] = {}
        self._ending = False
        self._beginning = False
        self._decoded: DecodedInLanes[SkillChanged] = DecodedInLanes(
            "feed", codec, SkillChanged, lambda record: record.partition, self._take
        )
        # An event is in memory and written to all its agents before the next one: positions name what was written.
        self._one_at_a_time = asyncio.Lock()
        self._being_written: AnnouncedVersion | None = None

    async def start(self) -> None:
        """Read the newest events of each partition into memory. Raises TopicMissing, TransientError."""
        if self._reader is None:
            self._reader = self._log.follower()
        await self._begin(self._reader)

    async def run(self) -> None:
        """Push events as they arrive, until cancelled."""
        assert self._reader is not None  # start() made it
        while True:
            try:
                for record in await self._reader.poll(_POLL, _POLL_SECONDS):
                    await self._decoded.put(record)
                self._reach(self._reader)
            except TransientError as error:
                _log.warning("cannot read the feed, retrying", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            except OffsetOutOfRange as error:
                # This process was cut off for longer than the feed's retention. Its agents learn that when they resume.
                _log.error("events of the feed were missed, agents must resume", reason=str(error))
                self._end_all()
                await self._begin(self._reader)

    async def drain(self) -> None:
        """End all connections, including those that still join; their agents resume elsewhere."""
        self._ending = True
        self._end_all()

    async def close(self) -> None:
        """Close the reader."""
        await self._decoded.close()
        if self._reader is not None:
            await self._reader.close()

    def audience(self, tenant: str, interests: Sequence[str]) -> Audience:
        """The audience of a tenant's agents with these interests."""
        keys = frozenset(interest_key(tenant, interest).encode() for interest in interests)
        return Audience(keys, tuple(sorted({self._partition_of(key, len(self._recent)) for key in keys})))

    def join(self, audience: Audience, connection: FeedConnection) -> None:
        """Send events to the connection from now on."""
        if self._ending:
            connection.ended.set()
            return
        channel = self._channels.get(audience)
        if channel is None:
            channel = self._channels[audience] = _Channel(audience)
            for key in audience.keys:
                self._by_key.setdefault(key, {})[channel] = None
        channel.connections.add(connection)
        self._measures.agents.inc()

    def leave(self, audience: Audience, connection: FeedConnection) -> None:
        """Send the connection no more events and mark it as ended."""
        connection.ended.set()
        channel = self._channels.get(audience)
        if channel is None or connection not in channel.connections:
            return
        channel.connections.remove(connection)
        self._measures.agents.dec()
        if not channel.connections:
            del self._channels[audience]
            for key in audience.keys:
                del self._by_key[key][channel]
                if not self._by_key[key]:
                    del self._by_key[key]

    def positions(self, audience: Audience) -> dict[int, int]:
        """Next offset of each of the audience's partitions: the position of an agent that is up to date."""
        return {partition: self._recent[partition].until for partition in audience.partitions}

    def written_positions(self, audience: Audience) -> dict[int, int]:
        """As `positions`, but before an event that may not have been written to all connections yet."""
        positions = self.positions(audience)
        event = self._being_written
        if event is not None and event.partition in positions:
            positions[event.partition] = event.offset
        return positions

    def forgotten(self, places: Mapping[int, int]) -> dict[int, int]:
        """Those positions after which some events are no longer in memory, with the offset from which they are."""
        return {
            partition: self._recent[partition].since
            for partition, place in places.items()
            if place < self._recent[partition].since
        }

    def missed(self, audience: Audience, places: Mapping[int, int]) -> list[AnnouncedVersion]:
        """Events for the audience after these positions, from memory."""
        return [
            told
            for partition in audience.partitions
            for told in self._recent[partition].after(places[partition])
            if told.key in audience.keys
        ]

    async def read(self, record: Record) -> AnnouncedVersion | None:
        """A feed record prepared for sending; None for an undecodable one. Waits for the schema registry."""
        origin = Origin(record.topic, record.partition, record.offset)
        while True:
            try:
                return _prepared(record, await self._codec.read(SkillChanged, record.value, origin))
            except RegistryUnavailable as error:
                _log.warning("feed is waiting for the schema registry", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
                self._skip(record, error)
                return None

    async def _begin(self, reader: PartitionReader) -> None:
        partitions = await reader.partitions_of(self._topic)
        bounds = await reader.bounds(partitions)
        starts = {partition: max(first, end - _READ_AT_START) for partition, (first, end) in bounds.items()}
        await self._decoded.close()
        share = self._memory_bytes // len(partitions)
        self._recent = {partition.partition: Recent(start, share) for partition, start in starts.items()}
        await reader.assign(starts)
        self._beginning = True
        try:
            while any(reader.positions()[partition] < end for partition, (_, end) in bounds.items()):
                for record in await reader.poll(_POLL, _POLL_SECONDS):
                    await self._decoded.put(record)
        finally:
            self._beginning = False
        self._reach(reader)

    def _reach(self, reader: PartitionReader) -> None:
        # Offsets without records, which no later record reveals as read.
        for partition, position in reader.positions().items():
            if not self._decoded.is_held(partition.partition):
                self._recent[partition.partition].reach(position)

    async def _take(self, record: Record, outcome: SkillChanged | Exception) -> None:
        told: AnnouncedVersion | None = None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            told = _prepared(record, outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            self._skip(record, error)
        async with self._one_at_a_time:
            self._recent[record.partition].add(record.offset, told)
            if told is not None and not self._beginning:
                self._being_written = told
                try:
                    await self._push(told)
                finally:
                    self._being_written = None

    def _skip(self, record: Record, error: Exception) -> None:
        self._measures.unreadable.labels(record.topic).inc()
        _log.error("skipping a record in the feed", partition=record.partition, offset=record.offset,
                   reason=described(error))  # fmt: skip

    async def _push(self, told: AnnouncedVersion) -> None:
        channels = [
            channel for channel in self._by_key.get(told.key, ()) if not channel.versions.is_repeat(told.version)
        ]
        # Read before the first await: a connection that joins later has this event among those it missed.
        targets = [(channel.audience, list(channel.connections)) for channel in channels]
        frames: dict[tuple[int, ...], tuple[bytes, bytes]] = {}
        written = 0
        with self._measures.fan_out.time():
            for audience, connections in targets:
                frame = frames.get(audience.partitions)
                if frame is None:
                    raw = with_place(encode_places(self.positions(audience), audience.partitions), told.payload)
                    frame = frames[audience.partitions] = (raw, chunk(raw))
                for connection in connections:
                    if connection.is_open and not connection.write(frame[connection.chunked]):
                        self.leave(audience, connection)
                    written += 1
                    if written % _BREATH == 0:
                        await asyncio.sleep(0)
        if written:
            self._measures.events_pushed.inc(written)
            self._measures.pushed.observe(max(0, self._clock() - told.published_at) / 1000)

    def _end_all(self) -> None:
        for channel in list(self._channels.values()):
            for connection in list(channel.connections):
                self.leave(channel.audience, connection)


def with_place(place: str, payload: bytes) -> bytes:
    """A server-sent event with its id."""
    return b"id: %b\n%b" % (place.encode(), payload)


def chunk(data: bytes) -> bytes:
    """Data as one chunk of an HTTP/1.1 body of unknown length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _prepared(record: Record, event: SkillChanged) -> AnnouncedVersion:
    data = json.dumps(change_document(event), ensure_ascii=False, separators=(",", ":"))
    return AnnouncedVersion(
        partition=record.partition,
        offset=record.offset,
        key=interest_key(event.tenant, event.interest).encode(),
        version=(event.name, event.version),
        published_at=event.published_at,
        payload=ServerEvent(data, EVENT_NAME).encode(),
    )
