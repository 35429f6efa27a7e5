"""All services in one process, from the start to a stop that leaves nothing: what a laptop runs."""

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta

import aiohttp
import psutil
from headrace import Client, KafkaClient
from headrace.addresses import locate
from headrace_devstack.services import NAMES
from headrace_testing.loops import SHIPPED_LOOP
from headrace_testing.up import RunningStack, launch_up, open_folder, read_stack_file, stop_up, wait_until_up
from headrace_testing.waiting import eventually

MOST_BYTES = 800_000_000
"""Memory counted once where processes share it: `make bench-footprint` finds 640 MB after some work."""
OWN_METRICS = {
    "intake": "headrace_intake_",
    "router": "headrace_router_",
    "local-worker": "headrace_local_worker_",
    "cloud-worker": "headrace_cloud_worker_",
    "skill-broadcaster": "headrace_skills_",
    "cost-accountant": "headrace_costs_",
}


async def test_one_process_does_all_that_six_do_and_leaves_nothing() -> None:
    with open_folder("one") as folder:
        process = launch_up(
            folder, "--processes", "one", "--port-base", "0", "--simulate", HEADRACE_SIMULATOR_SPEED="instant"
        )
        try:
            stack = await asyncio.to_thread(wait_until_up, folder, process)
            children = psutil.Process(process.pid).children(recursive=True)
            assert read_stack_file(stack.data)["processes"] == "one"
            assert set(stack.pids) == {"kafka", "registry", "postgres"}
            assert not [one for one in children if "python" in one.name()]
            await _each_service_tells_of_itself(stack)
            await _tasks_costs_and_skills_work(stack)
            family = [psutil.Process(process.pid), *children]
            assert sum(_proportional_bytes(one) for one in family) < MOST_BYTES
            assert stack.event_loops() == {name: {SHIPPED_LOOP} for name in NAMES}
            for name in NAMES:
                assert set(re.findall(r'"service": "([^"]+)"', stack.log(name))) == {f"headrace-{name}"}
        finally:
            assert stop_up(process) == 0
        stopped = re.findall(r"■ (\S+) +stopped", stack.output)
        assert set(stopped) == {*NAMES, "simulator", "kafka", "registry", "postgres"}
        assert set(stopped[: len(NAMES)]) == set(NAMES), "services drain while all that they use is there"
        assert psutil.wait_procs(children, timeout=0)[1] == []
        assert not (stack.data / "stack.json").exists()
        assert "drain timed out" not in "".join(stack.log(name) for name in NAMES)


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return getattr(process.memory_full_info(), "pss", 0)
    except psutil.NoSuchProcess:
        # Postgres starts and ends some as it needs them.
        return 0


async def _each_service_tells_of_itself(stack: RunningStack) -> None:
    async with aiohttp.ClientSession() as session:
        for name, own in OWN_METRICS.items():
            async with session.get(f"{stack.ops_urls[name]}/readyz") as answer:
                assert (answer.status, (await answer.json())["service"]) == (200, f"headrace-{name}")
            async with session.get(f"{stack.ops_urls[name]}/metrics") as answer:
                page = await answer.text()
            assert {other: f"\n{prefix}" in page for other, prefix in OWN_METRICS.items()} == {
                other: prefix == own for other, prefix in OWN_METRICS.items()
            }


async def _tasks_costs_and_skills_work(stack: RunningStack) -> None:
    addresses = locate(environ={}, stack_file=stack.data / "stack.json")
    async with Client(addresses=addresses) as client:
        answered = await client.ask(f"Why? ({uuid.uuid4().hex})", privacy="public", mode="cloud", timeout=60)
        assert answered.answer
        assert answered.cost_nanodollars > 0
        async with KafkaClient(tenant=stack.tenant, addresses=addresses) as kafka:
            task = await kafka.submit(f"Say hello. ({uuid.uuid4().hex})", kind="over-kafka")
            assert (await task.completion(timeout=60)).status == "succeeded"
        published = await client.skills.publish("one-process", "Share what is cheap.", interests=["laptops"])
        assert published.version == 1

        async def found() -> bool:
            return [skill.name for skill in await client.skills.search("one-process")] == ["one-process"]

        await eventually(found)

        async def costed() -> bool:
            report = await client.costs(by="provider", since=datetime.now(UTC) - timedelta(hours=1))
            return report.total.executions == 2 and report.total.cost_nanodollars >= answered.cost_nanodollars

        await eventually(costed)
