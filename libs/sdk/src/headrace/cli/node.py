"""`headrace node`: the agent of a node."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from headrace_contracts.model_settings import ModelSettingInvalid, node_defaults
from headrace_contracts.node_keys import NodeKey, NodeKeyInvalid
from headrace_contracts.users import NODE_AGENT

from headrace.cli.running import addresses, run
from headrace.connecting import Cluster
from headrace.errors import Misconfigured

if TYPE_CHECKING:
    from headrace.node.serving_tls import ServingTls

_KEY: Final = "HEADRACE_NODE_KEY"
_LOOPBACK: Final = ("127.", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class _Proxy:
    """What the options say of the proxy."""

    host: str
    port: int
    room: int
    token: str | None
    tls: ServingTls | None
    allow_pull: bool
    body_limit_bytes: int
    call_seconds: float


def node(
    name: Annotated[
        str | None, typer.Option(help="Name of the node; by default that of its key.", envvar="HEADRACE_NODE_NAME")
    ] = None,
    ollama: Annotated[
        str, typer.Option(help="Address of the Ollama beside which this runs.", envvar="HEADRACE_NODE_OLLAMA")
    ] = "http://127.0.0.1:11434",
    url: Annotated[
        str | None,
        typer.Option(help="Address to announce, if not what follows from the others.", envvar="HEADRACE_NODE_URL"),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Calls at once; by default OLLAMA_NUM_PARALLEL, else 1."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="name=value for policies, as gpu=rtx4060; repeatable.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="How models are loaded and asked here, as num_ctx=8192: num_ctx, max_num_ctx, keep_alive, think, "
            "top_k, slots.<model>; repeatable.",
        ),
    ] = None,
    site: Annotated[str, typer.Option(help="Site of the node.", envvar="HEADRACE_SITE")] = "",
    interval: Annotated[float, typer.Option(min=1, max=60, help="Seconds between announcements.")] = 5.0,
    drain_seconds: Annotated[float, typer.Option(min=0, help="Seconds for running calls when it stops.")] = 30.0,
    proxy_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of a proxy in front of Ollama; none without it.")
    ] = None,
    proxy_host: Annotated[str, typer.Option(help="Address that the proxy listens on.")] = "127.0.0.1",
    queue: Annotated[int, typer.Option(min=0, max=10_000, help="Calls that may wait in the proxy.")] = 16,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate of the proxy (PEM).", envvar="HEADRACE_NODE_PROXY_CERT")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.", envvar="HEADRACE_NODE_PROXY_KEY")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Authorities whose certificates callers must show (mutual TLS).",
            envvar="HEADRACE_NODE_PROXY_CLIENT_CA",
        ),
    ] = None,
    unprotected: Annotated[
        bool, typer.Option("--unprotected", help="Let the proxy listen beyond loopback without token or client_ca.")
    ] = False,
    allow_pull: Annotated[bool, typer.Option("--allow-pull", help="Let callers have models downloaded.")] = False,
    body_limit: Annotated[int, typer.Option(min=1024, help="Bytes of the largest request.")] = 32 * 1024 * 1024,
    call_seconds: Annotated[float, typer.Option(min=1, help="Longest time for one call of the proxy.")] = 1800.0,
) -> None:
    """Announce the Ollama beside this to the workers, with its hardware and models, and guard it with a proxy if asked.

    HEADRACE_NODE_KEY holds the node's key (`headrace nodes key NODE`). HEADRACE_NODE_TOKEN is the token that the proxy
    asks callers for. Workers with HEADRACE_DISCOVERY=announced use the node until this stops.

    \b
    Examples:
      headrace node --url http://10.0.0.7:11434 --label gpu=rtx4060
      headrace node --proxy-port 11435 --proxy-host 0.0.0.0 --slots 2
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    key, labels, settings = _key(name), _pairs("--label", label or []), _settings(setting or [])
    proxy = _proxy(
        proxy_host, proxy_port, queue, tls_cert, tls_key, client_ca, unprotected, allow_pull, body_limit, call_seconds
    )
    run(
        _run(
            key,
            ollama.rstrip("/"),
            url,
            slots or _usual_slots(),
            labels,
            settings,
            site,
            interval,
            drain_seconds,
            proxy,
        )
    )


