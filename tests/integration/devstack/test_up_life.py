"""The life of an embedded stack: killed parts come back, data and ports survive stops and kills, offline suffices."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiohttp import ClientSession
from headrace_devstack.parts.probes import kafka_answers
from headrace_testing.up import (
    RunningStack,
    launch_up,
    open_folder,
    read_stack_file,
    running_up,
    stop_up,
    wait_until_up,
)

SCHEMA = json.dumps({"type": "record", "name": "Kept", "fields": [{"name": "a", "type": "string", "default": ""}]})
NOWHERE = "http://127.0.0.1:9/maven2"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder("life") as path:
        yield path


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.1)


async def write(stack: RunningStack) -> None:
    async with ClientSession() as session:
        url = f"{stack.registry_url}/subjects/kept-value/versions"
        async with session.post(url, json={"schema": SCHEMA}) as response:
            assert response.status == 200
    connection = await asyncpg.connect(stack.database_url)
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    await connection.close()


async def assert_kept(stack: RunningStack) -> None:
    async with ClientSession() as session, session.get(f"{stack.registry_url}/subjects") as response:
        assert await response.json() == ["kept-value"]
    connection = await asyncpg.connect(stack.database_url)
    assert await connection.fetchval("SELECT answer FROM kept") == 42
    await connection.close()
    host, port = stack.bootstrap_servers.split(":")
    await kafka_answers(host, int(port))


async def test_data_and_ports_survive_a_stop_a_killed_part_and_a_killed_supervisor(folder: Path) -> None:
    with running_up(folder, "--backing-only", "--port-base", "0") as stack:
        await write(stack)
        first = stack

    offline = {
        "HEADRACE_MAVEN_REPOSITORY": NOWHERE, "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "ALL_PROXY": NOWHERE,
    }  # fmt: skip
    process = launch_up(folder, "--backing-only", **offline)
    stack = wait_until_up(folder, process)
    try:
        assert (stack.bootstrap_servers, stack.registry_url) == (first.bootstrap_servers, first.registry_url)
        await assert_kept(stack)

        killed = {part: stack.pid(part) for part in ("kafka", "registry", "postgres")}
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: stack.output.count("; restarting it ") >= 3 and stack.output.count(" again ") >= 3)
        assert "was ended by signal 9; restarting it in 0.1 s" in stack.output
        await assert_kept(stack)

        assert all(stack.pid(part) != pid for part, pid in killed.items())
        left = [psutil.Process(pid) for pid in read_stack_file(stack.data)["pids"].values()]
    finally:
        process.kill()
        process.wait()

    # A stack file without a stack and parts that are still on their way out must not hinder the next one.
    assert (folder / "data/stack.json").exists()
    process = launch_up(folder, "--backing-only")
    try:
        stack = wait_until_up(folder, process)
        assert psutil.wait_procs(left, timeout=0)[1] == []
        await assert_kept(stack)
    finally:
        assert stop_up(process) == 0
    assert not (folder / "data/stack.json").exists()


def test_a_stop_during_the_start_leaves_no_process(folder: Path) -> None:
    process = launch_up(folder, "--backing-only", "--port-base", "0")
    supervisor = psutil.Process(process.pid)
    wait_for(lambda: len(supervisor.children()) >= 2)
    children = supervisor.children()
    assert stop_up(process) == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []
