"""Client of a schema registry with the Confluent API."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from headrace_contracts.errors import RegistryUnavailable, SchemaIncompatible, SchemaMissing

_NOT_FOUND = 404
_CONFLICT = 409
_UNPROCESSABLE = 422


class SchemaRegistry:
    """Registers and fetches Avro schemas. Use as an async context manager.

    Every method raises RegistryUnavailable when the registry cannot be reached or answers with a server error.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 10.0,
        basic_auth: tuple[str, str] | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """`url` is the root of the Confluent API, for example http://127.0.0.1:8081/apis/ccompat/v7.

        `ca_file` contains the CA certificates to trust instead of the public ones. Raises OSError if it cannot be read.
        """
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._auth = aiohttp.BasicAuth(*basic_auth) if basic_auth else None
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file is not None else True
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def register(self, subject: str, schema: str) -> int:
        """Add a version unless it exists; returns its id. Raises SchemaIncompatible when the registry refuses it."""
        status, answer = await self._call("POST", f"/subjects/{quote(subject, safe='')}/versions", {"schema": schema})
        if status in (_CONFLICT, _UNPROCESSABLE):
            raise SchemaIncompatible(f"{subject}: {answer.get('message', answer)}")
        self._expect_ok(status, answer, f"register {subject}")
        return int(answer["id"])

    async def id_of(self, subject: str, schema: str) -> int:
        """Id of a schema under a subject. Raises SchemaMissing when it has not been registered."""
        status, answer = await self._call("POST", f"/subjects/{quote(subject, safe='')}", {"schema": schema})
        if status == _NOT_FOUND:
            raise SchemaMissing(
                f"the registry at {self.url} does not have this version of {subject}: "
                "provision topics and schemas first"
            )
        self._expect_ok(status, answer, f"look up {subject}")
        return int(answer["id"])

    async def schema(self, schema_id: int) -> str | None:
        """The schema with this id, or None if the registry does not know it."""
        status, answer = await self._call("GET", f"/schemas/ids/{schema_id}")
        if status == _NOT_FOUND:
            return None
        self._expect_ok(status, answer, f"fetch schema {schema_id}")
        return str(answer["schema"])

    async def is_compatible(self, subject: str, schema: str) -> bool:
        """Whether a schema could become the next version of an existing subject."""
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        status, answer = await self._call("POST", path, {"schema": schema})
        self._expect_ok(status, answer, f"check {subject}")
        return bool(answer["is_compatible"])

    async def subjects(self) -> list[str]:
        """All subjects."""
        status, answer = await self._call("GET", "/subjects")
        self._expect_ok(status, answer, "list subjects")
        return list(answer)

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, auth=self._auth)
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"} if body is not None else None
        data = json.dumps(body) if body is not None else None
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=headers, ssl=self._tls
            ) as response:
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryUnavailable(f"schema registry at {self.url}: {type(error).__name__}: {error}") from error
        try:
            return status, json.loads(raw) if raw else {}
        except json.JSONDecodeError as error:
            raise RegistryUnavailable(f"schema registry at {self.url}: answered {status} without JSON") from error

    def _expect_ok(self, status: int, answer: Any, what: str) -> None:
        if status >= 300:
            raise RegistryUnavailable(f"schema registry at {self.url}: could not {what}: {status} {answer}")
