"""What `headrace doctor` checks of our own nodes: whether they answer, and whether they run what they list."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
from headrace.addresses import Addresses
from headrace.cli.checkups import Finding
from headrace_local_worker.decide.nodes import NodesInvalid, NodeSpec, parse_nodes
from headrace_models.local_servers import OLLAMA, SEARXNG
from headrace_models.ollama_listing import runs_elsewhere
from headrace_models.wire import SIMULATOR_NAME

VARIABLE: Final = "HEADRACE_OLLAMA_NODES"
NO_CLOUD: Final = "OLLAMA_NO_CLOUD=1"
_SECONDS: Final = 4.0
_LARGEST_ANSWER: Final = 4_000_000  # bytes
_SHOWN: Final = 5
_LONGEST_NAME: Final = 80
T = TypeVar("T")


class _NotThatServer(Exception):
    """The answer is not that of the server that the list names; the message says what it is instead."""


async def examine_nodes(addresses: Addresses) -> list[Finding]:
    """One finding for each Ollama node that is known here, none if no node is known."""
    listed = os.environ.get(VARIABLE) or addresses.stack.get("ollama_nodes")
    if not isinstance(listed, str) or not listed.strip():
        return []
    try:
        return list(await _of_each(listed, _node))
    except NodesInvalid as error:
        return [Finding("ollama", False, f"{VARIABLE}: {error}", f"correct {VARIABLE}")]


async def models_on(ollama_nodes: str) -> tuple[frozenset[tuple[str, str]], Sequence[str]]:
    """Models that the nodes of a list (as in HEADRACE_OLLAMA_NODES) run themselves, each with the name of its server's
    kind as provider, and what is wrong with nodes that do not answer."""
    found = await _of_each(ollama_nodes, _models_of)
    models = frozenset(name for one in found if not isinstance(one, str) for name in one)
    return models, [one for one in found if isinstance(one, str)]


async def _of_each(ollama_nodes: str, look: Callable[[aiohttp.ClientSession, NodeSpec], Awaitable[T]]) -> Sequence[T]:
    """What a look at each node of a list finds. Raises NodesInvalid."""
    nodes = parse_nodes([entry.strip() for entry in ollama_nodes.split(",") if entry.strip()], default_slots=1)
    # A node is no website: what it redirects to is not it, and a proxy would answer in its place.
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        return await asyncio.gather(*(look(session, node) for node in nodes))


async def _models_of(session: aiohttp.ClientSession, node: NodeSpec) -> Sequence[tuple[str, str]] | str:
    try:
        entries = await _listed(session, node)
    except (aiohttp.ClientError, TimeoutError):
        return f"{_address(node)} does not answer: start it, or take it out of {VARIABLE}"
    except _NotThatServer as error:
        return f"{_address(node)} {error}: correct its address in {VARIABLE}"
    return [
        (node.server, str(entry.get("model") or entry.get("name")))
        for entry in entries or ()
        if not runs_elsewhere(entry)
    ]


async def _listed(session: aiohttp.ClientSession, node: NodeSpec) -> Sequence[Mapping[str, Any]] | None:
    """Elements of its list of models, each with a name; None if that is no list. A search engine has one, by its
    reach."""
    if node.server == SEARXNG:
        await _healthy(session, node)
        return [{"name": node.reach}]
    if node.server == OLLAMA:
        entries = (await _document(session, f"{node.url}/api/tags")).get("models") or []
    else:
        entries = (await _document(session, f"{node.url}/models")).get("data")
    if not isinstance(entries, list):
        return None
    found = [entry for entry in entries if isinstance(entry, Mapping)]
    return found if node.server == OLLAMA else [{"name": entry.get("id")} for entry in found]


async def _node(session: aiohttp.ClientSession, node: NodeSpec) -> Finding:
    part = f"{node.server} {node.name}"
    version, cloud_off = None, False
    try:
        if node.server == OLLAMA:
            version = (await _document(session, f"{node.url}/api/version")).get("version")
            cloud_off = await _cloud_is_off(session, node)
        entries = await _listed(session, node)
    except (aiohttp.ClientError, TimeoutError) as error:
        detail = f"{_address(node)} does not answer ({type(error).__name__})"
        return Finding(part, False, detail, f"start it, or take it out of {VARIABLE}", unreachable=True)
    except _NotThatServer as error:
        return Finding(part, False, f"{_address(node)} {error}", f"correct its address in {VARIABLE}")
    if entries is None:
        detail = f"{_address(node)} lists no models as {node.server} does"
        return Finding(part, False, detail, f"correct its address in {VARIABLE}")
    return finding_of(
        part,
        entries,
        simulated=SIMULATOR_NAME in str(version),
        cloud_off=cloud_off,
    )


def finding_of(part: str, entries: Sequence[Mapping[str, Any]], *, simulated: bool, cloud_off: bool) -> Finding:
    """The finding for a node that lists these models (elements of `/api/tags`).

    Args:
        simulated: Whether it is a simulator, whose models need no remedy.
        cloud_off: Whether it says that Ollama's cloud is disabled.
    """
    elsewhere = [entry for entry in entries if runs_elsewhere(entry)]
    own = f"runs {_models(len(entries) - len(elsewhere))}"
    if not elsewhere:
        return Finding(part, True, own)
    names = ", ".join(_shown(entry) for entry in elsewhere[:_SHOWN])
    if len(elsewhere) > _SHOWN:
        names += f" and {len(elsewhere) - _SHOWN} more"
    detail = f"{own}; lists {_models(len(elsewhere))} that another host runs, never used as local: {names}"
    if simulated:
        return Finding(part, True, f"{detail} (planted by the simulator)")
    remove = "remove them there: ollama rm NAME"
    disable = (
        f'set {NO_CLOUD} on the node (Ollama 0.16.2 or newer; or "disable_ollama_cloud": true in '
        "~/.ollama/server.json) and restart Ollama"
    )
    return Finding(part, True, detail, remove if cloud_off else f"{disable}; {remove}", warning=True)


def _address(node: NodeSpec) -> str:
    """Its URL without credentials."""
    parts = urlsplit(node.url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _models(number: int) -> str:
    return f"{number} model" if number == 1 else f"{number} models"


def _shown(entry: Mapping[str, Any]) -> str:
    """The name of a model and its host, as harmless text: both are the node's words."""
    name = str(entry.get("name") or entry.get("model") or "a model without a name")
    host = entry.get("remote_host")
    text = f"{name} ({host})" if isinstance(host, str) and host else name
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text[:_LONGEST_NAME])


async def _cloud_is_off(session: aiohttp.ClientSession, node: NodeSpec) -> bool:
    """Whether the node says so. Ollama does from 0.16.2 on; an older one cannot disable it."""
    try:
        cloud = (await _document(session, f"{node.url}/api/status")).get("cloud")
    except _NotThatServer:
        return False
    return isinstance(cloud, Mapping) and cloud.get("disabled") is True


async def _healthy(session: aiohttp.ClientSession, node: NodeSpec) -> None:
    async with session.get(f"{node.url}/healthz", allow_redirects=False) as response:
        if response.status != 200:
            raise _NotThatServer(f"answered {response.status}")


async def _document(session: aiohttp.ClientSession, url: str) -> Mapping[str, Any]:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise _NotThatServer(f"answered {response.status}")
        data = bytearray()
        async for chunk in response.content.iter_chunked(65_536):
            data += chunk
            if len(data) > _LARGEST_ANSWER:
                raise _NotThatServer("answers more than a list of models can be")
    try:
        document = json.loads(data)
    except ValueError:
        raise _NotThatServer("does not answer in JSON") from None
    if not isinstance(document, Mapping):
        raise _NotThatServer("does not answer with a document")
    return document
