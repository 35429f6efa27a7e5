"""GET /v1/skills/feed: an agent's open stream of skill changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import HttpVersion11, web
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import DRAINING
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem
from headrace_runtime.sse import last_event_id
from headrace_streams.errors import TransientError

from headrace_skill_broadcaster.adapters.heartbeats import Heartbeats, heartbeat
from headrace_skill_broadcaster.decide.feed_positions import FeedPositionMalformed, decode_places
from headrace_skill_broadcaster.decide.rules import SkillLimits, flaw_in_interest
from headrace_skill_broadcaster.feed import Feed, FeedConnection
from headrace_skill_broadcaster.metrics import SkillMetrics
from headrace_skill_broadcaster.replay import FeedPositionGone, Replay

_RECONNECT_MS = 1_000
_FAREWELL_SECONDS = 5.0
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

_log = get_logger("headrace.skills.feed_api")


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Limits on agents' use of the feed.

    Attributes:
        interests: Most interests per connection.
        buffer_bytes: Most unsent bytes for an agent that reads slowly.
    """

    heartbeat_seconds: float
    interests: int
    buffer_bytes: int


class FeedApi:
    """Opens the streams and handles their heartbeat and end; the feed writes to them."""

    def __init__(
        self, feed: Feed, replay: Replay, limits: FeedLimits, rules: SkillLimits, measures: SkillMetrics
    ) -> None:
        self._feed = feed
        self._replay = replay
        self._limits = limits
        self._heartbeats = Heartbeats(feed, limits.heartbeat_seconds)
        self._rules = rules
        self._measures = measures

    async def open(self, request: web.Request) -> web.StreamResponse:
        """Responds with a stream that ends when the agent disconnects or reads too slowly, or the service drains."""
        caller = require(request, Scope.SKILLS)
        audience = self._feed.audience(caller.tenant, self._interests(request))
        try:
            agent = await self._replay.prepare(audience, _place(request))
        except FeedPositionGone:
            raise Problem(
                410,
                "events-gone",
                "Events after this Last-Event-ID have expired: read the skills of your interests with GET /v1/skills, "
                "and open the feed without Last-Event-ID.",
            ) from None
        except TransientError as error:
            _log.warning("feed cannot be read", reason=str(error))
            raise Problem(
                503, "feed-unavailable", "The feed is unavailable; try again.", headers={"Retry-After": "1"}
            ) from None
        response = web.StreamResponse(headers=_HEADERS)
        response.force_close()
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        outlet = _Outlet(transport, self._limits.buffer_bytes)
        connection = FeedConnection(outlet.write, chunked=bool(response.chunked))
        try:
            await response.write(b"retry: %d\n%b" % (_RECONNECT_MS, heartbeat(agent.places, audience.partitions)))
            if not request.app[DRAINING].is_set():
                await self._replay.bring_up(agent, connection, response.write)
                if connection.is_open:
                    self._heartbeats.begin(audience, connection)
                await connection.ended.wait()
            if outlet.too_slow:
                self._measures.agents_dropped.inc()
            await _farewell(response, transport)
        except ConnectionError:
            pass  # the agent disconnected; all that remains is to leave the feed below
        except (FeedPositionGone, TransientError) as error:
            # The stream ends; the agent reconnects with its position and gets the error then.
            _log.warning("catching up an agent failed", reason=str(error))
            await _farewell(response, transport)
        finally:
            self._feed.leave(audience, connection)
        return response

    def _interests(self, request: web.Request) -> list[str]:
        interests = [part for value in request.query.getall("interest", []) for part in value.split(",") if part]
        distinct = list(dict.fromkeys(interests))
        if not distinct:
            raise Problem(400, "interest-missing", "Name the domains to follow: ?interest=testing&interest=security")
        if len(distinct) > self._limits.interests:
            raise Problem(400, "too-many-interests", f"One connection follows at most {self._limits.interests}.")
        for interest in distinct:
            flaw = flaw_in_interest(interest, self._rules)
            if flaw is not None:
                raise Problem(400, "invalid-request", str(flaw), param="interest")
        return distinct


class _Outlet:
    """Writes to an agent's connection without waiting for it."""

    __slots__ = ("_limit", "_transport", "too_slow")

    def __init__(self, transport: asyncio.Transport, limit: int) -> None:
        self._transport = transport
        self._limit = limit
        self.too_slow = False

    def write(self, data: bytes) -> bool:
        """False when the agent has disconnected, or has so much unread that it must resume later."""
        if self._transport.is_closing():
            return False
        # Bypasses aiohttp's writer: its coroutine for each of thousands of agents would cost more than the write.
        self._transport.write(data)
        self.too_slow = self._transport.get_write_buffer_size() > self._limit
        return not self.too_slow


async def _farewell(response: web.StreamResponse, transport: asyncio.Transport) -> None:
    """End the response; an agent that does not read the rest in time is disconnected."""
    try:
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await response.write_eof()
    except TimeoutError:
        transport.abort()


def _place(request: web.Request) -> dict[int, int] | None:
    text = last_event_id(request)
    if text is None:
        return None
    try:
        return decode_places(text)
    except FeedPositionMalformed:
        raise Problem(400, "bad-last-event-id", "Last-Event-ID was not issued by this feed.") from None
