"""What the clients of all search engines do alike: they look like models, ask once, and answer with what is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace_models.call import Call
from headrace_models.errors import TryAnotherProvider
from headrace_models.found_sources import search_query
from headrace_models.ports import ChatRequest, ModelInfo
from headrace_models.upstream.http import UpstreamClient, UpstreamResponse, expect_ok, read_body
from headrace_models.upstream.probing import STATUS_TIMEOUT_SECONDS, Seen
from headrace_models.upstream.values import Unreadable, document, mapping
from headrace_models.wire import SIMULATED_HEADER


def query_of(request: ChatRequest, provider: str) -> str:
    """The last user message that says anything, as a query. Raises TryAnotherProvider if there is none."""
    query = search_query(message.text for message in reversed(request.messages) if message.role == "user")
    if not query:
        message = "a search needs a user message as its query"
        raise TryAnotherProvider("request_rejected", message, provider=provider)
    return query


async def search(
    client: UpstreamClient,
    call: Call,
    method: str,
    path: str,
    *,
    json: object = None,
    expect: Callable[[UpstreamResponse], None] = lambda _response: None,
) -> tuple[Mapping[str, Any], bool]:
    """The document with the `results` of one search, and whether a simulator has made it; within `calling`.

    Args:
        expect: Raises what a response of this engine means that is an error.
    """
    async with client.stream(method, path, json=json) as response:
        expect(response)
        await expect_ok(response)
        call.accepted = True
        call.usage.searches = 1
        simulated = SIMULATED_HEADER in response.headers
        found = mapping(document(await read_body(response)))
    if not isinstance(found.get("results"), list):
        raise Unreadable("there are no results in it")
    return found, simulated


async def look(client: UpstreamClient, path: str, model: str) -> Seen:
    """What an engine shows of itself at a path that costs no search: that it is there, with its one model."""
    async with client.stream("GET", path, timeout=STATUS_TIMEOUT_SECONDS) as response:
        await expect_ok(response)
        await read_body(response)
        return Seen((ModelInfo(model, loaded=True, capabilities=frozenset()),), SIMULATED_HEADER in response.headers)
