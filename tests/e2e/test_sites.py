"""Local workers with different nodes, each a site of its own: every task runs where its model is."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from headrace import Client
from headrace_devstack.supervisor import Supervisor
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_testing.more_instances import another_instance
from headrace_testing.shared_up import SITES
from headrace_testing.up import RunningStack

MODELS = {site: f"{site}-only:1b" for site in SITES}
TASKS = 60


@pytest.fixture
async def sites(platform: RunningStack, tmp_path: Path) -> AsyncIterator[None]:
    """A worker for each site, whose one node has one model that no other node has."""
    nodes = {f"{site}-node": (model,) for site, model in MODELS.items()}
    simulator = Simulator(SimulatorConfig(port=0, speed=Speed.parse("instant"), nodes=nodes))
    await simulator.start()
    workers = [
        another_instance(
            tmp_path,
            platform,
            "local-worker",
            number,
            {"HEADRACE_SITE": site, "HEADRACE_OLLAMA_NODES": f"{simulator.url}/ollama/{site}-node"},
        )
        for number, site in enumerate(SITES, 2)
    ]
    supervisor = Supervisor(workers, lambda _event: None)
    try:
        await supervisor.start()
        yield
    finally:
        await supervisor.stop()
        await simulator.stop()


async def test_all_tasks_are_answered_at_the_site_that_has_their_model(client: Client, sites: None) -> None:
    async def ask(number: int, site: str) -> tuple[str, str | None, bool, int]:
        task = await client.ask(
            f"Say {uuid.uuid4().hex}.", model=MODELS[site], privacy="sensitive", timeout=60,
            session=f"{site} {number % 7}" if number % 2 else None, priority=("interactive", "batch")[number % 3 == 0],
        )  # fmt: skip
        at_site = any(step.step == "dispatched" and step.reason.endswith(f"site {site}") for step in task.trail)
        return task.status, task.node, at_site, task.attempts

    found = Counter(await asyncio.gather(*(ask(number, SITES[number % 2]) for number in range(TASKS))))
    assert found == {("succeeded", f"{site}-node", True, 1): TASKS // 2 for site in SITES}
