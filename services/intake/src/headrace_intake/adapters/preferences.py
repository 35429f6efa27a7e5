"""/v1/preferences."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

from aiohttp import web
from headrace_contracts import floors
from headrace_contracts.events import Preferences
from headrace_contracts.floors import Demands, Party
from headrace_contracts.ids import new_id
from headrace_contracts.topics import PREFERENCES
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import CALLER, require
from headrace_runtime.http import read_model
from headrace_runtime.problems import Problem
from headrace_streams.publishing import Publication

from headrace_intake.adapters.confirmations import Confirmations, TableView
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.writing import Writer, traceparent
from headrace_intake.decide.options import HEADER_PREFIX
from headrace_intake.decide.preferences import (
    PreferencesIn,
    change_refused,
    document,
    effective,
    expect_same_user,
    key_of,
    parse_user,
    party_of,
    record,
)
from headrace_intake.decide.refusals import Refusal


def demands(table: TableView[Preferences], tenant: str, user: str) -> Mapping[Party, Demands]:
    """What a tenant and one of its users demand."""
    return {
        Party.TENANT: floors.demands_of_tenant(table.get(key_of(tenant, ""))),
        Party.USER: floors.demands_of_user(table.get(key_of(tenant, user)) if user else None),
    }


class PreferencesApi:
    """Handlers of the preferences API."""

    def __init__(
        self,
        table: TableView[Preferences],
        confirmations: Confirmations[Preferences],
        writer: Writer,
        clock: Callable[[], int],
        users_per_tenant: int,
    ) -> None:
        self._users_per_tenant = users_per_tenant
        self._table = table
        self._confirmations = confirmations
        self._writer = writer
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Written here, and perhaps not in the table yet.
        self._written: dict[str, Preferences] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/preferences", self.show),
            web.put("/v1/preferences", self.replace),
            web.delete("/v1/preferences", self.remove),
        ]

    async def show(self, request: web.Request) -> web.Response:
        caller = _caller(request)
        user = parse_user(request.query.getall("user", []))
        return self._shown(caller.tenant, user, self._table.get(key_of(caller.tenant, user)))

    async def replace(self, request: web.Request) -> web.Response:
        caller = _caller(request)
        user = parse_user(request.query.getall("user", []))
        requested = await read_model(request, PreferencesIn)
        expect_same_user(user, requested.user, request.headers.getall(f"{HEADER_PREFIX}User", []))
        key = key_of(caller.tenant, user)
        # One change after another: what is compared must be what is replaced.
        async with self._locks.setdefault(key, asyncio.Lock()):
            wanted = record(requested, tenant=caller.tenant, user=user, key_id=caller.key_id, now_ms=self._clock())
            for before in (self._table.get(key), self._written.get(key)):
                refusal = change_refused(party_of(caller), before, wanted)
                if refusal is not None:
                    raise refusal
            self._expect_room(caller.tenant, key)
            refusal = await self._write_over(key, wanted, party_of(caller))
            if refusal is not None:
                raise refusal
        return self._shown(caller.tenant, user, wanted)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a record, so that nothing is demanded by it: what its record asked for is lowered to nothing."""
        caller = _caller(request)
        user = parse_user(request.query.getall("user", []))
        key = key_of(caller.tenant, user)
        async with self._locks.setdefault(key, asyncio.Lock()):
            nothing = record(
                PreferencesIn(), tenant=caller.tenant, user=user, key_id=caller.key_id, now_ms=self._clock()
            )
            for before in (self._table.get(key), self._written.get(key)):
                refusal = change_refused(party_of(caller), before, nothing)
                if refusal is not None:
                    raise refusal
            with self._confirmations.expecting(key, None) as expected:
                await self._writer.remove(PREFERENCES, key)
                self._written.pop(key, None)
                await expected.seen()
        return web.Response(status=204)

    def _expect_room(self, tenant: str, key: str) -> None:
        if self._table.get(key) is not None:
            return
        prefix = key_of(tenant, "")
        held = sum(each.startswith(prefix) for each in self._table.items())
        if held >= self._users_per_tenant:
            raise Problem(
                403,
                "quota-exceeded",
                f"This tenant has preferences of {held} users, and may have {self._users_per_tenant}: remove some.",
                extra={"preferences": held},
            )

    async def _write_over(self, key: str, wanted: Preferences, by: Party) -> Refusal | None:
        """Write a record. If another intake's change came in between, and must not be replaced by it, undo that and
        return why."""
        refused: Refusal | None = None
        while True:
            replaced = await self._write(key, wanted)
            refusal = None if replaced is None else change_refused(by, replaced, wanted)
            if replaced is None or refusal is None:
                return refused
            refused, wanted = refused or refusal, replaced

    async def _write(self, key: str, wanted: Preferences) -> Preferences | None:
        """Write a record; returns the one that it replaces, if that is newer than the table's before."""
        publication = Publication(
            spec=PREFERENCES,
            event=wanted,
            event_id=new_id(),
            key=key.encode(),
            tenant=wanted.tenant,
            time_ms=self._clock(),
            subject=key,
            traceparent=traceparent(),
        )
        with self._confirmations.expecting(key, wanted) as expected:
            await self._writer.write(publication)
            self._written[key] = wanted
            if await expected.seen():
                del self._written[key]
            return expected.overtaken_by

    def _shown(self, tenant: str, user: str, own: Preferences | None) -> web.Response:
        of_tenant = self._table.get(key_of(tenant, "")) if user else own
        found, source = effective(tenant, user, of_user=own, of_tenant=of_tenant)
        return web.json_response(document(found, user, source), dumps=dumps)


def _caller(request: web.Request) -> Caller:
    """The caller, if its key has a scope for preferences. Raises Problem 403 otherwise."""
    return require(request, Scope.PREFERENCES if request[CALLER].may(Scope.PREFERENCES) else Scope.TASKS)
