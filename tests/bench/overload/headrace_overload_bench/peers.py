"""LiteLLM's proxy before the same node, with what it has against overload."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from headrace_clients.environments import CannotInstall
from headrace_gateway_bench.litellm import MASTER_KEY, CannotRun, installed, proxy_running
from headrace_gateway_bench.processes import Parts
from headrace_testing.up import open_folder

from headrace_overload_bench.platform import MODEL, LoadedNode, LoadedSystem

LITELLM: Final = "litellm"
_USABLE: Final = 0.7
"""Share of a request's time that it may wait, as in Headrace's intake."""


def litellm_config(node: LoadedNode, processes: int, deadline_seconds: float) -> Mapping[str, Any]:
    """The proxy's configuration: no more requests at a time than the node answers in time, the rest gets 429 at once.

    Without that limit all requests wait in the node's own queue, and almost all are answered too late. Retries would
    ask the node once more for what it could not do in time.
    """
    at_once = max(math.floor(_USABLE * node.capacity * deadline_seconds / processes), 1)
    model = {"model": f"ollama_chat/{MODEL}", "api_base": node.url, "max_parallel_requests": at_once}
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "litellm_settings": {
            "request_timeout": deadline_seconds, "num_retries": 0, "set_verbose": False, "json_logs": True,
        },
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }  # fmt: skip


@asynccontextmanager
async def loaded_proxy(node: LoadedNode, tenants: int, deadline_seconds: float) -> AsyncIterator[LoadedSystem]:
    """The proxy from ready to stopped. Raises CannotRun, ProxyEnded."""
    try:
        peer = installed()
    except CannotInstall as error:
        raise CannotRun(f"LiteLLM cannot be installed: {error}") from error
    processes = os.cpu_count() or 1
    config = litellm_config(node, processes, deadline_seconds)
    at_once = config["model_list"][0]["litellm_params"]["max_parallel_requests"]
    with open_folder("bench-litellm") as folder:
        async with proxy_running(peer, config, processes, folder) as (port, pid):
            yield LoadedSystem(
                LITELLM,
                "127.0.0.1",
                port,
                MODEL,
                "timeout",
                # Keys of tenants need its database, which cannot be made here; nothing it has shares a model fairly.
                [{"Authorization": f"Bearer {MASTER_KEY}"}] * tenants,
                lambda: Parts({"proxy": pid}),
                f"LiteLLM {peer.version}, {processes} uvicorn workers on uvloop, `LITELLM_MODE=PRODUCTION`, "
                f"`max_parallel_requests: {at_once}` of the model in each ({_USABLE:.0%} of what the node does in "
                "a request's time), `num_retries: 0`, `disable_cooldowns`, the time that is left as `timeout`, no "
                "database",
            )
