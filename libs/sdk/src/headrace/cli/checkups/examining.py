"""Runs the checks of `headrace doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from headrace.addresses import Addresses
from headrace.cli.checkups.clocks import check_clocks
from headrace.cli.checkups.cluster import check_cluster
from headrace.cli.checkups.connections import check_api_key, check_postgres, check_registry
from headrace.cli.checkups.findings import Finding
from headrace.cli.checkups.guarding import guarded
from headrace.cli.checkups.host import check_disk, check_python, check_source
from headrace.cli.checkups.services import check_service, ops_urls

CHECKUPS: Final = "headrace.checkups"
_CLUSTER_SECONDS: Final = 30.0


def installed_checkups() -> list[EntryPoint]:
    """The checks of other packages."""
    return sorted(entry_points(group=CHECKUPS), key=lambda plugin: plugin.name)


async def examine(addresses: Addresses, plugins: Sequence[EntryPoint] = ()) -> list[Finding]:
    """Run all checks, those of `plugins` included; results are in order of importance to the user."""
    checks: list[Awaitable[list[Finding]]] = [
        guarded("kafka", partial(check_cluster, addresses), seconds=_CLUSTER_SECONDS),
        guarded("schema registry", partial(check_registry, addresses)),
        guarded("postgres", partial(check_postgres, addresses)),
        *(guarded(name, partial(check_service, name, url)) for name, url in ops_urls(addresses).items()),
        guarded("api key", partial(check_api_key, addresses)),
        guarded("clock", partial(check_clocks, addresses)),
        *(guarded(plugin.name, partial(plugin.load(), addresses)) for plugin in plugins),
    ]
    found = await asyncio.gather(*checks)
    return [
        check_python(),
        check_source(addresses),
        *(finding for findings in found for finding in findings),
        check_disk(addresses),
    ]
