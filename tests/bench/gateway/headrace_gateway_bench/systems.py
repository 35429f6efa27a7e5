"""The systems that are compared, from their start to their stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from headrace_clients.environments import CannotInstall
from headrace_testing.own_postgres import own_postgres
from headrace_testing.up import RunningStack, open_folder, running_up

from headrace_gateway_bench.litellm import (
    MASTER_KEY,
    CannotRun,
    LiteLLM,
    config,
    installed,
    prepare_database,
    proxy_running,
)
from headrace_gateway_bench.processes import Parts
from headrace_gateway_bench.upstream import MODEL

HEADRACE: Final = "headrace"
LITELLM: Final = "litellm"
LITELLM_SPEND: Final = "litellm-spend"
CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running system.

    Attributes:
        settings: With which settings it runs.
    """

    name: str
    host: str
    port: int
    headers: Mapping[str, str]
    model: str
    parts: Parts
    settings: str


@asynccontextmanager
async def headrace(upstream: str, processors: int) -> AsyncIterator[Gateway]:
    """The whole embedded stack; its cloud worker calls the upstream, and no model is simulated.

    Args:
        upstream: Its origin, `http://127.0.0.1:port`.
        processors: Not used: a stack has one process of each part.
    """
    variables = upstream_variables(upstream)
    with open_folder("bench-gateway") as folder, running_up(folder, "--port-base", "0", **variables) as stack:
        yield headrace_gateway(
            stack,
            Parts({**stack.pids, "supervisor": stack.process.pid}),
            "`headrace up`: one process of each service, Kafka, registry and Postgres, every setting at its default "
            "(logs in JSON at level info, 32 concurrent calls to a provider, traces not exported)",
        )


def upstream_variables(upstream: str) -> dict[str, str]:
    """The environment in which the cloud worker calls the upstream, and nothing else runs models."""
    return {
        "GROQ_API_KEY": "none",
        "HEADRACE_GROQ_URL": f"{upstream}/v1",
        # A node without models: without any, `headrace up` would simulate some.
        "HEADRACE_OLLAMA_NODES": upstream,
    }


def headrace_gateway(stack: RunningStack, parts: Parts, settings: str) -> Gateway:
    """A running stack, asked with its first API key. Raises CannotRun when it simulates models."""
    if stack.simulated:
        raise CannotRun(f"models are simulated: {', '.join(stack.simulated)}")
    address = urlsplit(stack.intake_url)
    return Gateway(
        HEADRACE,
        address.hostname or "",
        address.port or 0,
        {"Authorization": f"Bearer {stack.api_key}", "X-Headrace-Privacy": "public"},
        f"groq/{MODEL}",
        parts,
        settings,
    )


@asynccontextmanager
async def litellm(upstream: str, processors: int) -> AsyncIterator[Gateway]:
    """The proxy without a database. Raises CannotRun, ProxyEnded."""
    peer = _installed()
    with open_folder("bench-litellm") as folder:
        async with proxy_running(peer, config(upstream, database=False), processors, folder) as (port, pid):
            settings = f"LiteLLM {peer.version}, {processors} uvicorn workers on uvloop, {_RECOMMENDED}, no database"
            yield _proxy(LITELLM, port, Parts({"proxy": pid}), settings)


@asynccontextmanager
async def litellm_spend(upstream: str, processors: int) -> AsyncIterator[Gateway]:
    """The proxy with its spend logs in a Postgres with fsync on. Raises CannotRun, ProxyEnded."""
    peer = _installed()
    with open_folder("bench-litellm") as folder:
        async with own_postgres() as postgres:
            await prepare_database(peer, postgres.url, upstream, folder)
            settled = config(upstream, database=True)
            running = proxy_running(peer, settled, processors, folder, database_url=postgres.url)
            async with running as (port, pid):
                settings = (
                    f"LiteLLM {peer.version}, {processors} uvicorn workers on uvloop, {_RECOMMENDED}, spend logs on a "
                    "Postgres like Headrace's, `proxy_batch_write_at: 60`, `DISABLE_SCHEMA_UPDATE`, "
                    "`disable_error_logs`, 10 connections for each worker"
                )
                parts = Parts({"proxy": pid, "postgres": postgres.pid}, {"query-engine": "query engine"})
                yield _proxy(LITELLM_SPEND, port, parts, settings)


Start = Callable[[str, int], AbstractAsyncContextManager[Gateway]]
SYSTEMS: Final[Mapping[str, Start]] = {HEADRACE: headrace, LITELLM: litellm, LITELLM_SPEND: litellm_spend}
"""By name: what starts it, given the upstream's origin and the number of processors."""

_RECOMMENDED: Final = "`LITELLM_MODE=PRODUCTION`, `LITELLM_LOG=ERROR`, `json_logs`, `request_timeout: 600`"


def _installed() -> LiteLLM:
    try:
        return installed()
    except CannotInstall as error:
        raise CannotRun(f"LiteLLM cannot be installed: {error}") from error


def _proxy(name: str, port: int, parts: Parts, settings: str) -> Gateway:
    return Gateway(name, "127.0.0.1", port, {"Authorization": f"Bearer {MASTER_KEY}"}, MODEL, parts, settings)
