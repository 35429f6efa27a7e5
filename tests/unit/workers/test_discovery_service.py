"""Nodes join and leave a worker's pool as a cluster tells, and the fleet hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import pytest
from headrace_local_worker.cluster_nodes import ClusterNodes, Sources
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.endpoints import (
    Changed,
    Listed,
    NodeRules,
    Port,
    Removed,
    Slice,
    SliceEndpoint,
    SliceEvent,
)
from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.discovery import Discovery
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from headrace_testing.workers import ScriptedProvider


def of(name: str, *endpoints: SliceEndpoint) -> Slice:
    return Slice(name, "IPv4", {"http": Port(11434)}, endpoints)


A = SliceEndpoint("10.0.0.1", pod="a", machine="m1")
B = SliceEndpoint("10.0.0.2", pod="b")


class Told:
    """A cluster that tells what a test puts into it."""

    def __init__(self, *, peers: bool = False, labels: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.events: asyncio.Queue[SliceEvent | Exception] = asyncio.Queue()
        self.peers: asyncio.Queue[SliceEvent | Exception] | None = asyncio.Queue() if peers else None
        self.labels = labels
        self.known: dict[str, Mapping[str, str]] = {}
        self.closed = False

    async def open(self) -> Sources:
        return Sources(
            nodes=_drain(self.events),
            peers=_drain(self.peers) if self.peers is not None else None,
            labels=self if self.labels is not None else None,
        )

    async def close(self) -> None:
        self.closed = True

    async def learn(self, machines: Collection[str]) -> None:
        assert self.labels is not None
        self.known.update({name: self.labels[name] for name in machines if name in self.labels})

    def forget(self) -> None:
        self.known.clear()


async def _drain(queue: asyncio.Queue[SliceEvent | Exception]) -> AsyncIterator[SliceEvent]:
    while True:
        event = await queue.get()
        if isinstance(event, Exception):
            raise event
        yield event


class Bed:
    def __init__(self, told: Told, **rules: Any) -> None:
        self.pool = Pool((), choose_node)
        self.providers: dict[str, ScriptedProvider] = {}
        nodes = ClusterNodes(told, NodeRules(**{"port": "http", "slots": 4, **rules}))
        self.discovery = Discovery([nodes], self.pool, "w1", self._endpoint)

    def _endpoint(self, spec: NodeSpec) -> Endpoint:
        self.providers[spec.url] = ScriptedProvider(node=spec.name)
        return Endpoint(self.providers[spec.url], spec.slots, spec.hardware)

    def is_closed(self, url: str) -> bool:
        return self.providers[url].closed


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_waits_for_the_first_list_and_then_follows() -> None:
    told = Told()
    bed = Bed(told)
    starting = asyncio.create_task(bed.discovery.start())
    await settle()
    assert not starting.done(), "a worker without a list knows nothing, which is not the same as no nodes"
    told.events.put_nowait(Listed((of("one", A),)))
    await starting
    assert set(bed.pool.endpoints) == {"a"}
    running = asyncio.create_task(bed.discovery.run())
    told.events.put_nowait(Changed(of("two", B)))
    await settle()
    assert set(bed.pool.endpoints) == {"a", "b"}
    told.events.put_nowait(Removed("one"))
    await settle()
    assert set(bed.pool.endpoints) == {"b"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await bed.discovery.stop()
    assert told.closed
    assert all(provider.closed for provider in bed.providers.values())


async def test_a_pod_that_is_replaced_is_another_endpoint_and_the_old_one_ends_its_calls() -> None:
    told = Told()
    bed = Bed(told)
    told.events.put_nowait(Listed((of("one", A),)))
    await bed.discovery.start()
    running = asyncio.create_task(bed.discovery.run())
    old = bed.pool.endpoints["a"]
    old.take("acme", 1, "m", 0.0)
    told.events.put_nowait(Changed(of("one", SliceEndpoint("10.0.0.9", pod="a"))))
    await settle()
    assert bed.pool.endpoints["a"] is not old
    assert not bed.is_closed("http://10.0.0.1:11434")
    bed.pool.release(old, None, "m", "acme")
    await settle()
    assert bed.is_closed("http://10.0.0.1:11434")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await bed.discovery.stop()


async def test_peers_and_labels_change_an_endpoint_where_it_stands() -> None:
    told = Told(peers=True, labels={"m1": {"gpu": "L40S"}})
    bed = Bed(told, labels={"gpu": "gpu"})
    told.events.put_nowait(Listed((of("one", A),)))
    await bed.discovery.start()
    running = asyncio.create_task(bed.discovery.run())
    endpoint = bed.pool.endpoints["a"]
    assert (endpoint.slots, endpoint.hardware) == (4, {"gpu": "L40S"})
    assert told.peers is not None
    told.peers.put_nowait(Listed((of("w", SliceEndpoint("10.0.1.1", pod="w1"), SliceEndpoint("10.0.1.2", pod="w2")),)))
    await settle()
    assert bed.pool.endpoints["a"] is endpoint
    assert bed.pool.endpoints["a"].slots == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await bed.discovery.stop()


@pytest.mark.parametrize("when", ["before the list", "later"])
async def test_a_feed_that_breaks_ends_the_service(when: str) -> None:
    told = Told()
    bed = Bed(told)
    if when == "later":
        told.events.put_nowait(Listed(()))
        await bed.discovery.start()
        running = asyncio.create_task(bed.discovery.run())
        told.events.put_nowait(RuntimeError("defect"))
        with pytest.raises(ExceptionGroup, match="unhandled") as broken:
            await running
        assert broken.group_contains(RuntimeError, match="defect")
    else:
        told.events.put_nowait(RuntimeError("defect"))
        with pytest.raises(RuntimeError, match="defect"):
            await bed.discovery.start()
    await bed.discovery.stop()


async def test_what_cannot_be_used_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    bed = Bed(told)
    odd = Slice("odd", "IPv4", {"x": Port(1), "y": Port(2)}, (A,))
    told.events.put_nowait(Listed((odd,)))
    await bed.discovery.start()
    running = asyncio.create_task(bed.discovery.run())
    told.events.put_nowait(Changed(of("one", B)))
    await settle()
    assert [line.message for line in caplog.records if "EndpointSlice odd" in line.message] != []
    assert len([line for line in caplog.records if "EndpointSlice odd" in line.message]) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await bed.discovery.stop()
