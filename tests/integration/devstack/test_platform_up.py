"""The whole platform as `headrace up` runs it: healthy, frugal, and back on its feet after a crash."""

import asyncio
import os
import re
import signal
import stat
import time
from collections.abc import Callable

import pytest
from aiohttp import ClientSession
from headrace_devstack.processes import resident_bytes
from headrace_devstack.services import NAMES
from headrace_models.simulator.catalog import REMOTE
from headrace_testing.private_files import open_to_others
from headrace_testing.up import RunningStack, read_stack_file

MOST_BYTES = 1_800_000_000


def wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.1)


@pytest.mark.parametrize("service", NAMES)
async def test_every_service_is_ready_and_measured(platform: RunningStack, service: str) -> None:
    async with ClientSession() as session:
        for path in ("healthz", "readyz", "metrics"):
            async with session.get(f"{platform.ops_urls[service]}/{path}") as response:
                assert response.status == 200, path


async def test_the_first_key_opens_the_door_and_no_key_does_not(platform: RunningStack) -> None:
    url = f"{platform.intake_url}/v1/models"
    async with ClientSession() as session:
        async with session.get(url) as refused:
            assert refused.status == 401
        async with session.get(url, headers={"Authorization": f"Bearer {platform.api_key}"}) as response:
            assert response.status == 200


async def test_models_that_nodes_list_and_do_not_run_are_never_offered_and_get_nothing(platform: RunningStack) -> None:
    key = {"Authorization": f"Bearer {platform.api_key}"}
    async with ClientSession(headers=key) as session:
        for path in ("workstation", "remote-1"):
            async with session.get(f"{platform.simulator_url}/ollama/{path}/api/tags") as response:
                listed = {entry["name"] for entry in (await response.json())["models"]}
            assert listed & REMOTE.keys(), "one is planted, so that this test can fail"
        offered: set[str] = set()
        while not any(name.startswith("ollama/") for name in offered):
            async with session.get(f"{platform.intake_url}/v1/models") as response:
                offered = {entry["id"] for entry in (await response.json())["data"]}
            await asyncio.sleep(0.1)
        assert offered & {f"ollama/{name}" for name in REMOTE} == set()
        async with session.get(f"{platform.simulator_url}/control/received?provider=ollama.com") as response:
            assert (await response.json())["count"] == 0


def test_addresses_are_private_and_lead_to_the_key_without_holding_it(platform: RunningStack) -> None:
    file = platform.data / "stack.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(platform.api_key_file.stat().st_mode) == 0o600
    assert platform.api_key not in file.read_text()
    assert set(read_stack_file(platform.data)["pids"]) == {"kafka", "registry", "postgres", "simulator", *NAMES}


def test_nobody_else_reads_the_data(platform: RunningStack) -> None:
    assert open_to_others(platform.data) == []


def test_the_first_start_prints_the_key_a_first_command_and_what_is_simulated(platform: RunningStack) -> None:
    wait_for(lambda: "Ctrl-C stops everything" in platform.output)
    said = platform.output
    assert platform.api_key in said
    assert f"curl {platform.intake_url}/v1/chat/completions" in said
    assert "headrace submit" in said
    assert "simulated: ollama, searxng, groq, anthropic, tavily" in said


def test_it_fits_into_memory(platform: RunningStack) -> None:
    assert 0 < resident_bytes(platform.process.pid) < MOST_BYTES


@pytest.mark.parametrize("service", ["router", "cost-accountant"])
def test_a_crashed_service_is_started_again_and_said_so(platform: RunningStack, service: str) -> None:
    # The file is written anew a moment after each word about a part.
    wait_for(lambda: service in platform.pids)
    before = platform.pid(service)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: re.search(rf"✓ {service} +again", platform.output) is not None)
    assert re.search(rf"! {service} +was ended by signal 9; restarting it in 0\.1 s", platform.output)
    wait_for(lambda: platform.pids.get(service, before) != before)
