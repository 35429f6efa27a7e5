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
from headrace_models.found_sources import findings
from headrace_models.local_servers import INSIDE, SEARXNG, WEB
from headrace_models.ports import (
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    OnPiece,
    OnText,
    ProviderStatus,
    no_pieces,
)
from headrace_models.search_calls import look, query_of, search
from headrace_models.upstream.http import UpstreamResponse, open_client
from headrace_models.upstream.probing import Seen, probe
from headrace_models.upstream.values import items

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
        query = query_of(request, self.provider)
        simulated = False
        async with calling(call):
            capabilities.expect(request, frozenset(), self.provider)
            path = "search?" + urlencode({"q": query, "format": "json"})
            found, simulated = await search(self._client, call, "GET", path, expect=self._expect_json)
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
        return await look(self._client, "healthz", self._model)

    async def close(self) -> None:
        await self._client.aclose()

    def _expect_json(self, response: UpstreamResponse) -> None:
        if response.status_code == _NO_JSON:
            message = f"{self.provider} refuses to answer in JSON: list json in search.formats of its settings.yml"
            raise TryAnotherProvider("not_authorised", message, provider=self.provider, status=_NO_JSON)
