"""Sends an agent what it missed before it joins the others: from memory, and from the log where memory ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from headrace_contracts.topics import SKILLS_FEED
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.ports import Log
from headrace_streams.records import TopicPartition

from headrace_skill_broadcaster.decide.feed_positions import are_gone, encode_places, places_to_resume
from headrace_skill_broadcaster.feed import Audience, Feed, FeedConnection, with_place
from headrace_skill_broadcaster.recent import AnnouncedVersion, RecentVersions

_POLL = 500
_POLL_SECONDS = 1.0
_BEHIND_SECONDS = 0.02
_REMEMBERED_VERSIONS = 10_000

Send = Callable[[bytes], Awaitable[None]]


class FeedPositionGone(Exception):
    """Events after the agent's position have expired, or were never in this log: read the skills again."""


@dataclass(frozen=True, slots=True)
class FeedSubscriber:
    """One agent that is catching up: what it follows, and its position in each partition, advanced as it is sent."""

    audience: Audience
    places: dict[int, int]
    versions: RecentVersions


class Replay:
    """Brings agents up to date.

    Args:
        readers: How many agents may read the log at once; others queue.
    """

    def __init__(self, feed: Feed, log: Log, topic_prefix: str, *, readers: int = 4) -> None:
        self._feed = feed
        self._log = log
        self._topic = topic_prefix + SKILLS_FEED.name
        self._turn = asyncio.Semaphore(readers)

    async def prepare(self, audience: Audience, resume_at: dict[int, int] | None) -> FeedSubscriber:
        """An agent that resumes after the positions in `resume_at`, or, without any, with the events to come.

        Raises FeedPositionGone, TransientError.
        """
        current = self._feed.positions(audience)
        places = places_to_resume(resume_at, current)
        if self._feed.forgotten(places) or any(places[partition] > now for partition, now in current.items()):
            await self._refuse_if_gone(places)
        return FeedSubscriber(audience, places, RecentVersions(_REMEMBERED_VERSIONS))

    async def bring_up(self, agent: FeedSubscriber, connection: FeedConnection, send: Send) -> None:
        """Send what the agent missed, then join its connection to the feed.

        Raises what `send` raises, FeedPositionGone, TransientError.
        """
        while True:
            if self._feed.forgotten(agent.places):
                async with self._turn:
                    await self._from_log(agent, send)
            current = self._feed.positions(agent.audience)
            for told in self._feed.missed(agent.audience, agent.places):
                await self._tell(agent, told, send)
            for partition, position in current.items():
                agent.places[partition] = max(agent.places[partition], position)
            now = self._feed.positions(agent.audience)
            if agent.places == now:
                # No await since the comparison: the next event finds the connection in its channel.
                self._feed.join(agent.audience, connection)
                return
            if any(agent.places[partition] > position for partition, position in now.items()):
                # The agent comes from a process that had read further than this one.
                await asyncio.sleep(_BEHIND_SECONDS)

    async def _from_log(self, agent: FeedSubscriber, send: Send) -> None:
        """Read until the rest is in memory."""
        reader = self._log.reader()
        try:
            behind = self._feed.forgotten(agent.places)
            await self._refuse_if_gone({partition: agent.places[partition] for partition in behind})
            await reader.assign({TopicPartition(self._topic, number): agent.places[number] for number in behind})
            while self._feed.forgotten(agent.places):
                for record in await reader.poll(_POLL, _POLL_SECONDS):
                    told = await self._feed.read(record) if record.key in agent.audience.keys else None
                    if told is None:
                        agent.places[record.partition] = record.offset + 1
                    else:
                        await self._tell(agent, told, send)
                for partition, position in reader.positions().items():
                    agent.places[partition.partition] = max(agent.places[partition.partition], position)
        except OffsetOutOfRange as error:
            raise FeedPositionGone(str(error)) from error
        finally:
            await reader.close()

    async def _tell(self, agent: FeedSubscriber, told: AnnouncedVersion, send: Send) -> None:
        agent.places[told.partition] = told.offset + 1
        if not agent.versions.is_repeat(told.version):
            await send(with_place(encode_places(agent.places, agent.audience.partitions), told.payload))

    async def _refuse_if_gone(self, places: dict[int, int]) -> None:
        bounds = await self._log.admin().bounds([TopicPartition(self._topic, number) for number in places])
        if are_gone(places, {partition.partition: limits for partition, limits in bounds.items()}):
            raise FeedPositionGone("events after this position have expired")
