"""The Kubernetes API: EndpointSlices and their changes, and labels of cluster nodes.

1. All slices of a selector are listed.
2. A watch follows from the resource version of the list; bookmarks keep the version recent.
3. A watch that ends or breaks is restarted from the last version seen, so that no event is missed.
4. When the cluster no longer has that version (410), start over at 1.

While the API is unavailable the last known slices remain in use, so an outage of the API removes no nodes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
from headrace_models.local_servers import OLLAMA
from kubernetes.aio import client, config, watch
from kubernetes.aio.client.exceptions import ApiException

from headrace_local_worker.cluster_nodes import Sources
from headrace_local_worker.decide.endpoints import (
    SERVER_LABEL,
    Changed,
    Listed,
    Port,
    Removed,
    Slice,
    SliceEndpoint,
    SliceEvent,
)

_log = logging.getLogger(__name__)

_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ANSWER_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 30
"""A watch is renewed after this time, so that a silently dead connection is noticed."""
_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 1.0
"""Short enough that changes are noticed within two seconds after the API comes back."""
_DENIED_DELAY_SECONDS: Final = 5.0
_LABELS_SECONDS: Final = 1.0
_GONE: Final = 410
_DENIED: Final = (401, 403)
_BROKEN: Final = (aiohttp.ClientError, OSError, TimeoutError)


class ConfigureCluster(Exception):
    """The address of the cluster's API, or the credentials for it, cannot be determined."""


@dataclass(frozen=True, slots=True)
class SliceSelector:
    """A selection of slices: a namespace and a label selector."""

    namespace: str
    selector: str


class KubernetesCluster:
    """The cluster this process runs in, or the one in the kubeconfig.

    Args:
        namespace: Of the nodes' slices; empty for this process's own.
        selector: Labels of these slices.
        peers: Labels of the slices of the workers' own Service, in this process's namespace; empty for none.
        labels: Whether to read labels of cluster nodes.
        tell: Called with a description of a problem, written for operators, and with None when it is resolved.
    """

    def __init__(
        self, *, namespace: str, selector: str, peers: str, labels: bool, tell: Callable[[str | None], None]
    ) -> None:
        self._nodes = SliceSelector(namespace or own_namespace(), selector)
        self._peers = SliceSelector(own_namespace(), peers) if peers else None
        self._labels = labels
        self._tell = tell
        self._problems: dict[str, str] = {}
        self._api: client.ApiClient | None = None

    async def open(self) -> Sources:
        """Connect. Raises ConfigureCluster."""
        api = self._api = await _connect()
        return Sources(
            nodes=SliceFeed(api, self._nodes, self._note).events(),
            peers=SliceFeed(api, self._peers, self._note).events() if self._peers is not None else None,
            labels=MachineLabels(api) if self._labels else None,
        )

    async def close(self) -> None:
        """Close the connection."""
        if self._api is not None:
            await self._api.close()

    def _note(self, what: str, problem: str | None) -> None:
        if problem is None:
            self._problems.pop(what, None)
        else:
            self._problems[what] = f"{what}: {problem}"
        self._tell("; ".join(self._problems.values()) or None)


async def _connect() -> client.ApiClient:
    configuration = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
    except config.ConfigException as error:
        raise ConfigureCluster(
            f"The Kubernetes API is unusable: {error} In a pod, mount the service account's token "
            "(automountServiceAccountToken: true); elsewhere, name a kubeconfig by KUBECONFIG; "
            "or list the nodes in HEADRACE_OLLAMA_NODES and set HEADRACE_DISCOVERY=static."
        ) from error
    return client.ApiClient(configuration)


def own_namespace() -> str:
    """The namespace of this process's pod; `default` outside a cluster."""
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except FileNotFoundError:
        return "default"


