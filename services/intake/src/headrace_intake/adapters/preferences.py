"""/v1/preferences."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from headrace_contracts.events import Preferences
from headrace_contracts.ids import new_id
from headrace_contracts.topics import PREFERENCES
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import read_model
from headrace_streams.publishing import Publication

from headrace_intake.adapters.confirmations import Confirmations, TableView
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.writing import Writer, traceparent
from headrace_intake.decide.preferences import PreferencesIn, document, effective, key_of, parse_user, record


class PreferencesApi:
    """Handlers of the preferences API."""

    def __init__(
        self,
        table: TableView[Preferences],
        confirmations: Confirmations[Preferences],
        writer: Writer,
        clock: Callable[[], int],
    ) -> None:
        self._table = table
        self._confirmations = confirmations
        self._writer = writer
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/preferences", self.show), web.put("/v1/preferences", self.replace)]

    async def show(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        user = parse_user(request.query.get("user"))
        found, source = effective(
            caller.tenant,
            user,
            of_user=self._table.get(key_of(caller.tenant, user)),
            of_tenant=self._table.get(key_of(caller.tenant, "")),
        )
        return web.json_response(document(found, user, source), dumps=dumps)

    async def replace(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        user = parse_user(request.query.get("user"))
        requested = await read_model(request, PreferencesIn)
        now = self._clock()
        wanted = record(requested, tenant=caller.tenant, user=user, key_id=caller.key_id, now_ms=now)
        key = key_of(caller.tenant, user)
        publication = Publication(
            spec=PREFERENCES,
            event=wanted,
            event_id=new_id(),
            key=key.encode(),
            tenant=caller.tenant,
            time_ms=now,
            subject=key,
            traceparent=traceparent(),
        )
        with self._confirmations.expecting(key, wanted) as expected:
            await self._writer.write(publication)
            await expected.seen()
        return web.json_response(document(wanted, user, "user" if user else "tenant"), dumps=dumps)
