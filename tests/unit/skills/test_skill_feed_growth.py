"""What many agents cost the feed: each pays for itself, not for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace_skill_broadcaster.adapters.heartbeats import Heartbeats
from headrace_skill_broadcaster.feed import Audience, FeedConnection
from headrace_skill_broadcaster.recent import AnnouncedVersion, Recent

BEAT = 0.05  # seconds


class StillFeed:
    """A feed in which nothing happens, and that knows who has left it."""

    def __init__(self) -> None:
        self.left: list[FeedConnection] = []
        self.asked = 0

    def written_positions(self, audience: Audience) -> dict[int, int]:
        self.asked += 1
        return dict.fromkeys(audience.partitions, 7)

    def leave(self, audience: Audience, connection: FeedConnection) -> None:
        connection.ended.set()
        self.left.append(connection)


X, Y = (Audience(frozenset({b"acme/" + name}), (number,)) for number, name in enumerate((b"x", b"y")))


def started() -> tuple[StillFeed, Heartbeats]:
    feed = StillFeed()
    return feed, Heartbeats(feed, BEAT)  # type: ignore[arg-type]


def connection(written: list[bytes], accepts: Callable[[], bool] = lambda: True) -> FeedConnection:
    def write(data: bytes) -> bool:
        written.append(data)
        return accepts()

    return FeedConnection(write, chunked=False)


async def test_one_timer_serves_all_agents_and_those_of_an_audience_share_the_bytes() -> None:
    feed, heartbeats = started()
    written: list[bytes] = []
    before = len(asyncio.all_tasks())
    for audience in (X, Y):
        for _ in range(50):
            heartbeats.begin(audience, connection(written))

    assert len(asyncio.all_tasks()) == before
    async with asyncio.timeout(5):
        while len(written) < 100:  # noqa: ASYNC110 - the bytes come from a timer
            await asyncio.sleep(0.005)

    assert sorted({*written}) == [b": heartbeat\nid: 0.7\n\n", b": heartbeat\nid: 1.7\n\n"]
    # Of a hundred agents, each would be asked for by itself.
    assert feed.asked < 50


async def test_an_agent_gets_heartbeats_until_it_has_ended() -> None:
    feed, heartbeats = started()
    stays: list[bytes] = []
    ends: list[bytes] = []
    refuses: list[bytes] = []
    ending, refusing = connection(ends), connection(refuses, lambda: False)
    for each in (connection(stays), ending, refusing):
        heartbeats.begin(X, each)
    ending.ended.set()

    async with asyncio.timeout(5):
        while len(stays) < 3:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)

    assert ends == []
    assert len(refuses) == 1
    assert feed.left == [refusing]


async def test_the_event_loop_goes_on_between_the_heartbeats_of_many() -> None:
    _, heartbeats = started()
    written: list[bytes] = []
    for _ in range(1_000):
        heartbeats.begin(X, connection(written))
    seen: set[int] = set()
    async with asyncio.timeout(5):
        while len(written) < 1_000:
            seen.add(len(written))
            await asyncio.sleep(0)

    assert len(seen) > 4


class CountedVersion:
    """A version that counts how often it is looked at."""

    looks = 0

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self.payload = b"x"

    @property
    def offset(self) -> int:
        CountedVersion.looks += 1
        return self._offset


def test_an_agent_that_missed_little_looks_at_little() -> None:
    recent = Recent(0, 1_000_000)
    versions: list[AnnouncedVersion] = [CountedVersion(number) for number in range(2_000)]  # type: ignore[misc]
    for number, version in enumerate(versions):
        recent.add(number, version)
    CountedVersion.looks = 0

    assert recent.after(1_997) == versions[1_997:]
    assert recent.after(2_000) == []
    assert CountedVersion.looks < 10
    assert recent.after(0) == versions
