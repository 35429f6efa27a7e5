"""Ollama's API for putting models on a simulated server's disk, and taking them off: `/api/pull`, `/api/delete`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from aiohttp import web

from headrace_models.simulator.catalog import SimulatedModel, node_model
from headrace_models.simulator.exchange import json_object
from headrace_models.simulator.node_settings import GIBIBYTE
from headrace_models.simulator.ollama_node import SimulatedNode

_PARTS: Final = 8
"""Lines about each layer."""
NO_SUCH_MODEL: Final = "no-such-model"
"""Names that begin like this are in no registry."""


class OllamaPulls:
    """The routes, for these servers.

    Args:
        node_of: The server that a request is for; raises an HTTP error without one.
    """

    def __init__(self, node_of: Callable[[web.Request], SimulatedNode]) -> None:
        self._node_of = node_of

    def add_routes(self, app: web.Application, base: str) -> None:
        app.router.add_post(base + "/api/pull", self._pull)
        app.router.add_delete(base + "/api/delete", self._delete)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        node, document = self._node_of(request), await json_object(request)
        name = str(document.get("model") or document.get("name") or "")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        settings = node.settings
        rate = settings.pull_gb_per_second * GIBIBYTE
        free = settings.disk_gb * GIBIBYTE - sum(model.size_bytes for model in node.models.values())
        model = node_model(name)
        for line, received in _lines(name, model):
            if received and settings.disk_gb and received > free:
                await _say(response, {"error": "write /root/.ollama/models/blobs: no space left on device"})
                break
            await _say(response, line)
            if "error" in line:
                break
            if received and rate:
                await asyncio.sleep(model.size_bytes / _PARTS / rate)
        else:
            node.add(name)
            await _say(response, {"status": "success"})
        await response.write_eof()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        node, document = self._node_of(request), await json_object(request)
        name = str(document.get("model") or document.get("name") or "")
        if name not in node.models:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        node.settings.removed |= {name}
        return web.Response()


def _lines(name: str, model: SimulatedModel) -> Iterator[tuple[dict[str, Any], int]]:
    """What a server says, and the bytes that it has received by then."""
    yield {"status": "pulling manifest"}, 0
    if name.startswith(NO_SUCH_MODEL):
        yield {"error": "pull model manifest: file does not exist"}, 0
        return
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    for part in range(1, _PARTS + 1):
        received = model.size_bytes * part // _PARTS
        status = f"pulling {digest[7:19]}"
        yield {"status": status, "digest": digest, "total": model.size_bytes, "completed": received}, received
    yield {"status": "verifying sha256 digest"}, 0
    yield {"status": "writing manifest"}, 0


async def _say(response: web.StreamResponse, line: dict[str, Any]) -> None:
    await response.write(json.dumps(line).encode() + b"\n")
