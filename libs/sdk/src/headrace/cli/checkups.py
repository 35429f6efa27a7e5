"""The checks of `headrace doctor`: each part separately, all concurrently, none longer than a few seconds.

Other packages add theirs by entry points of the group `headrace.checkups`, each a `Checkup`.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from headrace.addresses import Addresses
from headrace.client import Client
from headrace.errors import HeadraceError, NotAllowed

CHECKUPS: Final = "headrace.checkups"
_SECONDS: Final = 5.0
_CLOCK_SECONDS: Final = 2.0
_ROOM_BYTES: Final = 1_000_000_000
_START: Final = "start the stack with `headrace up` (or `make up`), or set the variable that names it"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one part.

    `unreachable`: no answer. `warning`: it works, and something about it needs attention; `remedy` says what.
    """

    part: str
    ok: bool
    detail: str
    remedy: str = ""
    unreachable: bool = False
    warning: bool = False


Checkup = Callable[[Addresses], Awaitable[Sequence[Finding]]]
"""Checks some parts; ends within 10 seconds, or counts as without an answer."""


def installed_checkups() -> list[EntryPoint]:
    """The checks of other packages."""
    return sorted(entry_points(group=CHECKUPS), key=lambda plugin: plugin.name)


async def examine(addresses: Addresses, plugins: Sequence[EntryPoint] = ()) -> list[Finding]:
    """Run all checks, those of `plugins` included; results are in order of importance to the user."""
    findings = [_python(), _source(addresses)]
    checks: list[Awaitable[list[Finding]]] = [
        _guarded("kafka", lambda: _kafka(addresses)),
        _guarded("schema registry", lambda: _registry(addresses)),
        _guarded("postgres", lambda: _postgres(addresses)),
        *(
            _guarded(service, lambda service=service, url=url: _service(service, url))  # type: ignore[misc]
            for service, url in _ops_urls(addresses).items()
        ),
        _guarded("api key", lambda: _api_key(addresses)),
        _guarded("clock", lambda: _clock(addresses)),
        *(_guarded_all(plugin.name, lambda check=plugin.load(): check(addresses)) for plugin in plugins),  # type: ignore[misc]
    ]
    for found in await asyncio.gather(*checks):
        findings += found
    return [*findings, _disk(addresses)]


async def _guarded(part: str, check: Callable[[], Awaitable[Finding | None]]) -> list[Finding]:
    async def findings() -> list[Finding]:
        found = await check()
        return [] if found is None else [found]

    return await _guarded_all(part, findings)


async def _guarded_all(part: str, check: Callable[[], Awaitable[Sequence[Finding]]]) -> list[Finding]:
    try:
        async with asyncio.timeout(_SECONDS * 2):
            return list(await check())
    except TimeoutError:
        return [Finding(part, False, f"no answer within {_SECONDS * 2:.0f} s", _START, unreachable=True)]
    except HeadraceError as error:
        return [Finding(part, False, str(error), _START)]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    names = ("headrace", "headrace-devstack")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, f"{found}; {versions}", "install Python 3.11 or newer")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _source(addresses: Addresses) -> Finding:
    if addresses.stack_file is not None:
        simulated = addresses.stack.get("simulated") or []
        note = f"; simulated providers: {', '.join(map(str, simulated))}" if simulated else ""
        return Finding("addresses", True, f"from {addresses.stack_file}{note}")
    named = [name for name in ("url", "bootstrap_servers") if getattr(addresses, name)]
    if named:
        return Finding("addresses", True, "from environment variables")
    remedy = "run `headrace up` in this folder or one above, or set HEADRACE_URL and HEADRACE_API_KEY"
    return Finding("addresses", False, "no running stack was found, and no variable is set", remedy)


async def _kafka(addresses: Addresses) -> Finding:
    if not addresses.bootstrap_servers:
        return Finding("kafka", False, "its address is unknown", "set HEADRACE_BOOTSTRAP_SERVERS", unreachable=True)
    from headrace_contracts.topics import TOPICS
    from headrace_streams.errors import StreamsError
    from headrace_streams.kafka import KafkaLog

    where = addresses.bootstrap_servers
    log = KafkaLog({**addresses.kafka_properties, "bootstrap.servers": where})
    names = {addresses.topic_prefix + name: spec for name, spec in TOPICS.items()}
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SECONDS):
            counts = await log.admin().partition_counts(list(names))
    except (StreamsError, TimeoutError) as error:
        detail = f"{where} does not answer ({type(error).__name__})"
        return Finding("kafka", False, detail, _START, unreachable=True)
    took = (time.monotonic() - began) * 1000
    missing = sorted(names.keys() - counts.keys())
    if missing:
        detail = f"{where}: {len(missing)} of {len(names)} topics are missing, such as {missing[0]}"
        return Finding("kafka", False, detail, "start the services, or `headrace up`: they create missing topics")
    return Finding("kafka", True, f"{where}, {len(counts)} topics, {took:.0f} ms")