async def _run(
    key: NodeKey,
    ollama: str,
    url: str | None,
    slots: int,
    labels: dict[str, str],
    settings: dict[str, str],
    site: str,
    interval: float,
    drain_seconds: float,
    proxy: _Proxy | None,
) -> None:
    # NVML and psutil are loaded only here.
    from headrace.node.agent import NodeAgent
    from headrace.node.announcing import Identity, advertised_url
    from headrace.node.call_queue import CallQueue
    from headrace.node.proxy import OllamaProxy, ProxyOptions

    host = socket.gethostname()
    identity = Identity(
        node=key.node,
        url=advertised_url(
            url=url,
            ollama=ollama,
            proxy_host=None if proxy is None else proxy.host,
            proxy_port=None if proxy is None else proxy.port,
            tls=proxy is not None and proxy.tls is not None,
            host=host,
        ),
        agent=secrets.token_hex(8),
        host=host,
        started_at=time.time_ns() // 1_000_000,
        site=site,
        slots=slots,
        labels=labels,
        settings=settings,
        version=version("headrace"),
        interval_seconds=interval,
    )
    queue = server = None
    if proxy is not None:
        queue = CallQueue(slots, proxy.room)
        options = ProxyOptions(
            ollama=ollama,
            host=proxy.host,
            port=proxy.port,
            token=proxy.token,
            tls=None if proxy.tls is None else proxy.tls.context,
            allow_pull=proxy.allow_pull,
            body_limit_bytes=proxy.body_limit_bytes,
            call_seconds=proxy.call_seconds,
        )
        server = OllamaProxy(options, queue)
    async with Cluster.at(addresses(), user=NODE_AGENT) as cluster:
        agent = NodeAgent(identity, key, cluster, ollama, queue=queue, tls=None if proxy is None else proxy.tls)
        if server is not None:
            try:
                await server.start()
            except OSError as error:
                raise Misconfigured(f"the proxy cannot listen on {proxy_address(proxy)}: {error.strerror}") from error
        working = asyncio.create_task(agent.run(), name="agent")
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await agent.leave(drain_seconds)
            if server is not None:
                await server.stop()
            await agent.close()


def proxy_address(proxy: _Proxy | None) -> str:
    """Where it listens."""
    return "" if proxy is None else f"{proxy.host}:{proxy.port}"


def _key(name: str | None) -> NodeKey:
    text = os.environ.get(_KEY, "").strip()
    if not text:
        raise _wrong(
            f"{_KEY} is not set: `headrace nodes key {name or 'NODE'}` prints it where HEADRACE_KEY_PEPPER is set"
        )
    try:
        key = NodeKey.parse(text)
    except NodeKeyInvalid as error:
        raise _wrong(f"{_KEY}: {error}") from None
    if name is not None and name != key.node:
        raise _wrong(f"--name is {name}, and the key in {_KEY} is that of {key.node}: a key is good for its node only")
    return key


def _proxy(
    host: str,
    port: int | None,
    room: int,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    unprotected: bool,
    allow_pull: bool,
    body_limit_bytes: int,
    call_seconds: float,
) -> _Proxy | None:
    from headrace.node.serving_tls import ServingTls

    if port is None:
        return None
    token = os.environ.get("HEADRACE_NODE_TOKEN", "").strip() or None
    if (certificate is None) != (key is None) or (client_ca is not None and certificate is None):
        raise _wrong("--tls-cert and --tls-key belong together, and --client-ca needs both")
    if token is None and client_ca is None and not unprotected and not host.startswith(_LOOPBACK):
        raise _wrong(
            "the proxy would take calls from anybody who reaches it: set HEADRACE_NODE_TOKEN, give --client-ca, or say "
            "--unprotected"
        )
    try:
        tls = ServingTls(certificate, key, client_ca) if certificate is not None and key is not None else None
    except Misconfigured as error:
        raise _wrong(str(error)) from None
    return _Proxy(host, port, room, token, tls, allow_pull, body_limit_bytes, call_seconds)


def _pairs(option: str, entries: list[str]) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not name:
            raise _wrong(f"{option} {entry} must read name=value")
        pairs[name] = value
    return pairs


def _settings(entries: list[str]) -> dict[str, str]:
    pairs = _pairs("--set", entries)
    try:
        node_defaults(pairs)
    except ModelSettingInvalid as error:
        raise _wrong(f"--set: {error}") from None
    return pairs


def _usual_slots() -> int:
    stated = os.environ.get("OLLAMA_NUM_PARALLEL", "")
    return int(stated) if stated.isdecimal() and 0 < int(stated) <= 1024 else 1


def _wrong(message: str) -> typer.Exit:
    from headrace.cli.running import USAGE, fail

    return fail(message, USAGE)
