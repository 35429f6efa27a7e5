"""Agents get what they asked for, in order, and go on where they stopped."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientResponse
from headrace_contracts.topics import SKILLS_FEED
from headrace_skill_broadcaster.feed import Audience, FeedConnection
from headrace_streams.records import TopicPartition
from headrace_testing.skill_broadcaster import ApiClient, Installation

Eventually = Callable[..., Awaitable[None]]


@dataclass
class Agent:
    """Reads a stream of server-sent events."""

    response: ClientResponse
    events: list[dict[str, Any]] = field(default_factory=list)
    last_id: str = ""
    beats: int = 0
    ended: bool = False
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        data, event_id = "", ""
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = value
            elif name == "data":
                data = value
            elif line == ": heartbeat":
                self.beats += 1
            elif not line:
                # The position counts with the blank line: a stream that ends within an event has not delivered it.
                if event_id:
                    self.last_id = event_id
                    self.began.set()
                if data:
                    self.events.append(json.loads(data))
                data = ""
        self.ended = True
        self.ending.set()

    @property
    def versions(self) -> list[tuple[str, int]]:
        return [(event["name"], event["version"]) for event in self.events]


@asynccontextmanager
async def following(client: ApiClient, *interests: str, last_id: str = "") -> AsyncIterator[Agent]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    response = await client.get("/v1/skills/feed", params=[("interest", name) for name in interests], headers=headers)
    assert response.status == 200, await response.text()
    agent = Agent(response)
    reading = asyncio.create_task(agent.read())
    try:
        await asyncio.wait_for(agent.began.wait(), 30)
        yield agent
    finally:
        reading.cancel()
        response.close()


async def test_agents_get_changes_of_their_interests_and_tenant_only(
    installation: Installation, eventually: Eventually
) -> None:
    process = await installation.run()
    mine = await process.api(installation.key("acme"))
    theirs = await process.api(installation.key("umbra"))
    async with following(mine, "testing") as agent, following(theirs, "testing") as other:
        await installation.submit("a", "one", interests=("testing",), title="A", summary="about a")
        await installation.submit("b", "one", interests=("backend",))
        await installation.submit("c", "one", interests=("testing",), tenant="umbra")
        await eventually(lambda: agent.events and other.events)
        await installation.submit("a", None)
        await eventually(lambda: len(agent.events) == 2)
        assert agent.versions == [("a", 1), ("a", 2)]
        assert other.versions == [("c", 1)]
        assert {**agent.events[0], "digest": "", "submitted_at": "", "published_at": ""} == {
            "name": "a",
            "version": 1,
            "change": "published",
            "interest": "testing",
            "interests": ["testing"],
            "title": "A",
            "summary": "about a",
            "body": "one",
            "digest": "",
            "author": "",
            "submitted_at": "",
            "published_at": "",
        }
        assert (agent.events[1]["change"], agent.events[1]["body"]) == ("revoked", None)


async def test_an_agent_with_two_of_a_skill_s_interests_is_told_once(
    installation: Installation, eventually: Eventually
) -> None:
    process = await installation.run()
    client = await process.api(installation.key())
    async with following(client, "x", "y", "z") as agent:
        await installation.submit("a", interests=("x", "y"))
        await installation.submit("b", interests=("z",))
        await eventually(lambda: ("b", 1) in agent.versions and ("a", 1) in agent.versions)
        await eventually(lambda: len(installation.feed()) == 3)
        await asyncio.sleep(0.05)
        assert sorted(agent.versions) == [("a", 1), ("b", 1)]


async def test_an_agent_resumes_at_another_process_where_it_stopped(
    installation: Installation, eventually: Eventually
) -> None:
    one = await installation.run("one")
    two = await installation.run("two")
    key = installation.key()
    async with following(await one.api(key), "x", "y") as agent:
        for number in range(5):
            await installation.submit("a", f"body {number}", interests=("x",))
            await installation.submit("b", f"body {number}", interests=("y",))
        await eventually(lambda: len(agent.events) == 10)
        place = agent.last_id
    for number in range(5, 8):
        await installation.submit("a", f"body {number}", interests=("x",))
        await installation.submit("b", f"body {number}", interests=("y",))
    await eventually(lambda: len(installation.feed()) == 16)
    async with following(await two.api(key), "x", "y", last_id=place) as agent:
        await eventually(lambda: len(agent.events) == 6)
        assert sorted(agent.versions) == [("a", 6), ("a", 7), ("a", 8), ("b", 6), ("b", 7), ("b", 8)]
        await installation.submit("a", "now", interests=("x",))
        await eventually(lambda: ("a", 9) in agent.versions)


async def test_every_place_in_a_stream_is_one_to_go_on_from(installation: Installation, eventually: Eventually) -> None:
    process = await installation.run()
    client = await process.api(installation.key())
    async with following(client, "x", "y") as agent:
        places = [agent.last_id]
        for number in range(6):
            await installation.submit(f"skill-{number}", interests=("x",) if number % 2 else ("y",))
            await eventually(lambda number=number: len(agent.events) == number + 1)
            places.append(agent.last_id)
    for number, place in enumerate(places):
        async with following(client, "x", "y", last_id=place) as agent:
            await eventually(lambda number=number, agent=agent: len(agent.events) == 6 - number)
            assert {name for name, _ in agent.versions} == {f"skill-{later}" for later in range(number, 6)}


async def test_old_events_come_from_the_log_and_join_without_gap_or_repeat(
    installation: Installation, eventually: Eventually
) -> None:
    # Memory for a few events only.
    process = await installation.run("one", memory_bytes=3_000)
    client = await process.api(installation.key())
    async with following(client, "x") as agent:
        start = agent.last_id

    async def publish(first: int, last: int) -> None:
        for number in range(first, last):
            await installation.submit("a", f"body {number}", interests=("x",))
            await asyncio.sleep(0.002)

    await publish(0, 40)
    await eventually(lambda: len(installation.feed()) == 40)
    publishing = asyncio.create_task(publish(40, 80))
    async with following(client, "x", last_id=start) as agent:
        await publishing
        await eventually(lambda: len(agent.events) == 80)
        assert [version for _, version in agent.versions] == list(range(1, 81))


async def test_what_is_no_longer_kept_is_said(installation: Installation, eventually: Eventually) -> None:
    process = await installation.run()
    client = await process.api(installation.key())
    async with following(client, "x") as agent:
        place = agent.last_id
        for number in range(3):
            await installation.submit("a", f"body {number}", interests=("x",))
        await eventually(lambda: len(agent.events) == 3)
    partition = TopicPartition("t." + SKILLS_FEED.name, int(place.partition(".")[0]))
    installation.cluster.delete_before(partition, 2)
    fresh = await installation.run("two")
    other = await fresh.api(installation.key())
    response = await other.get("/v1/skills/feed", params={"interest": "x"}, headers={"Last-Event-ID": place})
    assert response.status == 410
    assert (await response.json())["type"] == "urn:headrace:problem:events-gone"
    beyond = f"{partition.partition}.1000"
    response = await other.get("/v1/skills/feed", params={"interest": "x"}, headers={"Last-Event-ID": beyond})
    assert response.status == 410


async def test_heartbeats_keep_the_place_up_to_date(installation: Installation, eventually: Eventually) -> None:
    process = await installation.run()
    client = await process.api(installation.key(), heartbeat_seconds=0.05)
    async with following(client, "x") as agent:
        first = agent.last_id
        partition = int(first.partition(".")[0])
        number = 0
        # Something in the same partition that is of no interest to the agent.
        while not any(record.partition == partition for record in installation.records(SKILLS_FEED)):
            await installation.submit(f"skill-{number}", interests=(f"other-{number}",))
            number += 1
            await eventually(lambda number=number: len(installation.records(SKILLS_FEED)) == number)
        await eventually(lambda: agent.last_id != first and agent.beats > 2)
        assert agent.events == []


async def test_a_slow_agent_is_let_go_and_resumes(installation: Installation, eventually: Eventually) -> None:
    process = await installation.run("one", buffer_bytes=65_536)
    client = await process.api(installation.key(), heartbeat_seconds=0.05)
    response = await client.get("/v1/skills/feed", params={"interest": "x"})
    for number in range(100):
        await installation.submit("a", f"{number}" + "x" * 250_000, interests=("x",))
    registry = process.metrics.registry
    await eventually(lambda: registry.get_sample_value("headrace_skills_agents_dropped_total") == 1, 20)
    agent = Agent(response)
    await asyncio.wait_for(agent.read(), 30)
    assert len(agent.events) < 100
    await eventually(lambda: len(installation.feed()) == 100)
    versions, last_id = list(agent.versions), agent.last_id
    # On a busy machine it may be too slow once more, and be let go once more.
    for _ in range(20):
        async with following(client, "x", last_id=last_id) as again:
            left = 100 - len(versions)
            await eventually(lambda again=again, left=left: again.ended or len(again.events) == left, 20)
            versions += again.versions
            last_id = again.last_id or last_id
        if len(versions) == 100:
            break
    assert [version for _, version in versions] == list(range(1, 101))


async def test_a_heartbeat_at_the_moment_of_the_end_moves_no_position(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await installation.run()
    client = await process.api(installation.key(), heartbeat_seconds=0.2)
    joined: list[tuple[Audience, FeedConnection]] = []
    join = process.feed.join

    def noted(audience: Audience, connection: FeedConnection) -> None:
        joined.append((audience, connection))
        join(audience, connection)

    beats: list[Audience] = []
    positions = process.feed.written_positions

    def asked(audience: Audience) -> dict[int, int]:
        beats.append(audience)
        return positions(audience)

    monkeypatch.setattr(process.feed, "join", noted)
    monkeypatch.setattr(process.feed, "written_positions", asked)
    for passes in range(5):
        async with following(client, "x") as agent:
            while not joined:  # noqa: ASYNC110
                await asyncio.sleep(0)
            time.sleep(0.25)  # noqa: ASYNC251 - the heartbeat is due when the event loop goes on
            for _ in range(passes):
                await asyncio.sleep(0)
            # With one of the numbers of passes, the wait for the heartbeat is over, and it is not written yet. Now the
            # connection ends: events to come are not written to it, so a heartbeat that names their positions would
            # hide them from the agent for good.
            process.feed.leave(*joined.pop())
            beats.clear()
            await asyncio.wait_for(agent.ending.wait(), 30)
            assert not beats


async def test_a_heartbeat_during_a_push_does_not_count_what_is_being_written(installation: Installation) -> None:
    process = await installation.run()
    audience = process.feed.audience("acme", ["x"])
    written: list[int] = []
    during: list[tuple[dict[int, int], int]] = []
    before = process.feed.positions(audience)

    def write(number: int) -> Callable[[bytes], bool]:
        def one(_: bytes) -> bool:
            written.append(number)
            return True

        return one

    for number in range(1_200):
        process.feed.join(audience, FeedConnection(write(number), chunked=True))
    pushed = asyncio.create_task(installation.submit("a", interests=("x",)))
    while len(written) < 1_200:
        if written:
            during.append((process.feed.written_positions(audience), len(written)))
        await asyncio.sleep(0)
    await pushed
    assert during, "the push gave way to others in its middle"
    assert all(positions == before for positions, _ in during)
    await asyncio.sleep(0.01)
    after = process.feed.written_positions(audience)
    assert after == process.feed.positions(audience) != before


async def test_streams_end_when_the_service_drains(installation: Installation, eventually: Eventually) -> None:
    process = await installation.run()
    client = await process.api(installation.key())
    async with following(client, "x") as agent:
        await process.drain_agents()
        await eventually(lambda: agent.ended)
    registry = process.metrics.registry
    await eventually(lambda: registry.get_sample_value("headrace_skills_agents") == 0)


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ([], "interest-missing"),
        ([("interest", "A b")], "invalid-request"),
        ([("interest", "a,b,c,d,e,f")], "too-many-interests"),
        ([("interest", "a"), ("last_event_id", "x")], "bad-last-event-id"),
    ],
)
async def test_a_feed_that_cannot_be_opened_says_why(
    installation: Installation, params: list[tuple[str, str]], kind: str
) -> None:
    client = await (await installation.run()).api(installation.key())
    response = await client.get("/v1/skills/feed", params=params)
    assert response.status == 400
    assert (await response.json())["type"] == f"urn:headrace:problem:{kind}"


async def test_many_agents_of_many_interests_get_all_of_theirs(
    installation: Installation, eventually: Eventually
) -> None:
    process = await installation.run()
    client = await process.api(installation.key())
    interests = [f"i{number}" for number in range(6)]
    async with _crowd(client, [(interests[n % 6], interests[(n // 6) % 6]) for n in range(72)]) as agents:
        for number in range(30):
            await installation.submit(f"skill-{number}", interests=(interests[number % 6],))
        for chosen, agent in agents:
            expected = sum(interests[number % 6] in chosen for number in range(30))
            await eventually(lambda agent=agent, expected=expected: len(agent.events) == expected)
            assert len(set(agent.versions)) == expected


@asynccontextmanager
async def _crowd(
    client: ApiClient, interests: list[tuple[str, ...]]
) -> AsyncIterator[list[tuple[tuple[str, ...], Agent]]]:
    if not interests:
        yield []
        return
    async with following(client, *interests[0]) as first, _crowd(client, interests[1:]) as rest:
        yield [(interests[0], first), *rest]


async def test_audiences_that_share_an_interest_leave_one_by_one(installation: Installation) -> None:
    feed = (await installation.run()).feed
    joined = []
    for number in range(20):
        audience = feed.audience("acme", ["shared", f"own-{number}"])
        member = FeedConnection(lambda data: True, chunked=False)
        feed.join(audience, member)
        joined.append((audience, member))
    for audience, member in joined[::2]:
        feed.leave(audience, member)

    assert all(member.is_open is (number % 2 == 1) for number, (_, member) in enumerate(joined))
    feed.join(*joined[0])
    for audience, member in joined:
        feed.leave(audience, member)
    assert not any(member.is_open for _, member in joined)
