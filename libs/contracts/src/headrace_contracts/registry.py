"""Client of a schema registry with the Confluent API."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from headrace_contracts.errors import RegistryUnavailable, SchemaIncompatible, SchemaMissing, UnusableSchema
from headrace_contracts.references import full_name, inlined
from headrace_contracts.schema_lookups import LARGEST_SCHEMA_ID
from headrace_contracts.writer_schemas import parsed_json

_NOT_FOUND = 404
_CONFLICT = 409
_UNPROCESSABLE = 422
# Not about what was asked for: it may be answered later, or with other access rights.
_PASSING = frozenset({401, 403, 407, 408, 425, 429})
_JSON = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
_MAX_REFERENCES = 64
_MAX_REFERENCE_DEPTH = 8


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
            message = answer.get("message", answer) if isinstance(answer, dict) else answer
            raise SchemaIncompatible(f"{subject}: {message}")
        self._expect_ok(status, answer, f"register {subject}")
        return self._id_in(answer, subject)

    async def id_of(self, subject: str, schema: str) -> int:
        """Id of a schema under a subject. Raises SchemaMissing when it has not been registered."""
        status, answer = await self._call("POST", f"/subjects/{quote(subject, safe='')}", {"schema": schema})
        if status == _NOT_FOUND:
            raise SchemaMissing(
                f"the registry at {self.url} does not have this version of {subject}: "
                "provision topics and schemas first"
            )
        self._expect_ok(status, answer, f"look up {subject}")
        return self._id_in(answer, subject)

    async def schema(self, schema_id: int) -> str | None:
        """The Avro schema with this id, complete with the types it refers to; None if the registry does not know it.

        Raises UnusableSchema for everything else that the registry may hold or answer.
        """
        answer = await self._stored(f"/schemas/ids/{schema_id}")
        if answer is None:
            return None
        text = answer["schema"]
        if not answer.get("references"):
            return str(text)
        definitions: dict[str, Any] = {}
        await self._define(answer["references"], definitions, set(), 1)
        try:
            return json.dumps(inlined(parsed_json(text), definitions))
        except RecursionError as error:
            raise UnusableSchema("its references are nested too deep") from error

    async def _define(
        self, references: Any, definitions: dict[str, Any], fetched: set[tuple[str, int]], depth: int
    ) -> None:
        """Add the named types that these references lead to."""
        if depth > _MAX_REFERENCE_DEPTH:
            raise UnusableSchema(f"its references are more than {_MAX_REFERENCE_DEPTH} levels deep")
        if not isinstance(references, list):
            raise UnusableSchema("its references are not a list")
        for reference in references:
            where = _place(reference)
            if where in fetched:
                continue
            fetched.add(where)
            if len(fetched) > _MAX_REFERENCES:
                raise UnusableSchema(f"it has more than {_MAX_REFERENCES} references")
            subject, version = where
            answer = await self._stored(f"/subjects/{quote(subject, safe='')}/versions/{version}")
            if answer is None:
                raise UnusableSchema(f"it refers to version {version} of {subject}, which does not exist")
            definition = parsed_json(answer["schema"])
            if not isinstance(definition, dict):
                raise UnusableSchema(f"it refers to {subject}, which defines no type")
            definitions[full_name(definition, "")] = definition
            await self._define(answer.get("references") or [], definitions, fetched, depth + 1)

    async def _stored(self, path: str) -> dict[str, Any] | None:
        """The registry's answer about a schema, which certainly has the text of an Avro one; None if there is none."""
        status, answer = await self._call("GET", path, believing=False)
        if status == _NOT_FOUND:
            return None
        if status >= 500 or status in _PASSING or 300 <= status < 400:
            self._expect_ok(status, answer, f"fetch {path}")
        if status >= 400:
            raise UnusableSchema(f"the registry answers {status}")
        if not isinstance(answer, dict) or not isinstance(answer.get("schema"), str):
            raise UnusableSchema("the registry's answer contains no schema")
        kind = answer.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise UnusableSchema(f"a schema of type {str(kind)[:32]!r}, not Avro")
        return answer

    async def is_compatible(self, subject: str, schema: str) -> bool:
        """Whether a schema could become the next version of an existing subject."""
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        status, answer = await self._call("POST", path, {"schema": schema})
        self._expect_ok(status, answer, f"check {subject}")
        if not isinstance(answer, dict) or not isinstance(answer.get("is_compatible"), bool):
            raise RegistryUnavailable(f"schema registry at {self.url}: does not say whether {subject} is compatible")
        return bool(answer["is_compatible"])

    async def subjects(self) -> list[str]:
        """All subjects."""
        status, answer = await self._call("GET", "/subjects")
        self._expect_ok(status, answer, "list subjects")
        if not isinstance(answer, list) or not all(isinstance(subject, str) for subject in answer):
            raise RegistryUnavailable(f"schema registry at {self.url}: answered no list of subjects")
        return answer

    async def versions(self, subject: str) -> list[int]:
        """Numbers of a subject's versions; empty if there is no such subject."""
        status, answer = await self._call("GET", f"/subjects/{quote(subject, safe='')}/versions")
        if status == _NOT_FOUND:
            return []
        self._expect_ok(status, answer, f"list versions of {subject}")
        return [number for number in answer if isinstance(number, int)] if isinstance(answer, list) else []

    async def call(
        self, method: str, path: str, body: Any = None, *, root: str | None = None, headers: Mapping[str, str] = _JSON
    ) -> tuple[int, Any]:
        """Status and JSON of an answer, None if it is none, for what only some registries offer.

        `body` is bytes, or becomes JSON. `root` replaces the root of the Confluent API.
        """
        return await self._call(method, path, body, believing=False, root=root, headers=headers)

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        believing: bool = True,
        root: str | None = None,
        headers: Mapping[str, str] = _JSON,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer. Without `believing`, None stands for what is not JSON."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, auth=self._auth)
        data = json.dumps(body) if body is not None and not isinstance(body, bytes) else body
        try:
            async with self._session.request(
                method,
                (root or self.url) + path,
                data=data,
                headers=headers if data is not None else None,
                ssl=self._tls,
            ) as response:
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryUnavailable(f"schema registry at {self.url}: {type(error).__name__}: {error}") from error
        try:
            return status, json.loads(raw) if raw else {}
        except (ValueError, RecursionError) as error:
            if not believing:
                return status, None
            raise RegistryUnavailable(f"schema registry at {self.url}: answered {status} without JSON") from error

    def _id_in(self, answer: Any, subject: str) -> int:
        schema_id = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(schema_id, int) or not 0 <= schema_id <= LARGEST_SCHEMA_ID:
            raise RegistryUnavailable(f"schema registry at {self.url}: gave {subject} no id that can be used")
        return schema_id

    def _expect_ok(self, status: int, answer: Any, what: str) -> None:
        if status >= 300:
            raise RegistryUnavailable(f"schema registry at {self.url}: could not {what}: {status} {answer}")


def _place(reference: Any) -> tuple[str, int]:
    """Subject and version of a reference. Raises UnusableSchema."""
    if isinstance(reference, dict):
        subject, version = reference.get("subject"), reference.get("version")
        if isinstance(subject, str) and subject and isinstance(version, int) and not isinstance(version, bool):
            return subject, version
    raise UnusableSchema("one of its references names no subject and version")
