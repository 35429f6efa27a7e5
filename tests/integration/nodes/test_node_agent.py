"""The agent with a simulated Ollama and the in-memory log: what it announces while things go away and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import pytest
from headrace.connecting import Cluster
from headrace.node.agent import NodeAgent
from headrace.node.announcing import Identity
from headrace.node.benchmark import measure
from headrace.node.call_queue import CallQueue
from headrace.node.proxy import OllamaProxy, ProxyOptions
from headrace.nodes import drain_node, read_node, read_nodes, undrain_node
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import NodeAnnounced
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.node_keys import NodeKey
from headrace_contracts.topics import NODES_ANNOUNCED, TOPICS
from headrace_local_worker.announced_nodes import AnnouncedNodes
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_streams.errors import TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.memory.network import NetworkRequest, Operation
from headrace_streams.records import ProducerRecord, Record

SECRET = "the installation's secret"
TOPIC = "headrace.nodes.announced"
T = TypeVar("T")


class Registry(MemoryRegistry):
    async def close(self) -> None:
        """Nothing is held."""


class Cuttable:
    """A network that a test can cut."""

    is_cut = False

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if self.is_cut and request.operation is not Operation.FETCH:
            raise TransientError("the network is cut")
        return perform()


class Bed:
    """Topics in memory, and a simulated Ollama."""

    def __init__(self) -> None:
        self.network = Cuttable()
        self.memory = MemoryCluster()
        self.registry = Registry()
        self.codec = Codec(self.registry, "headrace.")

    async def prepare(self) -> None:
        for spec in TOPICS.values():
            self.memory.create_topic("headrace." + spec.name, spec.partitions)
        await self.codec.prepare(TOPICS.values(), register=True)

    def log(self) -> MemoryLog:
        """That of a process of its own."""
        return MemoryLog(self.memory, network=self.network)

    def cluster(self) -> Cluster:
        """As a process of its own sees it."""
        return Cluster.over(self.log(), self.registry)

    def records(self) -> list[Record]:
        return list(self.memory.records(TOPIC))

    def said(self) -> list[NodeAnnounced | None]:
        """All announcements; None for a tombstone."""
        return [
            None
            if record.value is None
            else self.codec.decode(NodeAnnounced, record.value, Origin(record.topic, record.partition, record.offset))
            for record in self.records()
        ]

    @asynccontextmanager
    async def agent(
        self, ollama: str, *, url: str = "http://10.0.0.7:11434", **options: Any
    ) -> AsyncIterator[NodeAgent]:
        identity = Identity(
            node="mac", url=url, agent=options.pop("agent", "a1"), host=options.pop("host", "mac.lan"),
            started_at=options.pop("started_at", 1), slots=2, interval_seconds=0.05,
        )  # fmt: skip
        made = NodeAgent(identity, NodeKey.of(SECRET, "mac"), self.cluster(), ollama, **options)
        working = asyncio.create_task(made.run())
        try:
            yield made
            assert not working.done(), working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await made.leave(0.1)
            await made.close()


@pytest.fixture
async def bed() -> Bed:
    made = Bed()
    await made.prepare()
    return made


@asynccontextmanager
async def simulated(port: int = 0) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(port=port, speed=Speed(None), nodes={"mac": ("gemma2:2b",)})) as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.005)


def last(bed: Bed) -> NodeAnnounced:
    found = [said for said in bed.said() if said is not None]
    assert found
    return found[-1]


async def test_a_node_is_announced_with_what_it_is_and_taken_back_at_the_end(bed: Bed) -> None:
    async with simulated() as simulator:
        async with bed.agent(simulator.ollama_url("mac")):
            await until(lambda: len(bed.said()) >= 2)
            said = last(bed)
            assert (said.node, said.url, said.slots, said.healthy) == ("mac", "http://10.0.0.7:11434", 2, True)
            assert [model.name for model in said.models] == ["gemma2:2b"]
            assert said.ollama_version.startswith("0.12")
            assert said.cpus
            assert said.memory_bytes
            assert said.running is None, "there is no proxy"
            (view,) = await read_nodes(bed.cluster())
            assert (view.node, view.state, view.slots) == ("mac", "no worker uses it", 2)
            await drain_node(bed.cluster(), "mac", reason="tests", who="ann@box")
            assert (await read_node(bed.cluster(), "mac")).state == "drained"
            await undrain_node(bed.cluster(), "mac")
            assert (await read_node(bed.cluster(), "mac")).drained is None
        *_, leaving, tombstone = bed.said()
        assert leaving is not None
        assert (leaving.drained, leaving.reason) == (True, "its agent stops")
        assert tombstone is None


async def test_ollama_may_be_away_for_any_time(bed: Bed) -> None:
    async with simulated() as simulator:
        port, ollama = int(simulator.url.rpartition(":")[2]), simulator.ollama_url("mac")
    async with bed.agent(ollama) as agent:
        await until(lambda: len(bed.said()) >= 2)
        assert "cannot be reached" in last(bed).reason
        assert not last(bed).healthy
        assert "Ollama" in agent.told.problems
        async with simulated(port):
            await until(lambda: last(bed).healthy)
            assert agent.told.problems == {}
        await until(lambda: not last(bed).healthy)


async def test_kafka_may_be_away_for_any_time(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.node.agent._ACKNOWLEDGED_SECONDS", 0.2)
    bed.network.is_cut = True
    async with simulated() as simulator, bed.agent(simulator.ollama_url("mac")) as agent:
        await until(lambda: "Kafka" in agent.told.problems)
        assert bed.said() == []
        bed.network.is_cut = False
        await until(lambda: len(bed.said()) >= 1)
        await until(lambda: agent.told.problems == {})
        bed.network.is_cut = True
        await until(lambda: "Kafka" in agent.told.problems)
        bed.network.is_cut = False
        before = len(bed.said())
        await until(lambda: len(bed.said()) > before + 1 and agent.told.problems == {})


async def test_of_two_agents_with_one_name_the_first_goes_on_and_the_second_says_why_it_does_not(bed: Bed) -> None:
    async with simulated() as simulator:
        ollama = simulator.ollama_url("mac")
        async with bed.agent(ollama):
            await until(lambda: bool(bed.said()))
            async with bed.agent(ollama, url="http://10.0.0.8:1", agent="a2", host="desk", started_at=2) as second:
                await until(lambda: "name" in second.told.problems)
                assert "another agent, on mac.lan" in second.told.problems["name"]
                count = len(bed.said())
                await until(lambda: len(bed.said()) > count + 3)
            assert {said.agent for said in bed.said() if said is not None} == {"a1"}
            assert None not in bed.said(), "who has announced nothing takes nothing back"
        async with bed.agent(ollama, url="http://10.0.0.8:1", agent="a3", started_at=3):
            await until(lambda: last(bed).agent == "a3")


async def test_workers_find_the_node_and_its_proxy_tells_what_it_runs(bed: Bed) -> None:
    queue = CallQueue(2, 4)
    nodes = AnnouncedNodes(bed.log(), bed.codec, SECRET)
    async with simulated() as simulator:
        ollama = simulator.ollama_url("mac")
        proxy = OllamaProxy(ProxyOptions(ollama), queue)
        await proxy.start()
        url = f"http://127.0.0.1:{proxy.port}"
        following = asyncio.create_task(nodes.follow(lambda: None))
        try:
            async with bed.agent(ollama, url=url, queue=queue):
                await until(lambda: "mac" in (nodes.nodes or {}))
                assert nodes.nodes is not None
                assert (nodes.nodes["mac"].url, nodes.nodes["mac"].withheld) == (url, None)
                model, levels = await measure(url, None)
                assert (model, [level.parallel for level in levels]) == ("gemma2:2b", [1, 2, 4])
                assert all(level.total_per_second > 0 for level in levels)
                await until(lambda: last(bed).tokens_per_second is not None)
                async with queue.slot(batch=False):
                    await until(lambda: last(bed).running == 1)
                    began = time.monotonic()
            assert time.monotonic() - began < 5
            await until(lambda: nodes.nodes == {})
            async with aiohttp.ClientSession() as session, session.post(f"{url}/api/chat", json={}) as answer:
                assert answer.status == 503
                assert "its agent stops" in await answer.text()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await proxy.stop()


async def test_what_others_write_in_the_name_of_the_node_is_not_heard(bed: Bed) -> None:
    async with simulated() as simulator, bed.agent(simulator.ollama_url("mac")) as agent:
        await until(lambda: bool(bed.said()))
        forged = bed.records()[0]
        other = NodeAnnounced(
            node="mac", url="http://thief:1", agent="a0", started_at=0, announced_at=time.time_ns() // 1_000_000
        )
        value = bed.codec.encode(NODES_ANNOUNCED, other)
        await bed.log().producer().send(ProducerRecord(forged.topic, value, key=b"mac", headers=forged.headers))
        count = len(bed.said())
        await until(lambda: len(bed.said()) > count + 3)
        assert agent.told.problems == {}
        assert last(bed).agent == "a1"
