"""Client of a schema registry with the Confluent API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from headrace_contracts.errors import (
    RegistryAccessRefused,
    RegistryUnavailable,
    SchemaIncompatible,
    SchemaMissing,
    UnusableSchema,
)
from headrace_contracts.references import full_name, inlined
from headrace_contracts.registry_access import ANONYMOUS, RegistryAccess
from headrace_contracts.schema_lookups import LARGEST_SCHEMA_ID
from headrace_contracts.schema_texts import parsed_json

_NOT_FOUND = 404
_REFUSED_SCHEMA = frozenset({409, 422})
_PAUSES_SECONDS = (0.1, 0.4)
_REFUSALS = frozenset({401, 403})
# Not about what was asked for: it may be answered later.
_PASSING = frozenset({407, 408, 425, 429})
_JSON = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
_MAX_REFERENCES = 64
_MAX_REFERENCE_DEPTH = 8
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_MAX_QUOTED = 300


class SchemaRegistry:
    """Registers and fetches Avro schemas. Use as an async context manager.

    Every method raises RegistryUnavailable when the registry cannot be reached or answers with a server error, and
    RegistryAccessRefused when it does not accept the login. Redirects are not followed: the login is for one address.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 10.0,
        access: RegistryAccess = ANONYMOUS,
    ) -> None:
        """`url` is the root of the Confluent API, for example http://127.0.0.1:8081/apis/ccompat/v7.

        Raises RegistryAccessInvalid if nobody could log in this way.
        """
        access.check(url)
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._access = access
        self._tls = access.tls()
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
        """Add a version unless it exists; returns its id. Raises SchemaIncompatible when the registry refuses it.

        Two that register at the same time, or beside an import, can get 500 or 409 from Apicurio although nothing is
        wrong. Asking again is harmless, so what is refused or fails is asked for three times.
        """
        path = f"/subjects/{quote(subject, safe='')}/versions"
        for pause in (*_PAUSES_SECONDS, None):
            status, answer = await self._call("POST", path, {"schema": schema})
            if pause is None or (status not in _REFUSED_SCHEMA and status < 500):
                break
            await asyncio.sleep(pause)
        if status in _REFUSED_SCHEMA:
            raise SchemaIncompatible(f"{subject}: {self._quoted(answer)}")
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
        if status >= 500 or status in _PASSING:
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
        status, raw = await self._exchange(method, path, body, root, headers)
        return status, _json_or_none(raw)

    async def _call(self, method: str, path: str, body: Any = None, *, believing: bool = True) -> tuple[int, Any]:
        """Status and JSON of an answer. Without `believing`, None stands for what is not JSON."""
        status, raw = await self._exchange(method, path, body)
        if status in _REFUSALS:
            raise RegistryAccessRefused(f"schema registry at {self.url}: {status}: {self._access.remedy(status)}")
        answer = _json_or_none(raw)
        if answer is None and believing:
            raise RegistryUnavailable(f"schema registry at {self.url}: answered {status} without JSON")
        return status, answer

    async def _exchange(
        self, method: str, path: str, body: Any = None, root: str | None = None, headers: Mapping[str, str] = _JSON
    ) -> tuple[int, bytes]:
        """Status and body of an answer. Raises RegistryUnavailable, also for a redirect."""
        if self._session is None:
            # What unpacks to gigabytes is not unpacked.
            self._session = aiohttp.ClientSession(timeout=self._timeout, auto_decompress=False)
        data = json.dumps(body) if body is not None and not isinstance(body, bytes) else body
        sent = {"Accept-Encoding": "identity", **(headers if data is not None else {}), **self._access.headers()}
        try:
            async with self._session.request(
                method, (root or self.url) + path, data=data, headers=sent, ssl=self._tls, allow_redirects=False
            ) as response:
                raw = await self._read(response)
                status, location = response.status, response.headers.get("Location", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryUnavailable(
                f"schema registry at {self.url}: {type(error).__name__}: {error}{self._remedy(error)}"
            ) from error
        if 300 <= status < 400:
            raise RegistryUnavailable(
                f"schema registry at {self.url}: redirects ({status}) to {self._quoted(location.partition('?')[0])!r}, "
                "which is not followed: correct HEADRACE_REGISTRY_URL"
            )
        return status, raw

    def _remedy(self, error: Exception) -> str:
        if not self.url.startswith("https:"):
            return ""
        disconnected = isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        return self._access.tls_remedy(
            error, disconnected=disconnected and not isinstance(error, aiohttp.ClientConnectorError)
        )

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, of limited size."""
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > _MAX_ANSWER_BYTES:
                response.close()
                raise aiohttp.ClientPayloadError(f"more than {_MAX_ANSWER_BYTES} bytes")
            parts.append(part)
        return b"".join(parts)

    def _quoted(self, answer: Any) -> str:
        """What the registry says, for a message of ours."""
        said = answer.get("message", answer) if isinstance(answer, dict) else answer
        return self._access.conceal(str(said))[:_MAX_QUOTED]

    def _id_in(self, answer: Any, subject: str) -> int:
        schema_id = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(schema_id, int) or not 0 <= schema_id <= LARGEST_SCHEMA_ID:
            raise RegistryUnavailable(f"schema registry at {self.url}: gave {subject} no id that can be used")
        return schema_id

    def _expect_ok(self, status: int, answer: Any, what: str) -> None:
        if status >= 300:
            raise RegistryUnavailable(
                f"schema registry at {self.url}: could not {what}: {status} {self._quoted(answer)}"
            )


def _json_or_none(raw: bytes) -> Any:
    """What a body holds; {} for an empty one."""
    try:
        return json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        return None


def _place(reference: Any) -> tuple[str, int]:
    """Subject and version of a reference. Raises UnusableSchema."""
    if isinstance(reference, dict):
        subject, version = reference.get("subject"), reference.get("version")
        if isinstance(subject, str) and subject and isinstance(version, int) and not isinstance(version, bool):
            return subject, version
    raise UnusableSchema("one of its references names no subject and version")
