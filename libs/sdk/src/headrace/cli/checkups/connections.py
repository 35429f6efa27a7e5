"""Whether the schema registry, Postgres and intake answer, and accept what they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from headrace_contracts.codec import Codec
from headrace_contracts.errors import (
    RegistryAccessRefused,
    RegistryUnavailable,
    SchemaIdsLost,
    SchemaMissing,
)
from headrace_contracts.topics import TOPICS

from headrace.addresses import Addresses
from headrace.cli.checkups.findings import START, Finding, listed, unanswered, wrong
from headrace.client import Client
from headrace.connecting import registry_at
from headrace.errors import HeadraceError, Misconfigured, NotAllowed

REGISTRY: Final = "schema registry"
POSTGRES: Final = "postgres"
API_KEY: Final = "api key"
_SECONDS: Final = 5.0
_LOGIN: Final = "set how to log in: 'Login at the schema registry' in docs/operations.md"
_SSL_REQUEST: Final = bytes.fromhex("00000008 04d2162f")


async def check_registry(addresses: Addresses) -> list[Finding]:
    """Whether it answers, and has the schemas of this version under the ids that it gave them."""
    where = addresses.registry_url
    if not where:
        return [unanswered(REGISTRY, "its address is unknown", "set HEADRACE_REGISTRY_URL")]
    old: list[str] = []
    lost: list[str] = []
    try:
        connection = registry_at(addresses, timeout_seconds=_SECONDS)
    except Misconfigured as error:
        return [wrong(REGISTRY, str(error), _LOGIN)]
    async with connection as registry:
        codec = Codec(registry, addresses.topic_prefix)
        for spec in TOPICS.values():
            try:
                await codec.prepare([spec])
            except SchemaMissing:
                old.append(spec.name)
            except SchemaIdsLost as error:
                lost.append(str(error))
            except RegistryAccessRefused as error:
                return [wrong(REGISTRY, str(error), _LOGIN)]
            except RegistryUnavailable as error:
                return [unanswered(REGISTRY, str(error))]
    return judge_registry(where, old, lost)


def judge_registry(where: str, old: Sequence[str], lost: Sequence[str]) -> list[Finding]:
    """What the registry lacks.

    Args:
        old: Topics whose present schema it does not have.
        lost: What it says of ids that it once gave.
    """
    found = []
    if lost:
        found.append(wrong(REGISTRY, listed(lost, 2), "headrace schemas check, then headrace schemas repair"))
    if old:
        detail = f"{where} lacks this version of {len(old)} of {len(TOPICS)} schemas: {listed(old)}"
        remedy = "headrace schemas check: if the registry has lost them, repair; else provision this version"
        found.append(wrong(REGISTRY, detail, remedy))
    return found or [Finding(REGISTRY, True, f"{where}, {len(TOPICS)} schemas current")]


async def check_postgres(addresses: Addresses) -> list[Finding]:
    """Whether it answers in its protocol; needs no credentials."""
    url = addresses.stack.get("database_url")
    if not isinstance(url, str):
        return []  # only services use it; its address is unknown unless the stack is ours
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port}"
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                # It accepts connections even while it hangs, and answers this only when it does not.
                writer.write(_SSL_REQUEST)
                answer = await reader.read(1)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return [unanswered(POSTGRES, f"{where} does not answer ({str(error) or f'within {_SECONDS:.0f} s'})")]
    if answer not in (b"N", b"S"):
        return [wrong(POSTGRES, f"{where} does not answer as Postgres does", START)]
    return [Finding(POSTGRES, True, f"{where} answers")]


async def check_api_key(addresses: Addresses) -> list[Finding]:
    """Whether intake accepts the key."""
    if not addresses.url:
        return [unanswered(API_KEY, "intake's address is unknown", "set HEADRACE_URL")]
    if not addresses.api_key:
        return [wrong(API_KEY, "none is set", "set HEADRACE_API_KEY (headrace keys create makes one)")]
    async with Client(addresses=addresses, patience_seconds=0.0) as client:
        try:
            await client.list(limit=1)
        except NotAllowed as error:
            return [wrong(API_KEY, str(error), "make another: headrace keys create TENANT")]
        except HeadraceError as error:
            return [unanswered(API_KEY, f"cannot be checked: {error}")]
    return [Finding(API_KEY, True, f"accepted by {addresses.url}")]
