"""Whether the services are ready and well, by what their ops servers say; and the router's partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import aiohttp

from headrace.addresses import Addresses
from headrace.cli.checkups.findings import START, Finding, unanswered, warning, wrong

_SECONDS: Final = 5.0
_UNWELL_SECONDS: Final = 10.0
_ROUTER: Final = "router"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer to a GET.

    Attributes:
        document: From JSON; None for anything else.
        date: The header of that name.
    """

    status: int
    document: Any
    date: str | None


async def get(url: str) -> HttpAnswer:
    """Raises aiohttp.ClientError, TimeoutError."""
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        try:
            document = await response.json(content_type=None)
        except ValueError:
            document = None
        return HttpAnswer(response.status, document, response.headers.get("Date"))


def ops_urls(addresses: Addresses) -> Mapping[str, str]:
    """Ops servers of the services, as far as they are known."""
    urls = addresses.stack.get("ops_urls")
    return {str(name): str(url) for name, url in urls.items()} if isinstance(urls, Mapping) else {}


async def check_service(name: str, url: str) -> list[Finding]:
    """What is wrong with one service, or that it is well."""
    try:
        ready = await get(f"{url}/readyz")
        partitions = await get(f"{url}/partitions") if name.startswith(_ROUTER) else None
    except (aiohttp.ClientError, TimeoutError) as error:
        remedy = f"restart it, or the stack (`headrace up`); its log says more: {name}.log beside stack.json in logs/"
        return [unanswered(name, f"{url} does not answer ({type(error).__name__})", remedy)]
    found = judge_partitions(name, partitions.document) if partitions is not None else []
    return judge_service(name, url, ready, found)


def judge_service(name: str, url: str, ready: HttpAnswer, partitions: list[Finding]) -> list[Finding]:
    """What /readyz says.

    Args:
        partitions: What is wrong with partitions of it, which its own words need not repeat.
    """
    document = ready.document
    if not isinstance(document, Mapping) or ready.status not in (200, 503):
        return [wrong(name, f"{url} answered {ready.status}, which is not a response of a Headrace service", START)]
    bad = _reasons(document.get("checks"), ignored="ok")
    if partitions and any(not finding.ok for finding in partitions):
        bad.pop(_ROUTER, None)
    log = f"its log says more: {name}.log beside stack.json in logs/"
    found = list(partitions)
    if bad or (ready.status != 200 and not partitions):
        said = "; ".join(f"{check}: {words}" for check, words in bad.items())
        found.append(wrong(name, f"not ready: {said or document.get('status')}", log))
    if degraded := _reasons(document.get("degraded")):
        said = "; ".join(f"{part}: {words}" for part, words in degraded.items())
        found.append(wrong(name, f"ready, but {said}", log))
    running, ours = str(document.get("version", "?")), installed("headrace")
    if running != ours:
        remedy = "restart the services, or install the client of their version"
        found.append(wrong(name, f"is version {running}, this client {ours}", remedy))
    return found or [Finding(name, True, f"ready, version {running}, up {_duration(document.get('uptime_seconds'))}")]


def judge_partitions(name: str, document: Any) -> list[Finding]:
    """Partitions of a router (its page /partitions) that it does not route, or whose input waits."""
    listed = document.get("partitions") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        return []  # of another version; /readyz speaks for it
    found = []
    for each in listed:
        if not isinstance(each, Mapping) or not each.get("reason"):
            continue
        unwell = each.get("unwell_for_seconds")
        seconds = unwell if isinstance(unwell, int | float) else 0.0
        number, phase, reason = each.get("partition"), each.get("phase"), each.get("reason")
        part = f"{name} partition {number}"
        detail = f"{phase} for {_duration(seconds)}: {reason}"
        remedy = f"remove the cause: it tries again by itself, and needs no restart; its log says more ({name}.log)"
        if "journal" in str(reason):
            remedy = f"headrace journal verify {number}; {remedy}"
        # Each passes through a few seconds of this when it changes hands.
        found.append((wrong if seconds > _UNWELL_SECONDS else warning)(part, detail, remedy))
    incomplete = document.get("incomplete")
    if isinstance(incomplete, Mapping):
        for number, missing in incomplete.items():
            detail = f"waits for {', '.join(map(str, missing))} to be assigned to the same router"
            remedy = "headrace topics list: topics of the group tasks must have equal numbers of partitions"
            found.append(warning(f"{name} partition {number}", detail, remedy))
    return found


def _reasons(said: Any, ignored: str | None = None) -> dict[str, str]:
    if not isinstance(said, Mapping):
        return {}
    return {str(name): str(words) for name, words in said.items() if words is not None and words != ignored}


def installed(package: str) -> str:
    """The version of a package, in words."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