class SliceFeed:
    """The EndpointSlices of a selection.

    Args:
        tell: Called with the feed's name and a description of a problem, or None when it is resolved.
    """

    def __init__(
        self, api: client.ApiClient, selection: SliceSelector, tell: Callable[[str, str | None], None]
    ) -> None:
        self._discovery = client.DiscoveryV1Api(api)
        self._selection = selection
        self._tell = tell
        self._version: str | None = None
        self._just_listed = False
        self._failures = 0

    async def events(self) -> AsyncIterator[SliceEvent]:
        """All slices, then every change, without end."""
        while True:
            try:
                if self._version is None:
                    listed, self._version = await self._list()
                    self._just_listed = True
                    self._well()
                    yield listed
                async for event in self._watch(self._version):
                    yield event
                self._well()
            except ApiException as error:
                if error.status == _GONE:
                    _log.info("%s: the cluster no longer has version %s, listing again", self, self._version)
                    self._version = None
                    if not self._just_listed:
                        continue
                await self._wait(_told(error, self._selection), denied=error.status in _DENIED)
            except _BROKEN as error:
                await self._wait(f"the Kubernetes API does not answer ({type(error).__name__}: {error})", denied=False)

    def __str__(self) -> str:
        return f"EndpointSlices {self._selection.selector} in namespace {self._selection.namespace}"

    async def _list(self) -> tuple[Listed, str]:
        found: Any = await self._discovery.list_namespaced_endpoint_slice(
            self._selection.namespace, label_selector=self._selection.selector, _request_timeout=_ANSWER_SECONDS
        )
        return Listed(tuple(_slice(item) for item in found.items)), found.metadata.resource_version

    async def _watch(self, version: str) -> AsyncIterator[SliceEvent]:
        async with watch.Watch() as watching:
            stream = watching.stream(
                self._discovery.list_namespaced_endpoint_slice,
                self._selection.namespace,
                label_selector=self._selection.selector,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=_WATCH_SECONDS,
                _request_timeout=_WATCH_SECONDS + _ANSWER_SECONDS,
            )
            async for event in stream:
                if not isinstance(event, dict):
                    raise aiohttp.ClientPayloadError("the watch ended in the middle of an event")
                self._version = watching.resource_version
                self._just_listed = False
                self._well()
                match event["type"]:
                    case "ADDED" | "MODIFIED":
                        yield Changed(_slice(event["object"]))
                    case "DELETED":
                        yield Removed(event["object"].metadata.name)

    def _well(self) -> None:
        if self._failures:
            _log.info("%s: watching again", self)
        self._failures = 0
        self._tell(str(self), None)

    async def _wait(self, reason: str, *, denied: bool) -> None:
        self._failures += 1
        self._tell(str(self), reason)
        if self._failures == 1 or denied:
            _log.warning("%s: %s", self, reason)
        longest = _DENIED_DELAY_SECONDS if denied else _LONGEST_DELAY_SECONDS
        delay = min(longest, _FIRST_DELAY_SECONDS * 2.0 ** min(self._failures - 1, 10))
        # Jitter, so that not all workers reconnect at once when the API comes back.
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))


class MachineLabels:
    """Labels of cluster nodes, as far as they may be read; cached, since they hardly ever change."""

    def __init__(self, api: client.ApiClient) -> None:
        self._core = client.CoreV1Api(api)
        self._known: dict[str, Mapping[str, str]] = {}
        self._warned = False

    @property
    def known(self) -> Mapping[str, Mapping[str, str]]:
        return self._known

    async def learn(self, machines: Collection[str]) -> None:
        """Read the labels of unknown nodes; those that cannot be read are left out and tried again next time."""
        unknown = [name for name in machines if name not in self._known]
        await asyncio.gather(*(self._read(name) for name in unknown))

    def forget(self) -> None:
        """Read all of them again next time."""
        self._known.clear()

    async def _read(self, name: str) -> None:
        try:
            node: Any = await self._core.read_node(name, _request_timeout=_LABELS_SECONDS)
        except ApiException as error:
            if error.status not in _DENIED:
                _log.info("labels of cluster node %s cannot be read: %s", name, error.reason)
            elif not self._warned:
                self._warned = True
                _log.warning(
                    "no permission to read labels of cluster nodes (%s): their hardware stays unknown. Grant `get` on "
                    "`nodes` to this service account by a ClusterRole, or empty HEADRACE_DISCOVERY_LABELS.",
                    error.reason,
                )
            # Otherwise every change of an endpoint would repeat the request that was just denied.
            self._known[name] = {}
        except _BROKEN as error:
            _log.info("labels of cluster node %s are unavailable: %s", name, error)
        else:
            self._known[name] = dict(node.metadata.labels or {})


def _told(error: ApiException, selection: SliceSelector) -> str:
    if error.status == 403:
        return (
            "this service account may not read them. Grant list and watch on endpointslices "
            f"(discovery.k8s.io) in namespace {selection.namespace} by a Role and a RoleBinding."
        )
    if error.status == 401:
        return "the Kubernetes API does not accept this service account's token; check that it is mounted and fresh."
    return f"the Kubernetes API answers {error.status} {error.reason}"


def _slice(item: Any) -> Slice:
    ports = {
        port.name or "": Port(port.port, secure=port.app_protocol == "https")
        for port in item.ports or ()
        if port.port is not None and (port.protocol or "TCP") == "TCP"
    }
    return Slice(
        name=item.metadata.name,
        family=cast(Any, item.address_type),
        ports=ports,
        endpoints=tuple(_endpoint(one) for one in item.endpoints or ()),
        server=(item.metadata.labels or {}).get(SERVER_LABEL) or OLLAMA,
    )


def _endpoint(one: Any) -> SliceEndpoint:
    conditions = one.conditions
    target = one.target_ref
    return SliceEndpoint(
        # Several addresses of an endpoint mean the same backend; consumers must use the first.
        address=one.addresses[0],
        ready=conditions is None or conditions.ready is not False,
        terminating=conditions is not None and conditions.terminating is True,
        pod=target.name if target is not None and target.kind == "Pod" else "",
        hostname=one.hostname or "",
        machine=one.node_name or "",
        zone=one.zone or "",
    )