async def _registry(addresses: Addresses) -> Finding:
    if not addresses.registry_url:
        return Finding(
            "schema registry", False, "its address is unknown", "set HEADRACE_REGISTRY_URL", unreachable=True
        )
    from headrace_contracts.codec import Codec
    from headrace_contracts.errors import RegistryUnavailable, SchemaIdsLost, SchemaMissing
    from headrace_contracts.registry import SchemaRegistry
    from headrace_contracts.topics import TOPICS

    where = addresses.registry_url
    async with SchemaRegistry(where, timeout_seconds=_SECONDS) as registry:
        codec = Codec(registry, addresses.topic_prefix)
        old: list[str] = []
        for spec in TOPICS.values():
            try:
                await codec.prepare([spec])
            except SchemaMissing:
                old.append(spec.name)
            except SchemaIdsLost as error:
                return Finding("schema registry", False, str(error), "headrace schemas check, then repair")
            except RegistryUnavailable as error:
                return Finding("schema registry", False, str(error), _START, unreachable=True)
    if old:
        detail = f"{where} lacks this version of {len(old)} of {len(TOPICS)} schemas: {', '.join(old)}"
        remedy = "headrace schemas check: if the registry has lost them, repair; else provision this version"
        return Finding("schema registry", False, detail, remedy)
    return Finding("schema registry", True, f"{where}, {len(TOPICS)} schemas current")


async def _postgres(addresses: Addresses) -> Finding | None:
    url = addresses.stack.get("database_url")
    if not isinstance(url, str):
        return None  # only services use it; its address is unknown unless the stack is ours
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port}"
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError) as error:
        return Finding("postgres", False, f"{where} does not answer ({error})", _START, unreachable=True)
    writer.close()
    return Finding("postgres", True, f"{where} takes connections")


def _ops_urls(addresses: Addresses) -> Mapping[str, str]:
    urls = addresses.stack.get("ops_urls")
    return {str(name): str(url) for name, url in urls.items()} if isinstance(urls, Mapping) else {}


async def _service(name: str, url: str) -> Finding:
    remedy = f"its log says why: {name}.log beside stack.json in logs/"
    try:
        status, document, _ = await _get(f"{url}/readyz")
    except (aiohttp.ClientError, TimeoutError) as error:
        return Finding(name, False, f"{url} does not answer ({type(error).__name__})", _START, unreachable=True)
    if not isinstance(document, Mapping):
        return Finding(name, False, f"{url} answered {status}, which is not a response of a Headrace service", _START)
    checks = document.get("checks")
    bad = [f"{check}: {said}" for check, said in checks.items() if said != "ok"] if isinstance(checks, Mapping) else []
    if status != 200:
        return Finding(name, False, f"not ready: {'; '.join(bad) or document.get('status')}", remedy)
    found = str(document.get("version", "?"))
    ours = _version("headrace")
    if found != ours:
        remedy = "restart the services, or install the client of their version"
        return Finding(name, False, f"is version {found}, this client {ours}", remedy)
    return Finding(name, True, f"ready, version {found}, up {_duration(document.get('uptime_seconds'))}")


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


async def _api_key(addresses: Addresses) -> Finding:
    if not addresses.url:
        return Finding("api key", False, "intake's address is unknown", "set HEADRACE_URL", unreachable=True)
    if not addresses.api_key:
        return Finding("api key", False, "none is set", "set HEADRACE_API_KEY (headrace keys create makes one)")
    async with Client(addresses=addresses, patience_seconds=0.0) as client:
        try:
            await client.list(limit=1)
        except NotAllowed as error:
            return Finding("api key", False, str(error), "make another: headrace keys create TENANT")
        except HeadraceError as error:
            return Finding("api key", False, f"cannot be checked: {error}", _START, unreachable=True)
    return Finding("api key", True, f"accepted by {addresses.url}")


async def _clock(addresses: Addresses) -> Finding | None:
    url = next(iter(_ops_urls(addresses).values()), None) or addresses.url
    if not url:
        return None
    try:
        _, _, date = await _get(f"{url.rstrip('/')}/healthz")
    except (aiohttp.ClientError, TimeoutError):
        return None  # its own check reports that it does not answer
    if date is None:
        return None
    # The header has a resolution of whole seconds.
    off = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() - 0.5
    if abs(off) > _CLOCK_SECONDS:
        remedy = "set both clocks by NTP: deadlines and the order of events depend on them"
        return Finding("clock", False, f"differs from the services' by {off:.0f} s", remedy)
    return Finding("clock", True, f"agrees with the services' within {_CLOCK_SECONDS:.0f} s")


async def _get(url: str) -> tuple[int, Any, str | None]:
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        try:
            document = await response.json(content_type=None)
        except ValueError:
            document = None
        return response.status, document, response.headers.get("Date")


def _disk(addresses: Addresses) -> Finding:
    data = addresses.stack.get("data")
    folder = Path(data) if isinstance(data, str) and Path(data).is_dir() else Path.cwd()
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free at {folder}"
    return Finding("disk", free >= _ROOM_BYTES, detail, "free at least 1 GB: Kafka stops when its disk is full")
