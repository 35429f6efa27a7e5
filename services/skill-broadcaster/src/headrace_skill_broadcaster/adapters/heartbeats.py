"""Heartbeats of all agents: one timer, instead of one for each of thousands of connections.

All intervals are equal, so that the connection whose heartbeat is due next is the one that has waited longest: a queue
is in order of time by itself. The agents of an audience share the bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from headrace_skill_broadcaster.decide.feed_positions import encode_places
from headrace_skill_broadcaster.feed import Audience, Feed, FeedConnection, chunk

_TOGETHER: Final = 1 / 50
"""Share of the interval by which a heartbeat may be early, to go with others: waking up costs more than a heartbeat."""
_AT_ONCE: Final = 200
"""Consecutive heartbeats before the event loop goes on."""


def heartbeat(places: Mapping[int, int], partitions: Iterable[int]) -> bytes:
    """A comment, and the agent's position.

    An id without data dispatches no event, but advances the position from which the agent would resume.
    """
    return b": heartbeat\nid: %b\n\n" % encode_places(places, partitions).encode()


class Heartbeats:
    """Sends each connection a heartbeat at an interval until it has ended.

    Args:
        seconds: Time between two heartbeats of a connection.
    """

    def __init__(self, feed: Feed, seconds: float) -> None:
        self._feed = feed
        self._seconds = seconds
        # Ended connections stay until their turn comes: they cost no more than a look.
        self._due: deque[tuple[float, Audience, FeedConnection]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, audience: Audience, connection: FeedConnection) -> None:
        """Send heartbeats to a connection that has joined the feed, the first one after the interval."""
        self._due.append((asyncio.get_running_loop().time() + self._seconds, audience, connection))
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._due:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._due[0][0] - loop.time()), self._beat)

    def _beat(self) -> None:
        self._timer = None
        try:
            self._send(asyncio.get_running_loop().time())
        finally:
            self._arm()

    def _send(self, now: float) -> None:
        frames: dict[Audience, tuple[bytes, bytes]] = {}
        for _ in range(_AT_ONCE):
            if not self._due or self._due[0][0] > now + self._seconds * _TOGETHER:
                return
            _, audience, connection = self._due.popleft()
            # Events are no longer written to a connection that has ended, and a heartbeat would move its agent's
            # position past them.
            if not connection.is_open:
                continue
            frame = frames.get(audience)
            if frame is None:
                raw = heartbeat(self._feed.written_positions(audience), audience.partitions)
                frame = frames[audience] = (raw, chunk(raw))
            if connection.write(frame[connection.chunked]):
                self._due.append((now + self._seconds, audience, connection))
            else:
                # Before the response is ended: nothing may be written after its last chunk.
                self._feed.leave(audience, connection)
