"""The site of a local worker: its name, its topics, and what it says when they are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from headrace_contracts.events import Place
from headrace_contracts.groups import local_worker_of
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.fleet import FleetOptions, node_status
from headrace_runtime.connections import Connections
from headrace_runtime.health import Health
from headrace_runtime.provision import ProvisionSettings
from headrace_streams.ports import Admin, Log
from headrace_testing.workers import ScriptedProvider
from pydantic import ValidationError


def test_a_worker_has_no_site_unless_it_is_given_one() -> None:
    assert LocalWorkerSettings().site == ""
    assert LocalWorkerSettings(site="gpu-1").site == "gpu-1"


@pytest.mark.parametrize("name", ["Berlin", "a.b", "batch", "x" * 41])
def test_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="site"):
        LocalWorkerSettings(site=name)
    with pytest.raises(ValidationError, match="site"):
        ProvisionSettings(sites=(name,))


def test_reports_of_nodes_say_the_site() -> None:
    options = FleetOptions(worker="w", where=Place.LOCAL, site="gpu-1", look_seconds=3.0)
    assert node_status(Endpoint(ScriptedProvider(), 1), options, objection=None, now=0.0, reported_at=0).site == "gpu-1"


class _Present:
    """A cluster with these topics."""

    def __init__(self, *topics: str) -> None:
        self._topics = topics

    def admin(self) -> Admin:
        return cast(Admin, self)

    async def partition_counts(self, topics: Any) -> Mapping[str, int]:
        return {name: 1 for name in topics if name in self._topics}


async def test_a_worker_whose_site_has_no_topics_waits_and_says_what_mends_it() -> None:
    health = Health()
    connections = Connections(LocalWorkerSettings(site="berlin"), health, reads=local_worker_of("berlin").topics)
    connections.log = cast(Log, _Present())
    part = connections.part
    assert part.start is not None
    assert part.stop is not None
    starting = asyncio.ensure_future(part.start())
    try:
        async with asyncio.timeout(5):
            while "HEADRACE_SITES" not in str(health.ready().reasons):  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.01)
        said = str(health.ready().reasons)
        assert "name berlin in HEADRACE_SITES" in said
        assert "headrace.work.local.berlin.batch" in said
        assert not starting.done()
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await part.stop()
