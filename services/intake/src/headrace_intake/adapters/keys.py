"""/v1/keys."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from aiohttp import web
from headrace_contracts.events import AccessKey
from headrace_contracts.ids import new_id
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.topics import ACCESS_KEYS
from headrace_runtime.access import KEY_RANDOM_BYTES, Scope, hash_secret, make_key
from headrace_runtime.access import parse_key as parse_api_key
from headrace_runtime.authentication import require
from headrace_runtime.http import read_model
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem
from headrace_streams.publishing import Publication
from pydantic import SecretStr

from headrace_intake.adapters.confirmations import Confirmations, TableView
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.writing import Writer, traceparent
from headrace_intake.decide.keys import KeyRequest, bootstrap_key, document, new_key

_log = get_logger("headrace.intake.keys")


class KeyRecords:
    """Writes keys and waits until this process's table has them."""

    def __init__(
        self,
        table: TableView[AccessKey],
        confirmations: Confirmations[AccessKey],
        writer: Writer,
        pepper: SecretStr,
        clock: Callable[[], int],
    ) -> None:
        self.table = table
        self.pepper = pepper.get_secret_value()
        self.clock = clock
        self._confirmations = confirmations
        self._writer = writer

    async def write(self, key: AccessKey) -> None:
        """Returns when Kafka has the key and, normally, this process's table too.

        Raises NotWritten, WriteUncertain, NeverWritable.
        """
        publication = Publication(
            spec=ACCESS_KEYS,
            event=key,
            event_id=new_id(),
            key=key.key_id.encode(),
            tenant=key.tenant,
            time_ms=self.clock(),
            subject=key.key_id,
            traceparent=traceparent(),
        )
        with self._confirmations.expecting(key.key_id, key) as expected:
            await self._writer.write(publication)
            await expected.seen()

    async def bootstrap(self, secret_key: SecretStr | None, tenant: str) -> None:
        """Store the key from the settings if it is missing. Raises as `write`."""
        key = parse_api_key(secret_key.get_secret_value()) if secret_key is not None else None
        if key is None:
            return
        stored = self.table.get(key.key_id)
        record = bootstrap_key(
            stored,
            key_id=key.key_id,
            secret_hash=hash_secret(self.pepper, key.secret),
            tenant=tenant,
            now_ms=self.clock(),
        )
        if record is None:
            return
        if stored is not None:
            _log.warning("the bootstrap key was hashed with another pepper: other keys may not be recognised")
        await self.write(record)
        _log.info("stored the bootstrap key", key_id=key.key_id, tenant=record.tenant)


class KeysApi:
    """Handlers of the keys API."""

    def __init__(self, records: KeyRecords, keys_per_tenant: int) -> None:
        self._records = records
        self._keys_per_tenant = keys_per_tenant

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/keys", self.create),
            web.get("/v1/keys", self.list),
            web.delete("/v1/keys/{id}", self.revoke),
        ]

    async def create(self, request: web.Request) -> web.Response:
        require(request, Scope.ADMIN)
        wanted = await read_model(request, KeyRequest)
        live = [key for key in self._records.table.items().values() if key.revoked_at is None]
        if sum(key.tenant == wanted.tenant for key in live) >= self._keys_per_tenant:
            raise Problem(
                403,
                "quota-exceeded",
                f"The tenant has {self._keys_per_tenant} keys, as many as it may have: revoke some.",
                extra={"keys": self._keys_per_tenant},
            )
        made = make_key(secrets.token_bytes(KEY_RANDOM_BYTES))
        record = new_key(
            wanted,
            key_id=made.key_id,
            secret_hash=hash_secret(self._records.pepper, made.secret),
            now_ms=self._records.clock(),
        )
        await self._records.write(record)
        headers = {"Location": f"/v1/keys/{made.key_id}", "Cache-Control": "no-store"}
        shown_once = {"key": str(made), "signing_key": str(SigningKey.of(self._records.pepper, made.key_id))}
        return web.json_response({**document(record), **shown_once}, status=201, headers=headers, dumps=dumps)

    async def list(self, request: web.Request) -> web.Response:
        require(request, Scope.ADMIN)
        tenant = request.query.get("tenant")
        keys = [key for key in self._records.table.items().values() if tenant in (None, key.tenant)]
        keys.sort(key=lambda key: (key.tenant, key.created_at, key.key_id))
        return web.json_response({"keys": [document(key) for key in keys]}, dumps=dumps)

    async def revoke(self, request: web.Request) -> web.Response:
        require(request, Scope.ADMIN)
        key = self._records.table.get(request.match_info["id"])
        if key is None:
            raise Problem(404, "key-not-found", "There is no key with this id; GET /v1/keys lists them.")
        if key.revoked_at is None:
            await self._records.write(replace(key, revoked_at=self._records.clock()))
        return web.Response(status=204)
