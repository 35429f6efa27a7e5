"""Web search by a SearXNG of our own, or whatever speaks its JSON API, behind the same port as a model: the prompt is
the query, the answer a JSON list of results.

A SearXNG runs on our machine and asks search engines elsewhere, so that queries leave all the same. Only its operator
knows of one that asks nothing but engines within, and says so (`reach=inside` in the list of nodes): its model has
another name then, and no other one gets sensitive content.
"""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlencode

from pydantic import SecretStr

from headrace_models import capabilities
from headrace_models.call import Call, calling
from headrace_models.conversation import AnswerSchema
from headrace_models.embedding import makes_none
from headrace_models.errors import RetrySameProvider, TryAnotherProvider
from headrace_models.found_sources import findings, search_query
from headrace_models.local_servers import INSIDE, SEARXNG, WEB
from headrace_models.ports import (
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    OnPiece,
    OnText,
    ProviderStatus,
    no_pieces,
)
from headrace_models.upstream.http import UpstreamResponse, expect_ok, open_client, read_body
from headrace_models.upstream.probing import STATUS_TIMEOUT_SECONDS, Seen, probe
from headrace_models.upstream.values import Unreadable, document, items, mapping
from headrace_models.wire import SIMULATED_HEADER

_NO_JSON: Final = 403
"""What SearXNG answers where its settings list no `json` among `search.formats`."""


class SearXNG:
    """One SearXNG. The last user message is the query; the answer is JSON with title, url, text.

    Args:
        inside: Whether its operator says that no query leaves our network.
        token, certificates: As for `open_client`.
    """

    provider: Final = SEARXNG

    def __init__(
        self,
        node: str,
        base_url: str,
        *,
        inside: bool = False,
        token: SecretStr | None = None,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        self.node = node
        self._model = INSIDE if inside else WEB
        self._client = open_client(base_url, key=token, certificates=certificates)

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        call = Call(self.provider, request, on_text, on_piece)
        call.usage.billed_by_tokens = False
        query = search_query(message.text for message in reversed(request.messages) if message.role == "user")
        if not query:
            message = "a search needs a user message as its query"
            raise TryAnotherProvider("request_rejected", message, provider=self.provider)
        simulated = False
        async with calling(call):
            capabilities.expect(request, frozenset(), self.provider)
            path = "search?" + urlencode({"q": query, "format": "json"})
            async with self._client.stream("GET", path) as response:
                self._expect_json(response)
                await expect_ok(response)
                call.accepted = True
                call.usage.searches = 1
                simulated = SIMULATED_HEADER in response.headers
                found = mapping(document(await read_body(response)))
            if not isinstance(found.get("results"), list):
                raise Unreadable("there are no results in it")
            if not found["results"] and (silent := items(found.get("unresponsive_engines"))):
                message = f"none of the {len(silent)} search engines that {self.provider} asked has answered it"
                raise RetrySameProvider("overloaded", message, provider=self.provider, usage=call.spent())
            await call.hear(findings(found["results"], excerpt="content"))
            await call.finish("stop")
        return call.result(model=self._model, simulated=simulated, request_id="")

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        raise makes_none(self.provider)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return False

    async def status(self) -> ProviderStatus:
        return await probe(self.provider, self._look, otherwise="does not say how it is")

    async def _look(self) -> Seen:
        # Asks no search engine.
        async with self._client.stream("GET", "healthz", timeout=STATUS_TIMEOUT_SECONDS) as response:
            await expect_ok(response)
            await read_body(response)
            return Seen(
                (ModelInfo(self._model, loaded=True, capabilities=frozenset()),), SIMULATED_HEADER in response.headers
            )

    async def close(self) -> None:
        await self._client.aclose()

    def _expect_json(self, response: UpstreamResponse) -> None:
        if response.status_code == _NO_JSON:
            message = f"{self.provider} refuses to answer in JSON: list json in search.formats of its settings.yml"
            raise TryAnotherProvider("not_authorised", message, provider=self.provider, status=_NO_JSON)
