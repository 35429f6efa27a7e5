"""Whether this host's clock, those of the services and the registry, and the times of records agree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from headrace_contracts.topics import topic_named
from headrace_streams.ports import Admin
from headrace_streams.records import TopicDescription, TopicPartition, partitions_of

from headrace.addresses import Addresses
from headrace.cli.checkups.findings import Finding, listed, warning, wrong
from headrace.cli.checkups.services import get, ops_urls

PART: Final = "clock"
AGREE_SECONDS: Final = 2.0
_FUTURE_SECONDS: Final = 5.0
_NTP: Final = "set all clocks by NTP: deadlines, retention and the order of events depend on them"


async def check_clocks(addresses: Addresses) -> list[Finding]:
    """Ask the services, the registry and intake for the time. Those that do not answer are findings of other checks."""
    urls = {name: f"{url}/healthz" for name, url in ops_urls(addresses).items()}
    if addresses.registry_url:
        urls["schema registry"] = f"{addresses.registry_url.rstrip('/')}/subjects?limit=1"
    if "intake" not in urls and addresses.url:
        urls["intake"] = f"{addresses.url.rstrip('/')}/healthz"
    found = dict(zip(urls, await asyncio.gather(*map(_off, urls.values())), strict=True))
    return judge_clocks({name: seconds for name, seconds in found.items() if seconds is not None})


async def _off(url: str) -> float | None:
    """Seconds by which this host's clock is ahead; None if there is no way to know."""
    try:
        header = (await get(url)).date
        # The header has a resolution of whole seconds.
        return None if header is None else (datetime.now(UTC) - parsedate_to_datetime(header)).total_seconds() - 0.5
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def judge_clocks(ahead: Mapping[str, float]) -> list[Finding]:
    """Compare this host's clock with those of others. Nothing if nobody said anything.

    Args:
        ahead: Seconds by which this host's clock is ahead of theirs; below 0 if it is behind.
    """
    if not ahead:
        return []
    apart = {name: seconds for name, seconds in ahead.items() if abs(seconds) > AGREE_SECONDS}
    if not apart:
        return [Finding(PART, True, f"agrees with {len(ahead)} others within {AGREE_SECONDS:.0f} s")]
    differ = (f"{abs(by):,.0f} s {'ahead of' if by > 0 else 'behind'} that of {name}" for name, by in apart.items())
    return [wrong(PART, f"this host's is {listed(differ)}", _NTP)]


def judge_times(now_ms: int, newest: Mapping[str, int]) -> list[Finding]:
    """Records that are dated in the future, by topic."""
    ahead = {topic: (time_ms - now_ms) / 1000 for topic, time_ms in newest.items()}
    ahead = {topic: seconds for topic, seconds in ahead.items() if seconds > _FUTURE_SECONDS}
    if not ahead:
        return []
    places = listed(
        f"{topic} by {seconds:,.0f} s (written by {', '.join(topic_named(topic).writers)})"
        for topic, seconds in ahead.items()
    )
    detail = f"records are dated in the future: {places}: the clock of a writer was ahead, or this host's is behind"
    return [warning("record times", detail, _NTP)]


async def check_times(
    admin: Admin, described: Mapping[str, TopicDescription], leaderless: Collection[TopicPartition], prefix: str
) -> list[Finding]:
    """Look for records of services that are dated in the future. Raises what the admin raises."""
    partitions = [
        name
        for name in partitions_of(described)
        # Others may date their records as they like.
        if "anyone" not in topic_named(name.topic.removeprefix(prefix)).writers and name not in leaderless
    ]
    found = await admin.newest_timestamps(partitions) if partitions else {}
    newest: dict[str, int] = {}
    for name, time_ms in found.items():
        topic = name.topic.removeprefix(prefix)
        newest[topic] = max(time_ms, newest.get(topic, 0))
    return judge_times(time.time_ns() // 1_000_000, newest)
