"""Support for tests of discovery: slices to write, a connection to cut, and a discovery to observe."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from headrace_local_worker.adapters.cluster import KubernetesCluster
from headrace_local_worker.cluster_nodes import ClusterNodes
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.endpoints import NodeRules
from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.discovery import Discovery
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from kubernetes.aio import client, config

from headrace_testing.k8s.plane import ControlPlane
from headrace_testing.workers import ScriptedProvider

SERVICE: Final = "kubernetes.io/service-name=ollama"
NOTICED_SECONDS: Final = 2.0
"""Longest accepted time for a change to take effect."""


class Slices:
    """Writes EndpointSlices as an administrator."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._discovery = client.DiscoveryV1Api(api)
        self._namespace = namespace

    async def write(
        self,
        name: str,
        *endpoints: Mapping[str, Any],
        service: str = "ollama",
        family: str = "IPv4",
        ports: Sequence[Mapping[str, Any]] = ({"name": "http", "port": 11434, "protocol": "TCP"},),
    ) -> None:
        """Create or replace one."""
        body: Any = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": family,
            "ports": list(ports),
            "endpoints": list(endpoints),
        }
        try:
            await self._discovery.replace_namespaced_endpoint_slice(name, self._namespace, body)
        except client.ApiException as error:
            if error.status != 404:
                raise
            await self._discovery.create_namespaced_endpoint_slice(self._namespace, body)

    async def delete(self, name: str) -> None:
        await self._discovery.delete_namespaced_endpoint_slice(name, self._namespace)


def endpoint(address: str, pod: str = "", *, node: str = "", **conditions: bool) -> Mapping[str, Any]:
    """One endpoint of a slice."""
    made: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    if pod:
        made["targetRef"] = {"kind": "Pod", "name": pod, "namespace": "default"}
    if node:
        made["nodeName"] = node
    return made


@contextlib.asynccontextmanager
async def administrator(plane: ControlPlane) -> AsyncIterator[client.ApiClient]:
    """A client that may do everything."""
    configuration = client.Configuration()
    await config.load_kube_config(str(plane.kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        yield api


class Wire:
    """A proxy to the API server that can be cut, blocked and stalled. Usage: `async with Wire(port) as wire`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.blocked = False
        self.connections = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        self.cut()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def stall(self) -> None:
        """Hold back all data from now on, without closing anything."""
        self._flows.clear()

    def resume(self) -> None:
        """Deliver what was held back, and everything after it."""
        self._flows.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.blocked:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for one, other in ((reader, back), (there, writer)):
            pipe = asyncio.create_task(self._pipe(one, other))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Finder:
    """A discovery with a pool of endpoints that are never called, and the problems it reports.

    Attributes:
        told: The reports about the cluster, newest last; None when all is well.
    """

    def __init__(
        self, namespace: str, *, peers: str = "", labels: Mapping[str, str] | None = None, worker: str = "w1"
    ) -> None:
        self.pool = Pool((), choose_node)
        self.told: list[str | None] = []
        cluster = KubernetesCluster(
            namespace=namespace, selector=SERVICE, peers=peers, labels=bool(labels), tell=self.told.append
        )
        nodes = ClusterNodes(cluster, NodeRules("http", 4, labels or {}))
        self.discovery = Discovery([nodes], self.pool, worker, self._place)
        self.urls: dict[str, str] = {}
        self.providers: dict[str, ScriptedProvider] = {}

    def _place(self, spec: NodeSpec) -> Endpoint:
        self.urls[spec.name] = spec.url
        self.providers[spec.name] = ScriptedProvider(node=spec.name)
        return Endpoint(self.providers[spec.name], spec.slots, spec.hardware)

    @property
    def nodes(self) -> dict[str, str]:
        """The nodes in the pool, with their addresses."""
        return {name: self.urls[name] for name in self.pool.endpoints}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Finder]:
        await asyncio.wait_for(self.discovery.start(), 30)
        run = asyncio.create_task(self.discovery.run())
        try:
            yield self
            assert not run.done(), run.result()
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            await self.discovery.stop()

    async def until(self, condition: Callable[[], bool], seconds: float = NOTICED_SECONDS) -> float:
        """Wait for a condition; returns the time it took, in seconds."""
        began = time.monotonic()
        while not condition():
            took = time.monotonic() - began
            assert took <= seconds, f"condition not met within {seconds} s: {self.nodes} {self.told[-1:]}"
            await asyncio.sleep(0.005)
        return time.monotonic() - began
