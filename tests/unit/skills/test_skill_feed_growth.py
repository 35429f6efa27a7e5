"""What many agents cost the feed: each pays for itself, not for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from headrace_skill_broadcaster.adapters.heartbeats import Heartbeats
from headrace_skill_broadcaster.feed import Audience, FeedConnection
from headrace_skill_broadcaster.recent import AnnouncedVersion, Recent
from headrace_testing.simulation.loop import VirtualLoop

BEAT = 15.0  # seconds


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


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Under virtual time."""
    loop = VirtualLoop()  # type: ignore[abstract]  # what is left out is never called here
    loop.run_until_complete(scenario)
    assert loop.failures == []


X, Y = (Audience(frozenset({b"acme/" + name}), (number,)) for number, name in enumerate((b"x", b"y")))


def started() -> tuple[StillFeed, Heartbeats]:
    feed = StillFeed()
    return feed, Heartbeats(feed, BEAT)  # type: ignore[arg-type]


def connection(written: list[bytes], accepts: Callable[[], bool] = lambda: True) -> FeedConnection:
    def write(data: bytes) -> bool:
        written.append(data)
        return accepts()

    return FeedConnection(write, chunked=False)


def test_one_timer_serves_all_agents_and_those_of_an_audience_share_the_bytes() -> None:
    feed, heartbeats = started()
    written: list[bytes] = []

    async def scenario() -> None:
        before = len(asyncio.all_tasks())
        for audience in (X, Y):
            for _ in range(50):
                heartbeats.begin(audience, connection(written))
        assert len(asyncio.all_tasks()) == before
        await asyncio.sleep(BEAT + 0.1)

    run(scenario())

    assert written == [b": heartbeat\nid: 0.7\n\n"] * 50 + [b": heartbeat\nid: 1.7\n\n"] * 50
    assert feed.asked == 2


def test_an_agent_gets_heartbeats_until_it_has_ended() -> None:
    feed, heartbeats = started()
    stays: list[bytes] = []
    ends: list[bytes] = []
    refuses: list[bytes] = []
    refusing = connection(refuses, lambda: False)

    async def scenario() -> None:
        ending = connection(ends)
        for each in (connection(stays), ending, refusing):
            heartbeats.begin(X, each)
        ending.ended.set()
        await asyncio.sleep(3 * BEAT + 0.1)

    run(scenario())

    assert (len(stays), len(ends), len(refuses)) == (3, 0, 1)
    assert feed.left == [refusing]


def test_heartbeats_that_are_due_at_nearly_the_same_time_go_together() -> None:
    feed, heartbeats = started()
    written: list[bytes] = []

    async def scenario() -> None:
        for _ in range(150):
            heartbeats.begin(X, connection(written))
            await asyncio.sleep(BEAT / 300)
        await asyncio.sleep(BEAT)

    run(scenario())

    assert len(written) == 150
    # Each by itself would wake the process 150 times.
    assert feed.asked <= 30


def test_the_event_loop_goes_on_between_the_heartbeats_of_many() -> None:
    _, heartbeats = started()
    turns: list[int] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        def write(_: bytes) -> bool:
            turns.append(loop.steps)
            return True

        for _ in range(1_000):
            heartbeats.begin(X, FeedConnection(write, chunked=False))
        await asyncio.sleep(BEAT + 0.1)

    run(scenario())

    assert len(turns) == 1_000
    assert len(set(turns)) >= 5


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
