"""What operators see: metrics that the dashboard asks for, health, and logs that hold no content."""

import json
import re
import uuid
from pathlib import Path

import aiohttp
from headrace import Client
from headrace_testing.loops import SHIPPED_LOOP
from headrace_testing.up import RunningStack

DASHBOARD = Path(__file__).parents[2] / "k8s" / "dashboards" / "headrace.json"


async def test_every_metric_of_the_dashboard_is_served(platform: RunningStack, client: Client) -> None:
    await client.ask(f"One for the metrics. ({uuid.uuid4().hex})", privacy="sensitive", timeout=30)
    wanted = set(re.findall(r"headrace_[a-z_]+", DASHBOARD.read_text()))
    wanted = {name.removesuffix("_bucket") for name in wanted}
    served: set[str] = set()
    async with aiohttp.ClientSession() as session:
        for url in platform.ops_urls.values():
            async with session.get(f"{url}/metrics") as response:
                families = re.findall(r"^# TYPE (\S+) ", await response.text(), re.MULTILINE)
                served |= {name.removesuffix("_total") for name in families}
    assert {name.removesuffix("_total") for name in wanted} - served == set()


async def test_services_are_ready_and_say_why(platform: RunningStack) -> None:
    async with aiohttp.ClientSession() as session:
        for name, url in platform.ops_urls.items():
            for path in ("/healthz", "/readyz"):
                async with session.get(url + path) as response:
                    assert response.status == 200, (name, path, await response.text())


async def test_logs_hold_task_ids_and_no_content(platform: RunningStack, client: Client) -> None:
    marker = f"do-not-log-{uuid.uuid4().hex}"
    task = await client.ask(f"Repeat this: {marker}", privacy="sensitive", role="code_reviewer", timeout=30)
    assert task.answer
    logs = {path.stem: path.read_text(errors="replace") for path in (platform.data / "logs").glob("*.log")}
    assert set(platform.ops_urls) <= set(logs)
    for name, text in logs.items():
        assert marker not in text, name
        assert platform.api_key.rsplit("_", 1)[1] not in text, name
    for line in logs["intake"].splitlines():
        json.loads(line)


async def test_every_service_runs_on_the_event_loop_that_its_tests_run_on(platform: RunningStack) -> None:
    assert platform.event_loops() == {name: {SHIPPED_LOOP} for name in platform.ops_urls}
